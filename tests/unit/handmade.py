"""Mounts, copies and rows made by hand, as the pure modules of recovery take them."""

from recover.detect import Copy
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.namespaces import Namespace
from recover.rows import Generation, Publication

HOME, POD, OTHER_POD = Namespace(100, 1), Namespace(200, 22), Namespace(300, 33)
SOURCE = "/runtime-mnt/x/ns/demo/x-fuse"
DEAD, OLDER, LIVE, FOREIGN = "0:50", "0:51", "0:60", "0:70"


def mount(
    number: int = 5,
    path: str = "/t",
    dev: str = DEAD,
    *,
    on: int = 1,
    root: str = "/",
    options: str = "ro,relatime",
    shared: int = 0,
    master: int = 0,
    fs_type: str = "fuse.x",
    source: str = "x",
) -> Mount:
    """Return a mount; on is the id of the one that it stands on, 1 the root of a `table`."""
    flags = frozenset(options.split(","))
    return Mount(number, on, dev, root, path, flags, shared, master, fs_type, source)


def table(*mounts: Mount) -> MountTable:
    """Return a table of these mounts and a root."""
    return MountTable((mount(1, "/", "8:1", on=0, options="rw", fs_type="ext4"), *mounts))


def copy(
    *stack: Mount, at: Namespace = HOME, path: str = "/t", inside: tuple[Mount, ...] = ()
) -> Copy:
    """Return a copy of these layers, a dead one if there are none, all at one path."""
    layers = (layer._replace(mount_point=path) for layer in stack or (mount(),))
    return Copy(at, tuple(layers), inside)


def generation(
    dev: str = DEAD,
    *,
    source: str = SOURCE,
    root: str = "/",
    fs_type: str = "fuse.x",
    dead_at: float | None = 2.0,
    number: int = 0,
) -> Generation:
    """Return a generation that is recorded as dead."""
    return Generation(source, dev, root, fs_type, "x", "boot", 1.0, dead_at, number)


def publication(
    target: str = "/t",
    sub_path: str = "",
    *,
    source: str = SOURCE,
    read_only: bool = True,
    opted_in: bool = False,
    since: int = 1,
) -> Publication:
    """Return a bind that was published during a generation."""
    return Publication(
        target,
        "v",
        source,
        sub_path,
        read_only=read_only,
        recover_writable=opted_in,
        generation=since,
    )


WRITABLE = publication(read_only=False)
OPTED_IN = publication(read_only=False, opted_in=True)
