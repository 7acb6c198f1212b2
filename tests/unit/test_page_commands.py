"""What the pages have people type: verbs, flags, make targets and chart values that there are."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from csi_fluid import cli, config, kubectl
from tests.manifests import CHART
from tests.test_promises import ROOT
from tests.unit.test_pages import PAGES, name, prose

FOREIGN = {"take-ownership", "set", "build-arg", "root-dir"}  # of Helm, Docker and kubelet
PLACEHOLDER = {"name"}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def spans(page: Path) -> list[str]:
    """Return what stands in backticks in a page's sentences and tables."""
    return [span.replace("\n", " ") for span in _SPAN.findall("\n".join(prose(page)))]


def typed(page: Path) -> Iterator[str]:
    """Yield the lines of a page that are for a shell: of a console those with a prompt."""
    for language, body in _FENCE.findall(page.read_text(encoding="utf-8")):
        for line in body.replace("\\\n", " ").splitlines():
            is_prompt = line.lstrip().startswith("$ ")
            if language == "sh" or (language in {"", "console"} and is_prompt):
                yield re.sub(r"(^|\s)#.*", "", line.strip().removeprefix("$ "))


def commands(page: Path) -> Iterator[str]:
    """Yield each command of a page by itself: of pipes and lists, and what `kubectl exec` runs."""
    for text in (*typed(page), *spans(page)):
        for part in re.split(r"\||;|&&| -- ", text):
            yield re.sub(r"^((\w+=\S* |[\w.]+/bin/)*)", "", part.strip())


PROGRAMS = {"csi-fluid": cli, kubectl.NAME: kubectl}


@pytest.fixture
def flags(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], set[str]]:
    """Return the flags of each verb of each program, as its help has them."""
    found = {}
    for program, module in PROGRAMS.items():
        for verb in module.VERBS:
            assert module.main([verb, "--help"]) == 0
            found[program, verb] = set(
                re.findall(r"(?<![\w-])--?[a-z][\w-]*", capsys.readouterr().out)
            )
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_of_ours_has_a_verb_and_flags_that_there_are(
    page: Path, flags: dict[tuple[str, str], set[str]]
):
    lost = []
    for command in commands(page):
        found = re.match(r"(kubectl csi-fluid|csi-fluid) ([a-z]+)\b(.*)", command)
        if found is None:
            continue
        known = flags.get((found[1], found[2]), set()) | {"--debug"}
        given = set(re.findall(r"(?<!\S)--?[a-z][\w-]*", found[3]))
        if (found[1], found[2]) not in flags or given - known:
            lost.append(command)

    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_knows_what_a_page_has_people_make(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    lost = []
    for command in commands(page):
        if not re.match(r"make\b(?! \()", command):
            continue
        for word in shlex.split(command.replace("…", ""))[1:]:
            variable, is_set, _ = word.partition("=")
            known = re.search(rf"\b{variable}\b", MAKEFILE) if is_set else word in targets
            if not known:
                lost.append(command)

    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_value_of_the_chart_that_a_page_names_is_there(page: Path):
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    groups = "|".join(group for group, value in values.items() if isinstance(value, dict))
    path = rf"((?:{groups})(?:\.\w+)+)"
    named = [found for text in typed(page) for found in re.findall(rf"--set[ =]{path}=", text)]
    named += [
        found[1] for span in spans(page) if (found := re.fullmatch(rf"{path}(=.*|: .*)?", span))
    ]

    def is_there(value: str) -> bool:
        place = values
        for part in value.split("."):
            if not isinstance(place, dict) or part not in place:
                return False
            place = place[part]
        return True

    assert [value for value in named if not is_there(value)] == []


def test_a_flag_that_a_page_for_users_names_is_there(flags: dict[tuple[str, str], set[str]]):
    ours = {f"--{option.flag}" for option in config.OPTIONS} | {"--debug"}
    ours |= set().union(*flags.values()) | {f"--{each}" for each in FOREIGN | PLACEHOLDER}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    pages.remove(ROOT / "docs/benchmarks.md")  # whose flags are those of the benchmark
    lost = {
        (page.name, span)
        for page in pages
        for span in spans(page)
        if (found := re.match(r"--[a-z][\w-]*", span)) and found[0] not in ours
    }

    assert lost == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_metric_that_a_page_names_is_one_of_the_reference(page: Path):
    reference = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `(csi_fluid_\w+)`", reference, re.MULTILINE))
    named = {
        re.sub(r"_(bucket|sum|count)$", "", each)
        for each in re.findall(
            r"\bcsi_fluid_[a-z_]*[a-z](?![\w*])", page.read_text(encoding="utf-8")
        )
    }

    assert named <= known
