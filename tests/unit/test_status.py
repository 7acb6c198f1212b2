"""Every error has a status code, a message and a next step."""

import grpc
import pytest

from csi_fluid import errors
from csi_fluid.rpc import status
from recover import errors as recovery

CODES = {
    errors.InvalidArgument("x"): grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound("x"): grpc.StatusCode.NOT_FOUND,
    errors.Conflict("x"): grpc.StatusCode.ALREADY_EXISTS,
    errors.Occupied("x"): grpc.StatusCode.FAILED_PRECONDITION,
    errors.InUse("x"): grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unseen("x"): grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotReady("FuseHung", "x"): grpc.StatusCode.UNAVAILABLE,
    errors.Unavailable("x"): grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded("x"): grpc.StatusCode.UNAVAILABLE,
    errors.Withdrawn("x"): grpc.StatusCode.ABORTED,
    recovery.Unanswered("/x", 3): grpc.StatusCode.UNAVAILABLE,
    recovery.Crowded(64): grpc.StatusCode.UNAVAILABLE,
    recovery.Busy("/x"): grpc.StatusCode.ABORTED,
    recovery.Covered("x"): grpc.StatusCode.ABORTED,
    recovery.Unverified("x"): grpc.StatusCode.INTERNAL,
    NotImplementedError("x"): grpc.StatusCode.UNIMPLEMENTED,
    OSError(28, "No space left on device", "/x"): grpc.StatusCode.INTERNAL,
    ValueError(): grpc.StatusCode.INTERNAL,
}


@pytest.mark.parametrize(("error", "code"), CODES.items(), ids=lambda value: type(value).__name__)
def test_each_error_has_its_code_and_a_message(error: Exception, code: grpc.StatusCode):
    assert status.code_of(error) is code
    assert status.message_of(error)
    assert status.is_unexpected(error) is (code is grpc.StatusCode.INTERNAL)


def test_every_error_of_a_volume_is_in_the_table():
    """But for those of starting, which no call meets."""
    kinds = {kind for kind in errors.Error.__subclasses__() if kind.__module__ == errors.__name__}
    kinds -= {errors.EndpointInUse}

    assert kinds <= {type(error) for error in CODES}


def test_what_does_not_name_a_next_step_gets_one():
    assert "; try again" in status.message_of(recovery.Busy("/x"))
    assert "FUSE pod" in status.message_of(recovery.Unanswered("/x", 3))
    assert status.message_of(KeyError()).startswith("KeyError; the plugin's log has")


def test_a_message_fits_a_header():
    assert len(status.message_of(errors.NotFound("x" * 5_000))) < 1_100
