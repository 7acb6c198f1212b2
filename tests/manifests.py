"""The manifests as objects: as the files say, and as `kubectl apply -k` and Helm render them."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests import sandbox
from tests.cluster.settings import BIN

FOLDER = Path(__file__).parents[1] / "manifests"
CHART = FOLDER / "chart"
DROP_IN = FOLDER / "drop-in"  # values for Fluid's own chart
_HOOK = "helm.sh/hook"
Object = dict[str, Any]


def files() -> list[Path]:
    """Return every YAML file but those that are for Helm."""
    helms = {CHART, DROP_IN}
    return sorted(path for path in FOLDER.rglob("*.yaml") if helms.isdisjoint(path.parents))


def read(path: Path) -> list[Any]:
    """Return the documents of a file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def base(name: str) -> Object:
    """Return the object of a file in base/."""
    (found,) = read(FOLDER / "base" / f"{name}.yaml")
    return dict(found)


@functools.cache
def _render(folder: str) -> str:
    done = _run("kubectl", "kustomize", str(FOLDER / folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    ours = BIN / program
    found = str(ours) if ours.exists() else program
    sandbox.require(found)
    command = (found, *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def rendered(folder: str) -> list[Object]:
    """Return the objects that kubectl makes of a folder with a kustomization."""
    return list(yaml.safe_load_all(_render(folder)))


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `helm template` on the chart, as a release in Fluid's namespace."""
    return _run("helm", "template", "csi-fluid", str(CHART), "--namespace=fluid-system", *words)


def charted(*settings: str) -> list[Object]:
    """Return the objects that Helm makes of the chart with `--set` of each setting.

    Without the pod of `helm test`, which kustomize has no counterpart of.
    """
    done = helm(*(f"--set={setting}" for setting in settings))
    assert done.returncode == 0, done.stderr
    objects = (each for each in yaml.safe_load_all(done.stdout) if each)
    return [each for each in objects if _HOOK not in each["metadata"].get("annotations", {})]


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    """Return the only object of a kind, or of a kind and a name."""
    (found,) = (o for o in objects if o["kind"] == kind and name in {"", o["metadata"]["name"]})
    return found
