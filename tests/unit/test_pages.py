"""The Markdown pages: links lead somewhere, files are there, decisions have one form."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.test_promises import ROOT, tree

PAGES = sorted(path for path in tree() if path.suffix == ".md")
DECISIONS = ROOT / "docs/decisions"
INDEX = DECISIONS / "README.md"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(page: Path) -> Iterator[str]:
    """Yield the lines of a page that are no code."""
    is_code = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code:
            yield line


def anchors(page: Path) -> set[str]:
    """Return what a link may name in a page: its headings, as GitHub makes anchors of them."""
    titles = (line.lstrip("#").strip() for line in prose(page) if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_leads_somewhere(page: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", "\n".join(prose(page)))
    lost = []
    for link in links:
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            lost.append(link)

    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_file_that_a_page_names_is_there(page: Path):
    """Pages leave `.py` out where they speak of modules; NAME stands for several files."""
    folders = r"csi_fluid|recover|tests|docs|manifests|proto|\.ci|\.github"
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", text))
    named |= set(re.findall(r"\bmanifests/[\w/.-]*\w", text))  # in commands, too

    lost = {n for n in named if not any((ROOT / f"{n}{end}").exists() for end in ("", ".py"))}
    assert {n for n in lost if "NAME" not in n} == set()


def test_the_index_of_decisions_has_every_page_once():
    linked = re.findall(r"\]\(([\w-]+\.md)\)", INDEX.read_text(encoding="utf-8"))

    assert sorted(linked) == sorted(p.name for p in DECISIONS.glob("*.md") if p != INDEX)


@pytest.mark.parametrize("page", sorted(set(DECISIONS.glob("*.md")) - {INDEX}), ids=name)
def test_a_decision_says_why_what_and_at_what_price(page: Path):
    text = page.read_text(encoding="utf-8")

    parts = re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE)

    assert parts == ["Context.", "Decision.", "What it costs."]
    assert len(text.splitlines()) <= 40


def test_public_ci_runs_what_a_checkout_can_run():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]

    targets = {word for run in commands for word in re.findall(r"^make (\S+)", run)}

    assert targets == {"check", "coverage", "runtime"}
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    pythons = workflow["jobs"]["check"]["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in range(11, 15)]
