"""Which mounts are anchors, and what their names say."""

from pathlib import Path

import pytest

from recover.anchors import anchor
from tests.unit.handmade import DEAD, LIVE, OLDER, mount, table

FOLDER = Path("/jfs/.csi-fluid/demo-app/fuse")


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        (f"{FOLDER}/1", True),
        ("/var/lib/kubelet/plugins/x/.csi-fluid/0123456789abcdef/7-rw", True),
        ("/runtime-mnt/jindo/a/b/.csi-fluid/other/fuse/7", True),
        ("/jfs/fuse", False),
        ("/data/csi-fluid/x", False),
    ],
)
def test_an_anchor_is_known_by_its_path_in_any_namespace(path: str, is_one: bool):
    assert anchor.is_anchor(path) is is_one


@pytest.mark.parametrize(
    ("name", "key"),
    [("7", (7, "")), ("7-ro", (7, "ro")), ("12-rw-recover-0f", (12, "rw-recover-0f"))],
)
def test_a_name_says_the_number_and_the_variant(name: str, key: anchor.Key):
    assert anchor.key_of(name) == key


def test_anchors_are_found_in_their_order_with_all_that_is_on_them():
    found = anchor.find(
        table(
            mount(5, f"{FOLDER}/10", LIVE),
            mount(7, f"{FOLDER}/2-rw", OLDER),
            mount(2, f"{FOLDER}/2-ro", DEAD),
            mount(3, f"{FOLDER}/2-ro", LIVE, on=2),
            mount(4, f"{FOLDER}/view", DEAD),
            mount(6, "/jfs/.csi-fluid/other-pod/fuse/1", DEAD),
        ),
        FOLDER,
    )

    assert [(a.number, a.variant, a.path, a.base.dev, a.top.dev) for a in found] == [
        (2, "ro", f"{FOLDER}/2-ro", DEAD, LIVE),
        (2, "rw", f"{FOLDER}/2-rw", OLDER, OLDER),
        (10, "", f"{FOLDER}/10", LIVE, LIVE),
    ]


def test_an_anchor_that_something_hides_is_not_found():
    hidden = table(mount(5, f"{FOLDER}/1"), mount(6, "/jfs", LIVE))

    assert anchor.find(hidden, FOLDER) == ()
