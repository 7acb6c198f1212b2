"""The node: mount, PID and network namespaces of its own, a link to the machine, and its processes.

One process holds it all. When that is killed the kernel removes every process, mount (dead FUSE
mounts too), interface and route of the node; only its cgroups are left for ``down`` to remove.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.cluster.settings import BIN, FILES, ROOT, Place, cache
from tests.cluster.waiting import ClusterError, wait_for

_HIERARCHIES = Path("/sys/fs/cgroup")
_LINKS = 100


class Node:
    """A node that is up, or the place for one."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._holder = place.folder / "holder"  # pid and start time of unshare, number of the link

    # ---- Up and down

    @property
    def is_up(self) -> bool:
        """Say whether the node runs."""
        return self._read_holder() is not None

    @property
    def number(self) -> int:
        """Return the number that makes this node's addresses differ from those of others."""
        found = self._read_holder()
        if found is None:
            raise ClusterError(f"cluster {self._place.name} is not up: run 'make cluster-up'")
        return found[1]

    @property
    def ip(self) -> str:
        """Return the node's own address, which the machine reaches."""
        return f"192.168.{77 + self.number}.2"

    @property
    def host_ip(self) -> str:
        """Return the machine's address on the link, for servers that pods are to reach."""
        return f"192.168.{77 + self.number}.1"

    @property
    def pod_subnet(self) -> str:
        """Return the network of the pods; the machine has a route to it."""
        return f"10.{88 + self.number}.0.0/24"

    def up(self) -> None:
        """Make the namespaces, the link and the cgroups."""
        for folder in (self._place.logs, self._place.pids):
            folder.mkdir(parents=True)
        ready = self._place.folder / "ready"
        pid = self._hold(ready)
        wait_for(lambda: ready.exists() or _start_time(pid) is None, "the node's root", 30)
        if _start_time(pid) is None:
            raise ClusterError(f"the node did not start: {self.log('node')}")
        init = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        number = _make_link(init)
        self._holder.write_text(f"{pid} {_start_time(pid)} {number} {init}\n")
        self._make_network()
        for hierarchy in _hierarchies():
            (hierarchy / self._place.cgroup).mkdir(exist_ok=True)
        _inherit_cpuset(self._place.cgroup)

    def _hold(self, ready: Path) -> int:
        """Start the process that holds the node; it is no child of ours and outlives us."""
        shared = (ROOT, self._place.folder, cache())
        holder = (
            *("setsid", "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"),
            *("--propagation", "private", "bash", FILES / "node.sh", ready, *shared),
        )
        shell = 'log=$1; shift; "$@" </dev/null >"$log" 2>&1 & echo $!'
        log = self._place.logs / "node.log"
        return int(_run("sh", "-c", shell, "sh", *map(str, (log, *holder))))

    def down(self) -> None:
        """End everything on the node and remove what is left; does nothing when nothing is."""
        found = self._read_holder()
        if found is not None:
            os.kill(found[0], signal.SIGKILL)
            wait_for(lambda: self._read_holder() is None, "the node's end", 20)
            wait_for(
                lambda: not Path(f"/proc/{found[2]}").exists(), "the node's first process's end"
            )
            # The kernel would do it with the namespace; its one worker for that may take minutes.
            _run("ip", "link", "delete", f"csif{found[1]}", check=False)
            wait_for(lambda: not _link_exists(found[1]), "the end of the node's network", 60)
        for hierarchy in _hierarchies():
            _remove_cgroups(hierarchy / self._place.cgroup)
        shutil.rmtree(self._place.folder, ignore_errors=True)

    def _read_holder(self) -> tuple[int, int, int] | None:
        try:
            pid, started, number, init = map(int, self._holder.read_text().split())
        except FileNotFoundError:
            return None
        return (pid, number, init) if _start_time(pid) == started else None

    def _make_network(self) -> None:
        machine = f"csif{self.number}"
        _run("ip", "address", "add", f"{self.host_ip}/24", "dev", machine)
        _run("ip", "link", "set", machine, "up")
        self.enter("ip", "address", "add", f"{self.ip}/24", "dev", "node0")
        self.enter("ip", "link", "set", "node0", "up")
        self.enter("ip", "route", "add", "default", "via", self.host_ip)
        _run("ip", "route", "add", self.pod_subnet, "via", self.ip)

    # ---- Processes

    def command(self, *command: str | Path) -> tuple[str, ...]:
        """Return the command that runs another one on the node."""
        found = self._read_holder()
        if found is None:
            raise ClusterError(f"cluster {self._place.name} is not up: run 'make cluster-up'")
        where = ("nsenter", f"--target={found[2]}", "--mount", "--pid", "--net", "--wdns=/")
        return (*where, "env", f"PATH={BIN}:/usr/sbin:/usr/bin:/sbin:/bin", *map(str, command))

    def enter(
        self,
        *command: str | Path,
        input: str | None = None,  # noqa: A002 -- as in subprocess
        timeout_s: float = 60.0,
        check: bool = True,
    ) -> str:
        """Run a command as root on the node and return what it said on standard output.

        Raises ClusterError, with what it said on standard error, when it fails.
        """
        return _run(*self.command(*command), input=input, timeout_s=timeout_s, check=check)

    def start(
        self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None
    ) -> int:
        """Start a program on the node; its log is added to. Returns its process id there."""
        log = self._place.logs / f"{name}.log"
        variables = [f"{key}={value}" for key, value in (environment or {}).items()]
        shell = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'
        said = self.enter("setsid", "sh", "-c", shell, "sh", log, "env", *variables, *command)
        (self._place.pids / name).write_text(said)
        return int(said)

    def pid(self, name: str) -> int:
        """Return the process id, on the node, of a program that was started."""
        return int((self._place.pids / name).read_text())

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a program; after SIGKILL, return when it has ended."""
        pid = self.pid(name)
        self.enter("kill", f"-{number.value}", str(pid), check=False)
        if number is signal.SIGKILL:
            wait_for(lambda: not self.alive(name), f"the end of {name}")

    def alive(self, name: str) -> bool:
        """Say whether a program that was started runs."""
        state = self.enter("ps", "-o", "stat=", "-p", str(self.pid(name)), check=False)
        return bool(state.strip()) and not state.startswith("Z")

    def log(self, name: str, lines: int = 20) -> str:
        """Return the end of a program's log."""
        with contextlib.suppress(FileNotFoundError):
            text = (self._place.logs / f"{name}.log").read_text("utf-8", "replace")
            return "\n".join(text.splitlines()[-lines:])
        return "(no log)"


def _run(
    *command: str,
    input: str | None = None,  # noqa: A002
    timeout_s: float = 60.0,
    check: bool = True,
) -> str:
    stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            **stdin,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"not done after {timeout_s:g} s: {' '.join(command)}") from error
    if check and done.returncode:
        said = f"{done.stdout}{done.stderr}".strip()
        raise ClusterError(f"status {done.returncode} of '{' '.join(command)}': {said}")
    return str(done.stdout)


def _start_time(pid: int) -> int | None:
    """Return when a process started; None when it has ended. See proc(5), stat field 22."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])


def _make_link(init: int) -> int:
    """Make the pair of interfaces with the first number that is free; making it is the claim."""
    for number in range(_LINKS):
        pair = ("type", "veth", "peer", "name", "node0", "netns", str(init))
        command = ("ip", "link", "add", f"csif{number}", *pair)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        if done.returncode == 0:
            return number
        if "File exists" not in done.stderr:
            raise ClusterError(f"cannot make a network link: {done.stderr.strip()}")
    raise ClusterError(f"{_LINKS} clusters are up already: take some down")


def _link_exists(number: int) -> bool:
    return Path(f"/sys/class/net/csif{number}").exists()


def _hierarchies() -> Iterator[Path]:
    if (_HIERARCHIES / "cgroup.procs").exists():
        yield _HIERARCHIES
        return
    for folder in sorted(_HIERARCHIES.iterdir()):
        if not folder.is_symlink() and (folder / "cgroup.procs").exists():
            yield folder


def _inherit_cpuset(cgroup: str) -> None:
    """Give a new cpuset of cgroup v1 its processors, without which no process may join."""
    top = _HIERARCHIES / "cpuset"
    for name in ("cpuset.cpus", "cpuset.mems"):
        with contextlib.suppress(FileNotFoundError):
            (top / cgroup / name).write_text((top / name).read_text())


def _remove_cgroups(top: Path) -> None:
    folders = [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
    for folder in folders:
        wait_for(lambda folder=folder: _is_removed(folder), f"removal of cgroup {folder}", 10)  # type: ignore[misc]


def _is_removed(cgroup: Path) -> bool:
    try:
        cgroup.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # its last process has not gone yet
        return False
    return True
