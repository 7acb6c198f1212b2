"""The rows of the state file as values, apart from the file, for whoever does without SQLite."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Method(enum.StrEnum):
    """How a volume is shown at its target."""

    BIND = "bind"
    SYMLINK = "symlink"
    SIDECAR = "sidecar"  # not published by us, see `sidecars`: the target is the source


@dataclass(frozen=True, slots=True)
class Publication:
    """What was mounted, where, from what and how; the target is the key.

    target and source are canonical absolute paths, sub_path lies below source and has no leading
    slash, published_at is in Unix seconds.  adopted tells that another plugin, or an earlier life
    of this one, had made the mount.  generation is the number of the newest generation of the
    source when it was published, 0 if unknown.
    """

    target: str
    volume_id: str
    source: str
    sub_path: str = ""
    mount_type: str = ""
    method: Method = Method.BIND
    read_only: bool = True
    recover_writable: bool = False
    runtime_namespace: str = ""
    runtime_name: str = ""
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    published_at: float = 0.0
    adopted: bool = False
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """One life of the daemon of a source; source and dev ("major:minor") are the key.

    root is what the source's mount shows of the superblock.  A device number means nothing after a
    reboot (boot_id) or once the superblock is gone.  Times are in Unix seconds.  number counts the
    generations of a source and names its anchors, 0 where it has none.
    """

    source: str
    dev: str
    root: str
    fs_type: str
    mount_source: str
    boot_id: str
    seen_at: float
    dead_at: float | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Heal:
    """One heal of a source: copies found, copies healed, layers left at most."""

    source: str
    at: float
    strategy: str
    ok: bool
    copies: int
    healed: int
    layers: int
    latency_s: float
    outage_s: float | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Volume:
    """A static volume of the controller service."""

    volume_id: str
    name: str
    parameters: Mapping[str, str]
    capacity_bytes: int
