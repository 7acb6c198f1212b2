"""MOUNT_ROOT: the directory below which Fluid's FUSE daemons mount.

    MOUNT_ROOT/TYPE/NAMESPACE/NAME/TYPE-fuse

Some types have a name of their own in the place of the last TYPE: jindo's is jindofs-fuse.
"""

import re
from dataclasses import dataclass

from recover.layout import Dataset

_SOURCE = re.compile(r"[^/]+/(?P<namespace>[^/]+)/(?P<name>[^/]+)/[^/]*-fuse")


@dataclass(frozen=True, slots=True)
class MountRoot:
    """One such directory, a canonical path."""

    root: str

    def dataset(self, source: str) -> Dataset | None:
        """Return the dataset that a path is named after, None where it is not of that form."""
        below = self.root.rstrip("/") + "/"
        found = _SOURCE.fullmatch(source.removeprefix(below)) if source.startswith(below) else None
        if found is None:
            return None
        namespace, name = found["namespace"], found["name"]
        return Dataset(namespace, name, volume_id=f"{namespace}-{name}")
