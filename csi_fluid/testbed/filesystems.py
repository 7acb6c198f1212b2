"""The FUSE file systems of the test bed: what to run, where data goes.

None of them is ours but tinyfs, for `csi-fluid trial`.  bindfs shows a folder; s3fs and rclone show
a bucket, as the daemons of an object store do.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from csi_fluid.testbed import programs
from csi_fluid.testbed.objectstore import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectStore


class Filesystem(Protocol):
    """A program that serves a FUSE mount in the foreground, and the data behind it.

    ready is what it writes when it is done with mounting; "" where the first answer is enough.
    """

    name: str
    ready: str

    @property
    def fs_type(self) -> str:
        """Return the file system type that the mount table shows."""

    def command(self, mount_point: Path) -> list[str]:
        """Return the command that mounts at mount_point and stays in the foreground."""

    def put(self, name: str, data: bytes) -> None:
        """Create or replace a file behind the mount."""

    def close(self) -> None:
        """End what serves the data."""


class Bindfs:
    """bindfs over a folder (libfuse 3)."""

    name = "bindfs"
    fs_type = "fuse"
    ready = ""

    def __init__(self, folder: Path, *, read_only: bool = True) -> None:
        programs.need(self.name)
        self._data = folder / "data"
        self._data.mkdir(exist_ok=True)
        self._options = ["-r"] if read_only else []

    def command(self, mount_point: Path) -> list[str]:
        """Return the command; run by root, bindfs lets other users in by itself."""
        return ["bindfs", "-f", *self._options, str(self._data), str(mount_point)]

    def put(self, name: str, data: bytes) -> None:
        """Write into the folder."""
        (self._data / name).parent.mkdir(parents=True, exist_ok=True)
        (self._data / name).write_bytes(data)

    def close(self) -> None:
        """Nothing serves a folder."""


class TinyFs:
    """Our own smallest one over a flat folder, for where no other is installed; read-only."""

    name = "tinyfs"
    fs_type = "fuse"
    ready = ""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._data.mkdir(exist_ok=True)

    def command(self, mount_point: Path) -> list[str]:
        """Return the command."""
        module = (sys.executable, "-m", "csi_fluid.testbed.tinyfs")
        return [*module, str(self._data), str(mount_point)]

    def put(self, name: str, data: bytes) -> None:
        """Write into the folder."""
        (self._data / name).write_bytes(data)

    def close(self) -> None:
        """Nothing serves a folder."""


class _Bucket:
    """What the daemons of an object store share."""

    name = ""
    ready = ""

    def __init__(self, folder: Path, *, read_only: bool = True) -> None:
        programs.need(self.name)
        self._folder = folder
        self._read_only = read_only
        self._store = ObjectStore(folder)
        self.put = self._store.put
        self.close = self._store.close

    def _secret(self, name: str, text: str) -> str:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        return str(path)


class S3fs(_Bucket):
    """s3fs over a bucket (libfuse 2, C++)."""

    name = "s3fs"
    fs_type = "fuse.s3fs"

    def command(self, mount_point: Path) -> list[str]:
        """Return the command; the umask makes objects readable as those of an OSS bucket are."""
        secret = self._secret("s3fs.passwd", f"{ACCESS_KEY}:{SECRET_KEY}\n")
        options = [
            f"url={self._store.url}",
            f"passwd_file={secret}",
            "use_path_request_style",
            "allow_other",
            "umask=0022",
            "ro" if self._read_only else "rw",
        ]
        return ["s3fs", BUCKET, str(mount_point), "-f", "-o", ",".join(options)]


class Rclone(_Bucket):
    """rclone over a bucket (Go)."""

    name = "rclone"
    fs_type = "fuse.rclone"

    def command(self, mount_point: Path) -> list[str]:
        """Return the command; directories are asked anew after a second, as data may change."""
        options = ["type = s3", "provider = Other", f"endpoint = {self._store.url}"]
        options += [f"access_key_id = {ACCESS_KEY}", f"secret_access_key = {SECRET_KEY}"]
        config = self._secret("rclone.conf", "\n".join(["[demo]", *options, ""]))
        read_only = ["--read-only"] if self._read_only else []
        options = ["--allow-other", "--dir-cache-time=1s", *read_only]
        return [
            "rclone",
            f"--config={config}",
            "mount",
            f"demo:{BUCKET}",
            str(mount_point),
            *options,
        ]


FILESYSTEMS: Mapping[str, Callable[[Path], Filesystem]] = {
    each.name: each for each in (Bindfs, S3fs, Rclone)
}
"""Those that the demonstration has, by name."""
