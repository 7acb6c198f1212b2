"""What can go wrong in serving a volume.

    Error
    ├── InvalidArgument   a request breaks the rules; nothing was touched      (also a ValueError)
    ├── NotFound          the volume, or its place, is not known here          (also a LookupError)
    ├── Conflict          something else is published, or created, under this name
    ├── Occupied          a target holds files, or a mount, that are not ours to remove
    ├── InUse             a volume still has publications on this node
    ├── Unseen            no pod would see what is published at a target
    ├── NotReady          the FUSE mount behind a volume cannot be used yet
    ├── Overloaded        as many calls wait as may
    ├── Unavailable       the API server cannot be asked, refuses, or answers nonsense
    ├── Withdrawn         an unpublish, or its caller, ended a publish that was waiting
    └── EndpointInUse     the server cannot listen where it should             (also an OSError)

Each message names the object, the fact and the next step; rpc.status makes gRPC codes of them.
The kernel's refusals stay OSError, and those of `recover` stay what they are.
"""


class Error(Exception):
    """The base of this package's errors."""


class InvalidArgument(Error, ValueError):
    """A field of a request is missing or breaks a rule."""


class NotFound(Error, LookupError):
    """Nothing is known of a volume, or it is not at the path given."""


class Conflict(Error):
    """The name or target is taken by something that is not the same."""


class Occupied(Error):
    """What stands at a target is not ours to remove."""


class InUse(Error):
    """A volume is still published on this node."""


class Unseen(Error):
    """A target is not in kubelet's directory as the node has it."""


class NotReady(Error):
    """The FUSE mount behind a volume cannot be used now; a later try may succeed.

    reason is one word for machines: FuseNotMounted, FuseNotConnected, FuseFailing, FuseHung,
    FuseNoDirectory or SubPathMissing.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Overloaded(Error):
    """As many calls wait for FUSE mounts as may."""


class Unavailable(Error):
    """The API server gave no answer that can be used; a later try may.

    status is the HTTP status of a refusal, 0 where there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Withdrawn(Error):
    """A publish was waiting when its target was unpublished, or when its caller gave up."""


class EndpointInUse(Error, OSError):
    """Another process, or another kind of file, is where the server should listen."""
