"""What can go wrong in the test bed: one error, whose message says the next step."""

from csi_fluid import errors


class BedError(errors.Error):
    """Something in the test bed could not be started, or did not do what it is for."""
