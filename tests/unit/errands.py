"""What the tests of helpers have done in the other process, which finds it by its name."""

import os
from pathlib import Path


def fail(number: int) -> None:
    """Raise an error as a FUSE daemon may answer it."""
    raise OSError(number, os.strerror(number))


def open_in(folder: int, name: str) -> int:
    """Open a file in a folder."""
    return os.open(name, os.O_RDONLY, dir_fd=folder)


def descriptors(of: str = "thread-self") -> list[str]:
    """Return what is open, but for what this opens itself."""
    folder = Path("/proc", of, "fd")
    links = (os.readlink(folder / name) for name in os.listdir(folder) if (folder / name).exists())
    return sorted(link.partition(":")[0] for link in links)


def read(path: str) -> bytes:
    """Read a file to its end, which for a FIFO is that of its writers."""
    return Path(path).read_bytes()
