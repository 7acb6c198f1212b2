"""One FUSE daemon: started, killed, started again, in this mount namespace.

How the new mount meets the dead one is the caller's choice.  The usual way is to unmount the dead
one first, because libfuse and fusermount refuse a mount point that does not answer.  A daemon that
stacks its mount on the dead one looks to the kernel like a bind from an aside place, which works
for all of them.
"""

import os
import select
import signal
import subprocess
import time
from pathlib import Path

from csi_fluid.testbed import programs
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.filesystems import Filesystem
from csi_fluid.testbed.waiting import PACE, pause
from recover.linux import mountinfo
from recover.linux.probe import Prober

_DEADLY = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV})


class Daemon:
    """The process that serves one file system at one mount point; not for several threads at once.

    folder takes the log and the aside place; it should not be below the mount point's own tree.
    """

    def __init__(self, filesystem: Filesystem, mount_point: Path, folder: Path) -> None:
        self.filesystem = filesystem
        self.mount_point = mount_point
        self.answered_at = 0.0  # monotonic seconds, when the last start was seen to answer
        self._aside = folder / f"{filesystem.name}-aside"
        self._log = folder / f"{filesystem.name}.log"
        self._folder = folder
        self._prober = Prober(timeout_s=PACE * 2.0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Tell whether the process runs (a stopped one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the process id of the running daemon, or of the last one."""
        assert self._process is not None, "never started"
        return self._process.pid

    def start(self, *, stack: bool = False, timeout_s: float = 20.0) -> None:
        """Mount and return when the mount answers; raises BedError with the daemon's last words.

        What stands at the mount point is unmounted first, or with stack kept below the new mount.
        """
        assert not self.alive, f"{self.filesystem.name} runs already"
        end = time.monotonic() + PACE * timeout_s
        if stack:
            self._aside.mkdir(exist_ok=True)
            self._spawn(self._aside, end)
            programs.run("mount", "--bind", self._aside, self.mount_point)
            programs.run("umount", "-l", self._aside)
        else:
            self._unmount()
            self.mount_point.mkdir(parents=True, exist_ok=True)
            self._spawn(self.mount_point, end)
        self.answered_at = time.monotonic()

    def restart(self, delay_s: float = 0.0, *, stack: bool = False) -> None:
        """Start again after a delay, as kubelet does with a container that ended."""
        pause(delay_s)
        self.start(stack=stack)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; after one that ends a daemon, return when it has ended."""
        assert self._process is not None, "never started"
        self._process.send_signal(number)
        if number in _DEADLY:
            self._process.wait(10)

    def close(self) -> None:
        """End the daemon and what serves its data, and unmount."""
        if self._process is not None:
            programs.stop(self._process)
        self._unmount()
        self.filesystem.close()

    def _spawn(self, place: Path, end: float) -> None:
        before = set(mountinfo.read())  # whole, because ids are given away again
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.filesystem.command(place),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=programs.environment(self._folder),
                start_new_session=True,
            )
        try:
            self._await_mount(str(place), before, end)
            self._await_answer(str(place), end)
        except BedError:
            programs.stop(self._process)
            raise

    def _await_mount(self, place: str, before: set[mountinfo.Mount], end: float) -> None:
        with Path("/proc/self/mountinfo").open("rb") as table:
            pidfd = os.pidfd_open(self.pid)
            poller = select.poll()
            poller.register(table, select.POLLPRI)
            poller.register(pidfd, select.POLLIN)
            try:
                while (mount := mountinfo.read().at(place)) is None or mount in before:
                    self._check(end, "mounted nothing")
                    poller.poll(1000 * (end - time.monotonic()))
            finally:
                os.close(pidfd)

    def _await_answer(self, place: str, end: float) -> None:
        while not (reply := self._prober.ask(place)).alive:
            self._check(end, f"mounted, but the mount {reply.answer.value}")
            pause(0.005)
        while self.filesystem.ready not in self._log.read_text("utf-8", "replace"):
            self._check(end, "never said that it is ready")
            pause(0.005)

    def _check(self, end: float, state: str) -> None:
        name, words = self.filesystem.name, programs.last_words(self._log)
        if not self.alive:
            raise BedError(f"{name} ended with status {self._status}: {words}")
        if time.monotonic() > end:
            raise BedError(f"{name} {state} in time: {words}")

    @property
    def _status(self) -> int | None:
        return self._process.returncode if self._process is not None else None

    def _unmount(self) -> None:
        while (top := mountinfo.read().at(str(self.mount_point))) is not None:
            try:
                programs.run("umount", "-l", self.mount_point)
            except BedError:
                if mountinfo.read().at(str(self.mount_point)) == top:
                    raise  # else the plugin, which clears a held mount away, was quicker
