"""Paths without links: by openat2(2), and by the walk that stands in for it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from recover.linux import facilities, resolve, syscalls

BENEATH = resolve.NO_LINKS | syscalls.RESOLVE_BENEATH
IN_ROOT = resolve.NO_LINKS | syscalls.RESOLVE_IN_ROOT
ONE_MOUNT = BENEATH | syscalls.RESOLVE_NO_XDEV

Open = Callable[[int, str, int, int], int]


@pytest.fixture(params=["openat2", "walk"])
def opened(request: pytest.FixtureRequest) -> Open:
    if request.param == "walk":
        return resolve._walk
    if not facilities.has("openat2"):
        pytest.skip("needs openat2, which is missing here")
    return lambda fd, path, rules, flags: syscalls.openat2(fd, path, os.O_PATH | flags, rules)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "inside" / "folder").mkdir(parents=True)
    (tmp_path / "inside" / "file").touch()
    (tmp_path / "inside" / "link").symlink_to("folder")
    (tmp_path / "outside").mkdir()
    return tmp_path


def found(opened: Open, root: Path | None, path: str, rules: int, flags: int = 0) -> str | int:
    """Return the path that was opened, or the errno."""
    root_fd = os.open(root, os.O_PATH) if root else syscalls.AT_FDCWD
    try:
        fd = opened(root_fd, path, rules, flags)
    except OSError as error:
        return error.errno or 0
    finally:
        if root:
            os.close(root_fd)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("path", "rules", "leads_to"),
    [
        ("folder", BENEATH, "inside/folder"),
        ("./folder//", BENEATH, "inside/folder"),
        ("file", BENEATH, "inside/file"),
        (".", BENEATH, "inside"),
        ("folder/../file", BENEATH, "inside/file"),
        ("folder", ONE_MOUNT, "inside/folder"),
        ("/folder", IN_ROOT, "inside/folder"),
        ("/", IN_ROOT, "inside"),
        ("/../../folder", IN_ROOT, "inside/folder"),
        ("../outside", BENEATH, errno.EXDEV),
        ("folder/../../outside", BENEATH, errno.EXDEV),
        ("/folder", BENEATH, errno.EXDEV),
        ("/../outside", IN_ROOT, errno.ENOENT),
        ("link", BENEATH, errno.ELOOP),
        ("link/", BENEATH, errno.ELOOP),
        ("/link/x", IN_ROOT, errno.ELOOP),
        ("absent", BENEATH, errno.ENOENT),
        ("absent/x", BENEATH, errno.ENOENT),
        ("file/x", BENEATH, errno.ENOTDIR),
    ],
)
def test_a_path_leads_where_its_rules_allow(
    opened: Open, tree: Path, path: str, rules: int, leads_to: str | int
):
    expected = str(tree / leads_to) if isinstance(leads_to, str) else leads_to

    assert found(opened, tree / "inside", path, rules) == expected


def test_a_path_from_the_root_needs_no_descriptor(opened: Open, tree: Path):
    assert found(opened, None, f"/../{tree}/inside", resolve.NO_LINKS) == str(tree / "inside")
    assert found(opened, None, f"{tree}/inside/link", resolve.NO_LINKS) == errno.ELOOP
    assert found(opened, None, "/proc/self", resolve.NO_LINKS) == errno.ELOOP


def test_a_directory_can_be_demanded(opened: Open, tree: Path):
    def directory(path: str) -> str | int:
        return found(opened, tree / "inside", path, BENEATH, os.O_DIRECTORY)

    assert directory("folder") == str(tree / "inside" / "folder")
    assert directory("file") == errno.ENOTDIR
    assert directory("link") == errno.ELOOP


def test_another_mount_can_be_forbidden(opened: Open):
    assert found(opened, Path("/"), "proc", BENEATH) == "/proc"
    assert found(opened, Path("/"), "proc", ONE_MOUNT) == errno.EXDEV


def test_a_place_in_a_container_is_opened_without_any_link(tree: Path):
    root_fd = os.open(tree / "inside", os.O_PATH)
    try:
        os.close(resolve.open_path("/folder", root_fd))
        with pytest.raises(OSError, match="link") as refused:
            resolve.open_path("/link", root_fd)
    finally:
        os.close(root_fd)

    assert refused.value.errno == errno.ELOOP


@pytest.mark.parametrize(
    "path", ["inside/folder/x", "inside/link/x", "inside/../outside/x", "no/x"]
)
def test_what_is_called_canonical_is_so(tree: Path, path: str):
    given = f"{tree}/{path}"
    (real,) = resolve.canonical(given)

    assert real == os.path.realpath(given)
    assert given == real or not resolve.is_canonical(os.path.dirname(given))


def test_the_last_step_of_a_path_may_be_a_link(tree: Path):
    assert resolve.canonical(f"{tree}/inside/link") == (f"{tree}/inside/link",)
    assert resolve.is_canonical(str(tree))
    assert not resolve.is_canonical(f"{tree}/inside/link")
