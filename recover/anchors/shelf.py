"""Where the node plugin keeps the anchors of a source.

They lie in a private folder of the plugin in kubelet's directory, which the host shares, as
`.csi-fluid/KEY/NUMBER-VARIANT`.  A generation of the daemon has one anchor for each variant of its
volumes, because what is mounted on an anchor reaches everybody with the same flags and the same
part of the source.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from recover.anchors.anchor import FOLDER, Key, key_of
from recover.linux.mounts import Attributes
from recover.rows import Publication


@dataclass(frozen=True, slots=True)
class Variant:
    """What publications that hang off one anchor have in common.

    inner is the part of the source that they show, "" for all of it.
    """

    read_only: bool
    inner: str = ""
    recover_writable: bool = False

    @classmethod
    def of(cls, publication: Publication) -> "Variant":
        """Return the variant that a publication belongs to."""
        p = publication
        return cls(p.read_only, p.sub_path, p.recover_writable and not p.read_only)

    @classmethod
    def named(cls, name: str, inner: str) -> "Variant":
        """Return the variant of a name, which shows a part of the source."""
        return cls(name.startswith("ro"), inner, name.startswith("rw-recover"))

    @property
    def name(self) -> str:
        """Return what names it in a path."""
        kind = "ro" if self.read_only else "rw-recover" if self.recover_writable else "rw"
        return f"{kind}-{_digest(self.inner)}" if self.inner else kind

    @property
    def attributes(self) -> Attributes:
        """Return those of its anchors: in a peer group of their own, with the source's flags."""
        flags = frozenset({"ro"} if self.read_only else ())
        return Attributes(flags, "shared", keep=True)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the anchors of one source lie; root is the plugin's own folder."""

    root: Path
    source: str

    @property
    def folder(self) -> Path:
        """Return the folder of this source."""
        return self.root / FOLDER / _digest(self.source)

    def path(self, number: int, variant: Variant) -> str:
        """Return where an anchor lies, or is to lie."""
        return str(self.folder / f"{number}-{variant.name}")

    def places(self) -> dict[Key, str]:
        """Return the paths that were made for anchors, mounted or not."""
        try:
            places = list(self.folder.iterdir())
        except FileNotFoundError:
            return {}
        return {key: str(place) for place in places if (key := key_of(place.name))}

    def remove(self) -> None:
        """Remove the folder if nothing is in it."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
