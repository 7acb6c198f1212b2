"""The manifests as objects: as the files say, and as `kubectl apply -k` renders them."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests import sandbox
from tests.cluster.settings import BIN

FOLDER = Path(__file__).parents[1] / "manifests"
Object = dict[str, Any]


def files() -> list[Path]:
    """Return every YAML file."""
    return sorted(FOLDER.rglob("*.yaml"))


def read(path: Path) -> list[Any]:
    """Return the documents of a file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def base(name: str) -> Object:
    """Return the object of a file in base/."""
    (found,) = read(FOLDER / "base" / f"{name}.yaml")
    return dict(found)


@functools.cache
def _render(folder: str) -> str:
    ours = BIN / "kubectl"  # has kustomize in it
    kubectl = str(ours) if ours.exists() else "kubectl"
    sandbox.require(kubectl)
    command = (kubectl, "kustomize", str(FOLDER / folder))
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(folder: str) -> list[Object]:
    """Return the objects that kubectl makes of a folder with a kustomization."""
    return list(yaml.safe_load_all(_render(folder)))


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    """Return the only object of a kind, or of a kind and a name."""
    (found,) = (o for o in objects if o["kind"] == kind and name in {"", o["metadata"]["name"]})
    return found
