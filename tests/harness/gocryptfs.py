"""gocryptfs (Go): files are decrypted on the way, so data can only be written through a mount."""

import subprocess
from pathlib import Path

from csi_fluid.testbed import programs

_PUT = """
gocryptfs -q -nosyslog -sharedstorage -passfile "$1" "$2" "$3"
mkdir -p "$(dirname "$3/$4")"
cat >"$3/$4"
umount "$3"
"""


class Gocryptfs:
    """gocryptfs over an encrypted folder."""

    name = "gocryptfs"
    fs_type = "fuse.gocryptfs"
    # Before that its library opens a file on its own mount.  Killed while it does, it waits for its
    # own answer for ever: no signal ends that, and the connection is never closed.
    ready = "Filesystem mounted and ready."

    def __init__(self, folder: Path, *, read_only: bool = True) -> None:
        programs.need(self.name)
        self._folder = folder
        self._cipher = folder / "cipher"
        self._cipher.mkdir()
        self._password = folder / "password"
        self._password.touch(mode=0o600)
        self._password.write_text("secret\n", encoding="utf-8")
        self._read_only = ["-ro"] if read_only else []
        programs.run("gocryptfs", "-q", "-init", "-scryptn=10", *self._pass, self._cipher)

    @property
    def _pass(self) -> tuple[str, str]:
        return "-passfile", str(self._password)

    def command(self, mount_point: Path) -> list[str]:
        """Return the command; sharedstorage, because `put` writes through another mount."""
        options = ["-fg", "-nosyslog", "-allow_other", "-sharedstorage", *self._read_only]
        return ["gocryptfs", *options, *self._pass, str(self._cipher), str(mount_point)]

    def put(self, name: str, data: bytes) -> None:
        """Write through a short-lived mount of the same folder in a mount namespace of its own."""
        plain = self._folder / "plain"
        plain.mkdir(exist_ok=True)
        places = (self._password, self._cipher, plain)
        subprocess.run(
            ["unshare", "--mount", "sh", "-ec", _PUT, "sh", *places, name],
            input=data,
            check=True,
            timeout=20 + len(data) / 2**23,  # 8 MiB/s
        )

    def close(self) -> None:
        """Nothing serves a folder."""
