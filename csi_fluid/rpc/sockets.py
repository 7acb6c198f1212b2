"""Where a server listens, and unix sockets that others may have left there, or still serve."""

import contextlib
import errno
import os
import socket
import stat
import struct
import tempfile
from pathlib import Path

import grpc.aio

from csi_fluid.errors import EndpointInUse

_CONNECT_S = 1.0
_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid


async def offer(server: grpc.aio.Server, path: Path) -> "Place":
    """Serve at a path as root alone, in place of what stands there; raises OSError.

    The socket is made in a folder that nobody else can enter, narrowed, and then moved: the umask
    of the process stays, who connects is answered, and gRPC, which removes at its end whatever
    stands where it began to listen, finds nothing there.
    """
    # mkdtemp(3) makes it for its owner alone
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        made = Path(folder, "s")
        listen(server, f"unix:{made}")
        await server.start()
        made.chmod(0o600)
        place = Place(made)
        place.move(path)
    return place


def listen(server: grpc.aio.Server, address: str) -> None:
    """Listen at an address of gRPC's; raises EndpointInUse."""
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise EndpointInUse(
            errno.EADDRINUSE, f"cannot listen at {address}: {error}; choose another endpoint"
        ) from error


class Place:
    """A socket that we made at a path, as long as it is ours."""

    def __init__(self, path: Path) -> None:
        """Take the path at which our socket stands now."""
        self.path = path
        self._made = _identity(path)

    @property
    def is_ours(self) -> bool:
        """Tell whether our socket still stands there."""
        return self._made is not None and self._made == _identity(self.path)

    def move(self, to: Path) -> None:
        """Rename it, in place of whatever stands there."""
        self.path.replace(to)
        self.path = to

    def remove(self) -> None:
        """Remove it unless somebody put something else in its place."""
        if self.is_ours:
            self.path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def check_free(path: Path, otherwise: str) -> bool:
    """Tell whether a socket that nobody listens on stands at a path; False if nothing does.

    A process whose main thread has ended counts as nobody: it was killed, and only a thread that
    waits for a FUSE daemon keeps its descriptors (`recover.linux.probehelper`).
    Raises EndpointInUse where somebody listens, or where something else than a socket stands;
    otherwise is what a person can do instead of making room.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise EndpointInUse(errno.EADDRINUSE, f"{path} is not a socket; remove it or {otherwise}")
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        if _is_dead(_listener(probe)):
            return True
    raise EndpointInUse(
        errno.EADDRINUSE, f"another process serves at {path}; stop it or {otherwise}"
    )


def _listener(connected: socket.socket) -> int:
    """Return the process that listens at the other end; 0 if we do not see it: unix(7)."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[0])


def _is_dead(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "Z"
