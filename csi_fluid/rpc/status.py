"""Which gRPC status an error becomes: one table, walked with isinstance, the first match wins.

A message is never empty and short enough for a header; status details stay empty, as CSI wants.
"""

import grpc

from csi_fluid import errors
from recover import errors as recovery
from recover.linux import confinement

_MAX_MESSAGE = 1_000

_TABLE: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.Conflict, grpc.StatusCode.ALREADY_EXISTS),
    (errors.Occupied, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.InUse, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Unseen, grpc.StatusCode.FAILED_PRECONDITION),
    # kubelet takes these for "not yet": it keeps the target's folder and tries again.
    (errors.NotReady, grpc.StatusCode.UNAVAILABLE),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.Overloaded, grpc.StatusCode.UNAVAILABLE),
    (recovery.Unanswered, grpc.StatusCode.UNAVAILABLE),
    (recovery.Crowded, grpc.StatusCode.UNAVAILABLE),
    (recovery.Unstarted, grpc.StatusCode.UNAVAILABLE),
    (errors.Withdrawn, grpc.StatusCode.ABORTED),
    (recovery.Busy, grpc.StatusCode.ABORTED),
    (recovery.Covered, grpc.StatusCode.ABORTED),
    (NotImplementedError, grpc.StatusCode.UNIMPLEMENTED),
    (Exception, grpc.StatusCode.INTERNAL),
)
_NEXT_STEPS: tuple[tuple[type[BaseException], str], ...] = (
    (recovery.Unanswered, "look at the FUSE pod of this dataset on this node"),
    (recovery.Crowded, "look for FUSE pods on this node that do not answer"),
    (recovery.Busy, "try again when it has ended"),
    (recovery.Error, "try again; the plugin's log has more"),
    (NotImplementedError, "see NodeGetCapabilities for what is offered"),
)
_LAST_STEP = "the plugin's log has the traceback; please report it if the node is well"


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the status code of an error."""
    return next(code for kind, code in _TABLE if isinstance(error, kind))


def is_unexpected(error: BaseException) -> bool:
    """Tell whether an error is none that was foreseen, and so worth a traceback."""
    return code_of(error) is grpc.StatusCode.INTERNAL


def message_of(error: BaseException) -> str:
    """Return the message of an error: object, fact and next step."""
    text = str(error) or type(error).__name__
    if not isinstance(error, errors.Error):  # those say the next step themselves
        steps = (step for kind, step in _NEXT_STEPS if isinstance(error, kind))
        text = f"{text}; {confinement.hint(error) or next(steps, _LAST_STEP)}"
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."
