"""updatedb.conf: what lacks is added, nothing is lost, and no failure is more than a warning."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from csi_fluid import updatedb
from csi_fluid.updatedb import MARK, with_values

WANTED = {"PRUNEFS": ("fuse.juicefs", "ossfs"), "PRUNEPATHS": ("/runtime-mnt",)}
DEBIAN = """PRUNE_BIND_MOUNTS="yes"
# PRUNENAMES=".git .bzr"
PRUNEPATHS="/tmp /var/spool"
  PRUNEFS = "NFS afs ossfs"   # mine
"""

words = st.text(st.sampled_from("ab/.-_"), min_size=1, max_size=6)
lists = st.lists(words, max_size=4)
plain_lines = st.sampled_from(["", "# c", 'PRUNE_BIND_MOUNTS = "yes"', 'PRUNENAMES=".git"', "x"])
variables = st.builds(
    lambda pad, name, gap, values: f'{pad}{name}{gap}={gap}"{" ".join(values)}"',
    *(st.sampled_from(["", " ", "\t"]), st.sampled_from(["PRUNEFS", "PRUNEPATHS"])),
    *(st.sampled_from(["", " "]), lists),
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Make a file in which each variable stands once or not at all: updatedb refuses another."""
    found = {re.split(r"[\s=]", v.strip())[0]: v for v in draw(st.lists(variables, max_size=4))}
    lines = draw(st.permutations([*draw(st.lists(plain_lines, max_size=4)), *found.values()]))
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"]))


def value(text: str, name: str) -> list[str]:
    found = re.search(rf'^\s*{name}\s*=\s*"([^"]*)"', text, re.MULTILINE)
    return found[1].split() if found else []


@given(texts(), lists, lists)
def test_everything_asked_for_is_there_afterwards_and_a_second_time_changes_nothing(
    text, fs, paths
):
    wanted = {"PRUNEFS": fs, "PRUNEPATHS": paths}
    once = with_values(text, wanted)

    assert with_values(once, wanted) == once
    assert set(fs) <= set(value(once, "PRUNEFS"))
    assert set(paths) <= set(value(once, "PRUNEPATHS"))


@given(texts(), lists, lists)
def test_nothing_that_was_there_is_lost_or_moved(text, fs, paths):
    new = iter(with_values(text, {"PRUNEFS": fs, "PRUNEPATHS": paths}))

    assert all(character in new for character in text)  # in this order


def test_lacking_values_go_behind_those_that_are_there():
    assert (
        with_values(DEBIAN, WANTED)
        == f"""{MARK}
PRUNE_BIND_MOUNTS="yes"
# PRUNENAMES=".git .bzr"
PRUNEPATHS="/tmp /var/spool /runtime-mnt"
  PRUNEFS = "NFS afs ossfs fuse.juicefs"   # mine
"""
    )


def test_a_variable_that_is_not_there_is_added_at_the_end():
    assert with_values('PRUNEFS=""', WANTED) == (
        f'{MARK}\nPRUNEFS="fuse.juicefs ossfs"\nPRUNEPATHS="/runtime-mnt"\n'
    )


def test_the_mark_is_set_once():
    once = with_values(DEBIAN, WANTED)

    assert with_values(once, {"PRUNEFS": ("another",)}).count(MARK) == 1


@pytest.mark.parametrize("line", ["PRUNEFS=ossfs", "PRUNEFS", 'PRUNEFS="open'])
def test_a_line_that_is_not_understood_is_not_guessed_at(line):
    with pytest.raises(ValueError, match="PRUNEFS"):
        with_values(line, WANTED)


# ---- The file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "updatedb.conf").write_text(DEBIAN)
    return tmp_path


def prune(folder: Path) -> str:
    updatedb.prune(WANTED["PRUNEFS"], WANTED["PRUNEPATHS"], folder)
    return (folder / "updatedb.conf").read_text()


@pytest.mark.parametrize("name", ["updatedb.conf.bak", "updatedb.conf.backup"])
def test_the_first_state_is_kept_in_the_file_that_is_mounted_for_it(folder: Path, name: str):
    (folder / name).touch()
    inode = (folder / "updatedb.conf").stat().st_ino

    assert prune(folder) == with_values(DEBIAN, WANTED)
    prune(folder)

    assert (folder / name).read_text() == DEBIAN
    assert sorted(os.listdir(folder)) == ["updatedb.conf", name]
    assert (folder / "updatedb.conf").stat().st_ino == inode  # a mounted file stays that file


def test_a_file_that_fluids_plugin_has_modified_is_not_taken_for_the_first_state(folder: Path):
    (folder / "updatedb.conf").write_text(f'{MARK}\nPRUNEFS="ossfs"\n')
    (folder / "updatedb.conf.bak").write_text("first")
    prune(folder)

    assert (folder / "updatedb.conf.bak").read_text() == "first"


def test_a_file_that_says_all_of_it_is_not_written(folder: Path):
    prune(folder)
    os.utime(folder / "updatedb.conf", ns=(1, 1))
    prune(folder)

    assert (folder / "updatedb.conf").stat().st_mtime_ns == 1


def test_an_empty_file_which_the_chart_made_stays_empty(folder: Path):
    (folder / "updatedb.conf").write_text("")

    assert prune(folder) == ""


def test_a_node_without_the_file_gets_none(tmp_path: Path):
    updatedb.prune(("a",), ("b",), tmp_path)

    assert os.listdir(tmp_path) == []


@pytest.mark.expects_log("is left as it is: .*: Is a directory; .* by hand .PRUNEFS: a")
def test_a_folder_which_a_runtime_made_is_left_alone_with_a_warning(tmp_path: Path):
    (tmp_path / "updatedb.conf").mkdir()
    updatedb.prune(("a",), ("b",), tmp_path)


@pytest.mark.expects_log("is left as it is: .*updatedb.conf is not a regular file")
def test_a_pipe_keeps_nobody_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "updatedb.conf")
    updatedb.prune(("a",), ("b",), tmp_path)


@pytest.mark.expects_log("is left as it is: .*PRUNEFS=x.* is not of the form")
def test_a_file_that_is_not_understood_is_left_alone_with_a_warning(folder: Path):
    (folder / "updatedb.conf").write_text("PRUNEFS=x\n")

    assert prune(folder) == "PRUNEFS=x\n"


@pytest.mark.expects_log("is left as it is: .*updatedb.conf.bak: Is a directory")
def test_a_file_whose_first_state_cannot_be_kept_is_left_alone(folder: Path):
    (folder / "updatedb.conf.bak").mkdir()

    assert prune(folder) == DEBIAN
