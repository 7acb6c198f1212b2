"""What can go wrong in recovery.

    Error
    ├── Unanswered     a FUSE path did not answer in time       (also a TimeoutError)
    ├── Crowded        too many probes were abandoned already     (also a TimeoutError)
    ├── Unstarted      the process that probes cannot be had
    ├── Busy           somebody else holds the lock of this key
    ├── Covered        another mount stands where ours should be touched
    ├── Unverified     the swap was done but the new mount did not answer through it
    └── StateError     the state file cannot be used

The kernel's own refusals stay plain OSError, with errno and path.
"""


class Error(Exception):
    """The base of this package's errors."""


class Unanswered(Error, TimeoutError):
    """A FUSE path did not answer in time; its daemon may be stopped or its storage out of reach."""

    def __init__(self, what: object, timeout_s: float) -> None:
        super().__init__(f"{what} did not answer within {timeout_s:g} s")
        self.what = what
        self.timeout_s = timeout_s


class Crowded(Error, TimeoutError):
    """So many calls wait on hung FUSE paths that no new one is started."""

    def __init__(self, abandoned: int) -> None:
        super().__init__(f"{abandoned} probes of hung FUSE paths still wait; not starting more")
        self.abandoned = abandoned


class Unstarted(Error):
    """The process that is to make a call that may hang cannot be started, or ends at once."""

    def __init__(self, command: str) -> None:
        super().__init__(
            f"`{command}`, which asks the FUSE daemons, does not run: is memory missing, "
            "a process number, or a file of the installation?"
        )


class Busy(Error):
    """Another operation holds the lock of this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"another operation on {key} is under way")
        self.key = key


class Covered(Error):
    """What detection saw at a path is not what stands there now."""


class Unverified(Error):
    """A mount was replaced, but a forced look through the path failed."""


class StateError(Error):
    """The state file is corrupt, unwritable or of a newer version."""
