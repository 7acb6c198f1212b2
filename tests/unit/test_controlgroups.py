"""The hierarchies of control groups as nodes have them mounted."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from recover.linux import controlgroups

V1 = ("blkio", "cpu,cpuacct", "cpuset", "devices", "freezer", "memory", "pids", "systemd")
NAMES = st.text("abcdefgh,_", min_size=1, max_size=8).map(lambda name: f"c{name}")


def made(top: Path, *folders: str) -> Path:
    for folder in folders:
        (top / folder).mkdir(parents=True)
        for name in ("cgroup.procs", "tasks"):
            (top / folder / name).touch()
    return top


def folders(top: Path) -> list[str]:
    return [str(place.parent.relative_to(top)) for place in controlgroups.roots(top)]


@pytest.mark.parametrize(
    "below",
    [
        "kubepods.slice/kubepods-burstable.slice/cri-containerd-0a1b.scope",  # systemd's driver
        "kubepods/burstable/pod12ab/0a1b",  # cgroupfs
        "system.slice/docker-0a1b.scope",
        "machine.slice/crio-0a1b.scope/container",
    ],
)
def test_of_version_2_it_is_the_root_alone_whatever_the_runtimes_groups_are_called(
    tmp_path: Path, below: str
):
    assert folders(made(tmp_path / "top", ".", below)) == ["."]


def test_of_version_1_it_is_each_hierarchy_and_none_of_the_groups_in_it(tmp_path: Path):
    top = made(tmp_path / "top", *V1, "memory/kubepods/pod1/0a1b", "pids/docker/0a1b")

    assert folders(top) == list(V1)


def test_of_a_hybrid_it_is_the_second_versions_too(tmp_path: Path):
    top = made(tmp_path / "top", *V1, "unified", "unified/system.slice")

    assert folders(top) == [*V1, "unified"]


def test_links_to_hierarchies_that_are_mounted_together_do_no_harm(tmp_path: Path):
    top = made(tmp_path / "top", "cpu,cpuacct")
    for name in ("cpu", "cpuacct"):
        (top / name).symlink_to("cpu,cpuacct")

    assert {place.resolve().parent.name for place in controlgroups.roots(top)} == {"cpu,cpuacct"}


def test_where_none_is_mounted_there_is_none(tmp_path: Path):
    assert controlgroups.roots(tmp_path / "missing") == []
    assert controlgroups.roots(tmp_path) == []


@given(st.sets(NAMES, max_size=6), st.sets(NAMES, max_size=3))
def test_each_hierarchy_is_found_once_and_nothing_below_it(
    tmp_path_factory: pytest.TempPathFactory, hierarchies: set[str], groups: set[str]
):
    deep = (f"{name}/{group}" for name in hierarchies for group in groups)
    top = made(tmp_path_factory.mktemp("cgroup"), *hierarchies, *deep)

    assert folders(top) == sorted(hierarchies)
