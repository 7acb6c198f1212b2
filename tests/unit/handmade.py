"""Mounts, copies and rows made by hand, as the pure modules of recovery take them."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from recover.anchors.anchor import Anchor
from recover.anchors.plan import Case
from recover.anchors.shelf import Shelf, Variant
from recover.detect import Copy
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.namespaces import Namespace
from recover.rows import Generation, Publication

HOME, POD, OTHER_POD = Namespace(100, 1), Namespace(200, 22), Namespace(300, 33)
SOURCE = "/runtime-mnt/x/ns/demo/x-fuse"
DEAD, OLDER, LIVE, FOREIGN = "0:50", "0:51", "0:60", "0:70"
SHELF = Shelf(Path("/plugin"), SOURCE)
NUMBER = 3  # of the live generation
RO, RW, RW_RECOVER = Variant(True), Variant(False), Variant(False, recover_writable=True)


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


def anchor(*devs: str, number: int = 1, variant: Variant = RO, shared: int = 0) -> Anchor:
    """Return an anchor with layers of these superblocks, the lowest in a peer group."""
    path = SHELF.path(number, variant)
    options = "ro,relatime" if variant.read_only else "rw,relatime"
    stack = tuple(
        mount(
            100 * number + layer,
            path,
            dev,
            on=100 * number + layer - 1 if layer else 1,
            root=f"/{variant.inner}",
            options=options,
            shared=0 if layer else shared,
        )
        for layer, dev in enumerate(devs)
    )
    return Anchor(path, number, variant.name, stack)


def node_case(
    *strays: Copy, publications: tuple[Publication, ...] = (publication(),), **changes: Any
) -> Case:
    """Return what is known of a node on which the source is back; changes are fields."""
    known: dict[str, Any] = {
        "shelf": SHELF,
        "home": HOME,
        "publications": publications,
        "generations": (generation(DEAD, number=2), generation(OLDER, number=1)),
        "dead": frozenset({DEAD, OLDER}),
        "live": LIVE,
        "number": NUMBER,
        "strays": strays,
    }
    return Case(**known | changes)


WRITABLE = publication(read_only=False)
OPTED_IN = publication(read_only=False, opted_in=True)

# For any case

ROOTS = st.sampled_from(["/", "/a", "/a/b"])
OPTIONS = st.sampled_from(
    [
        "ro,relatime",
        "rw,relatime",
        "rw,nosuid,nodev,noatime",
        "ro,nosuid,noexec,relatime",
        "rw,nodiratime,nosymfollow",
        "ro,noatime,mand",
    ]
)
KEPT_OPTIONS = frozenset(
    ["ro", "nosuid", "nodev", "noexec", "nodiratime", "nosymfollow", "relatime", "noatime"]
)


@st.composite
def publications(draw: st.DrawFn, *targets: str) -> tuple[Publication, ...]:
    """Return publications at some of these targets."""
    chosen = draw(st.lists(st.sampled_from(targets), unique=True))
    return tuple(
        publication(
            target,
            draw(st.sampled_from(["", "a"])),
            read_only=draw(st.booleans()),
            opted_in=draw(st.booleans()),
            since=draw(st.integers(0, NUMBER)),
        )
        for target in chosen
    )
