"""Unix sockets that others may have left at our path, or still serve."""

import contextlib
import errno
import socket
import stat
from pathlib import Path

from csi_fluid.errors import EndpointInUse

_CONNECT_S = 1.0


def check_free(path: Path, otherwise: str) -> bool:
    """Tell whether a socket that nobody listens on stands at a path; False if nothing does.

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
    raise EndpointInUse(
        errno.EADDRINUSE, f"another process serves at {path}; stop it or {otherwise}"
    )
