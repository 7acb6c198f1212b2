"""What the tests of adoption share: the mount table of a node, and a look at it."""

from collections.abc import Mapping

from csi_fluid import driver, kubelet
from csi_fluid.kubelet import Kubelet
from csi_fluid.mountroot import MountRoot
from recover import adopt
from recover.adopt import Found
from recover.layout import Layout
from recover.linux import mountinfo
from recover.linux.mountinfo import MountTable
from recover.store import Store

KUBELET = "/var/lib/kubelet"
MOUNT_ROOT = "/runtime-mnt"
SOURCE = f"{MOUNT_ROOT}/juicefs/default/demo/juicefs-fuse"

BASE = [
    "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw",
    "20 1 0:20 / /proc rw - proc proc rw",
]


def target(pv: str = "default-demo", pod: str = "u1", root: str = KUBELET) -> str:
    return f"{root}/pods/{pod}/volumes/kubernetes.io~csi/{pv}/mount"


def line(
    number: int,
    place: str,
    *,
    on: int = 1,
    dev: str = "0:55",
    root: str = "/",
    options: str = "rw,relatime",
    peers: str = "shared:78 master:77",
    kind: str = "fuse.juicefs JuiceFS:demo",
    superblock: str = "rw,user_id=0,group_id=0,allow_other",
) -> str:
    point = place.replace(" ", "\\040").replace("\n", "\\012")
    return f"{number} {on} {dev} {root} {point} {options} {peers} - {kind} {superblock}"


def table(*lines: str) -> MountTable:
    return mountinfo.parse("\n".join([*BASE, *lines]).encode())


def vol_data(handle: str = "default-demo", name: str = driver.NAME) -> dict[str, object]:
    """Return what adoption needs of kubelet's note."""
    return {"driverName": name, "volumeHandle": handle}


def layout(
    read: kubelet.Reader = lambda _: {}, kubelet_root: str = KUBELET, mount_root: str = MOUNT_ROOT
) -> Layout:
    return Layout(Kubelet(kubelet_root, read=read), MountRoot(mount_root))


def find(
    mounts: MountTable,
    store: Store | None = None,
    *,
    data: Mapping[str, object] | None = None,
    kubelet_root: str = KUBELET,
    mount_root: str = MOUNT_ROOT,
) -> Found:
    """Look with the same vol_data.json beside every target, by default one of default-demo."""
    content = vol_data() if data is None else data
    places = layout(lambda _: content, kubelet_root, mount_root)
    return adopt.find(mounts, store or Store(), places)


def sources(found: Found) -> dict[str, tuple[str, str]]:
    return {row.target: (row.source, row.sub_path) for row in found.publications}


GLOBAL = line(30, SOURCE, peers="shared:77")
# Mounts of another generation than the target's, whose own global mount is gone.
NEW = line(30, SOURCE, dev="0:60", peers="shared:90")
ORPHAN = line(31, target(), dev="0:55", root="/sub")
