"""What both stories share: the files, the pod that sees the crash, and what it cost the pod."""

from collections.abc import Sequence

from csi_fluid.demo import watchers
from csi_fluid.demo.screen import Screen, duration
from csi_fluid.demo.watchers import Listing, Outage, Reader
from csi_fluid.testbed.pods import PYTHON, Container, Image, VolumeMount
from csi_fluid.testbed.waiting import until
from recover.linux import mountinfo

FILES = {
    "config.json": b'{"model": "demo"}\n',
    "model-00001.safetensors": bytes(48 * 1024),
    "model-00002.safetensors": bytes(32 * 1024),
}
LATER = "model-00003.safetensors"  # put behind the mount while no daemon runs
LATER_DATA = bytes(16 * 1024)
_HEAL_TIMEOUT_S = 10.0


class Witness:
    """A pod with the files at /data: one container lists them, one reads at a finer grain."""

    def __init__(
        self, image: Image, main: Sequence[VolumeMount], side: Sequence[VolumeMount], screen: Screen
    ) -> None:
        """Start both containers; what the first one lists is shown on the screen."""
        file = f"/data/{next(iter(FILES))}"
        self._containers = (
            Container(image, "main", main, watchers.LISTING).ready(),
            Container(image, "side", side, watchers.reading(PYTHON, file)).ready(),
        )
        self._listing = Listing(self._containers[0], screen.pod)
        self._reader = Reader(self._containers[1])

    def await_first_listings(self) -> None:
        """Wait until both containers have seen the files; raises TimeoutError."""
        until(lambda: self._listing.listed >= 2 and self._reader.reads, "the pod's first listings")

    def await_reading(self) -> None:
        """Wait until the files can be read again; raises TimeoutError."""
        until(lambda: self._reader.reads, "the pod to read again", timeout_s=_HEAL_TIMEOUT_S)

    def await_later(self) -> None:
        """Wait until the pod lists what was put there meanwhile; raises TimeoutError."""
        until(lambda: LATER in self._listing.names, f"the pod to list {LATER}, too")

    def await_listing(self) -> None:
        """Wait for one more listing; raises TimeoutError."""
        seen = self._listing.listed
        until(lambda: self._listing.listed > seen, "one more listing")

    @property
    def layers(self) -> int:
        """Return how many mounts are on top of each other at /data, in the container with more."""
        return max(len(mountinfo.read(c.pid).stack("/data")) for c in self._containers)

    def rows(self, who: str, answered_at: float, healed_s: float) -> dict[str, tuple[str, str]]:
        """Return what the crash cost, for `Screen.table`.

        who was gone, until its new mount answered in monotonic seconds; healed_s is the heal's own
        account.
        """
        outage = self._outage
        bare = (
            "an empty directory showed" if "ENOENT" in outage.errors else "never an empty directory"
        )
        return {
            "outage in the pod": (
                duration(outage.end - outage.begin),
                f"of that, {who} was gone for {duration(answered_at - outage.begin)}",
            ),
            "healed after": (duration(healed_s), "from the new mount's answer to the last check"),
            "pod reads after": (
                duration(max(0.0, outage.end - answered_at)),
                "the same, as a loop in the pod saw it",
            ),
            "errors in the pod": (", ".join(sorted(outage.errors)), bare),
        }

    @property
    def _outage(self) -> Outage:
        outage = self._reader.outage()
        assert outage is not None, "the reader saw no outage"
        return outage
