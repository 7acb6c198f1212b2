"""What the project promises about itself: documented, nothing private in it, quick to start."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import csi_fluid
from csi_fluid import cli, config, driver, kubectl
from csi_fluid.metrics import catalogue
from csi_fluid.testbed.waiting import until

ROOT = Path(__file__).parents[1]
MADE_HERE = re.compile(
    r"^(\.(?!ci$|git(ignore|attributes|hub)$)|__pycache__$|build$|dist$|.*\.egg-info$)"
)

# Written so that no pattern matches its own line.
PRIVATE = {
    "a path of somebody's machine": r"/wor[k]/(main|shared)|\.\./share[d]|/roo[t]/|/tmp/gobi[n]",
    "the host of a registry": r"\b(gc[r]|ghc[r]|docke[r]|qua[y]|registry\.k8[s])\.io\b",
    "the host of a mirror": r"\bregistry[\w.-]*\.aliyunc[s]\.com\b",
    "the host of a package index": r"\b(pyp[i]\.org|pythonhoste[d]\.org|proxy\.golan[g]\.org)\b",
}


# As a whole text: a column of the state file may have the same name.
ATTRIBUTES = [
    rf"^{re.escape(value)}$"
    for name, value in vars(driver).items()
    if name.isupper() and name != "NAME"
]


def tree() -> Iterator[Path]:
    """Walk through the files of the project, without what is made on the way."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not MADE_HERE.match(name)]
        yield from (Path(folder, name) for name in files if not MADE_HERE.match(name))


def modules() -> Iterator[Path]:
    """Walk through the modules of the two packages that people write."""
    for path in tree():
        parts = path.relative_to(ROOT).parts
        if path.suffix == ".py" and parts[0] in {"csi_fluid", "recover"} and "_pb" not in parts:
            yield path


def strings(path: Path) -> Iterator[str]:
    """Yield the strings of a module that it works with: no docstring, no comment."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def configuration() -> str:
    return (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def undocumented(names: set[str]) -> list[str]:
    """List the names that docs/configuration.md does not have as a whole word."""
    text = configuration()
    return sorted(n for n in names if not re.search(rf"(?<![\w-]){re.escape(n)}(?![\w-])", text))


def test_every_command_is_documented():
    assert undocumented({f"csi-fluid {verb}" for verb in cli.VERBS}) == []


def test_every_option_is_documented():
    assert undocumented({f"--{option.flag}" for option in config.OPTIONS if option.flag}) == []


@pytest.mark.parametrize("verb", kubectl.VERBS)
def test_every_command_for_a_cluster_is_documented_with_its_flags(
    verb: str, capsys: pytest.CaptureFixture[str]
):
    assert kubectl.main([verb, "--help"]) == 0

    text = (ROOT / "docs/kubectl.md").read_text(encoding="utf-8")
    flags = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
    assert f"$ {kubectl.NAME} {verb}" in text
    assert {
        flag for flag in flags - {"--help", "--namespace", "--output"} if flag not in text
    } == set()


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_flag_of_a_command_is_documented(verb: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([verb, "--help"]) == 0

    help_text = capsys.readouterr().out
    assert "usage" in help_text
    assert "example" in help_text
    assert undocumented(set(re.findall(r"--[a-z][\w-]*", help_text)) - {"--help"}) == []


def test_every_environment_variable_is_documented():
    assert undocumented({name for option in config.OPTIONS for name in option.env}) == []


def test_the_environment_is_read_by_the_configuration_only():
    readers = [
        path.relative_to(ROOT).as_posix()
        for path in modules()
        if re.search(r"\bos\.(environ|getenv)\b", path.read_text(encoding="utf-8"))
    ]

    # the others are for tests: the time that a slow machine is given, and the switch by which
    # facilities of the kernel are taken away
    assert sorted(readers) == [
        "csi_fluid/config.py",
        "csi_fluid/testbed/waiting.py",
        "recover/linux/refusal.py",
    ]


KUBELETS = [
    *("/var/lib/kubelet", "csi-plugins", "plugins_registry", "csi-fluid-plugin"),
    *("kubernetes.io~", "volume-subpaths", "vol_data", "driverName", "volumeHandle"),
]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("csi_fluid/driver.py", [re.escape(driver.NAME), *ATTRIBUTES]),
        ("csi_fluid/kubelet.py", map(re.escape, KUBELETS)),
    ],
    ids=["driver", "kubelet"],
)
def test_what_others_chose_is_written_in_one_module(place: str, words: Iterable[str]):
    pattern = re.compile("|".join(words))
    found = {
        path.relative_to(ROOT).as_posix()
        for path in modules()
        if any(pattern.search(text.replace("\\", "")) for text in strings(path))
    }

    assert found == {place}


def test_every_metric_is_documented():
    every = {*catalogue.METRICS, *catalogue.WEBHOOK_METRICS}

    assert undocumented({metric.name for metric in every}) == []


def test_every_make_target_is_explained_by_make_help():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    explained = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)

    assert set(targets) == {line.split()[0] for line in explained.splitlines()}


def test_every_make_target_is_short():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    recipes = re.findall(r"^([\w-]+):.*\n((?:\t.*\n)*)", makefile, re.MULTILINE)

    assert [name for name, recipe in recipes if recipe.count("\n") > 3] == []


def test_no_module_is_longer_than_its_noun():
    made = ROOT / "csi_fluid" / "_pb"
    lines = {
        path.relative_to(ROOT): path.read_text(encoding="utf-8").count("\n")
        for path in tree()
        if path.suffix == ".py" and made not in path.parents
    }

    assert {path: count for path, count in lines.items() if count > 500} == {}


def test_the_changelog_knows_this_version():
    assert f"## [{csi_fluid.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("what", PRIVATE)
def test_nothing_private_is_in_the_tree(what: str):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tree()
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1)
        if re.search(PRIVATE[what], line)
    ]

    assert found == []


def test_the_serving_process_loads_no_library_for_people(tmp_path: Path):
    """Start the plugin for real, and read from the interpreter what it imported."""
    socket = tmp_path / "csi.sock"
    log = tmp_path / "log"
    python = (sys.executable, "-X", "importtime", "-m", "csi_fluid")
    options = (f"--endpoint=unix://{socket}", f"--state={tmp_path}/state.db", "--metrics-addr=0")
    with log.open("wb") as output:
        plugin = subprocess.Popen(
            [*python, "start", "--nodeid=node1", *options],
            env=os.environ | {"KUBELET_ROOTDIR": str(tmp_path), "MOUNT_ROOT": str(tmp_path)},
            stderr=output,
        )
    try:
        until(lambda: socket.exists() or plugin.poll() is not None, "it serves")
        plugin.send_signal(signal.SIGTERM)
        status = plugin.wait(10)
    finally:
        plugin.kill()
        plugin.wait()

    text = log.read_text(encoding="utf-8")
    imported = set(re.findall(r"^import time:[\s\d|]+(\S+)$", text, re.MULTILINE))
    assert status == 0, text
    assert "csi_fluid.app" in imported
    assert {"rich", "argparse"} & imported == {"argparse"}
    assert {"kubernetes", "urllib3", "requests", "yaml", "_ssl"} & imported == set()
