"""What can go wrong in the demonstration: one error, whose message says the next step."""

from csi_fluid import errors


class DemoError(errors.Error):
    """A part of the demonstration could not be started, or did not do what it should show."""
