"""What is read of Kubernetes' objects, as they come from the API server.  Pure.

The server is trusted with names, not with forms: a field that is missing or of another type reads
as missing, because the schemas of Fluid's objects change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from csi_fluid import driver
from csi_fluid.kube import ON_RUNTIME_DELETED

Object = Mapping[str, Any]

GENERATION_LABEL = "fuse.runtime.fluid.io/generation"
_FLUIDS = ("fluid.io/managed-by", "fluid.io/wrapped-by")


@dataclass(frozen=True, slots=True)
class Name:
    """The namespace and name of an object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Runtime:
    """The first runtime in a Dataset's status."""

    type: str
    place: Name


def text(thing: object, *path: str) -> str:
    """Return the string at a path of keys, "" where there is none."""
    found = at(thing, *path)
    return found if isinstance(found, str) else ""


def at(thing: object, *path: str) -> object:
    """Return what is at a path of keys, None where there is nothing."""
    for key in path:
        if not isinstance(thing, Mapping):
            return None
        thing = thing.get(key)
    return thing


def items(thing: object, *path: str) -> Iterator[Object]:
    """Yield the objects of the list at a path of keys."""
    found = at(thing, *path)
    yield from (
        (item for item in found if isinstance(item, Mapping)) if isinstance(found, list) else ()
    )


def attribute(volume: Object, key: str) -> str:
    """Return a CSI attribute of a PersistentVolume, "" where it has none."""
    return text(volume, "spec", "csi", "volumeAttributes", key)


def claim_of(volume: Object) -> Name | None:
    """Return the claim that a PersistentVolume is bound to."""
    claim = Name(
        text(volume, "spec", "claimRef", "namespace"), text(volume, "spec", "claimRef", "name")
    )
    return claim if claim.namespace and claim.name else None


def runtime_name(volume: Object) -> Name | None:
    """Return the runtime that a PersistentVolume names itself; old ones do not."""
    name = Name(attribute(volume, driver.RUNTIME_NAMESPACE), attribute(volume, driver.RUNTIME_NAME))
    return name if name.namespace and name.name else None


def is_fluids(claim: Object) -> bool:
    """Return whether a claim is of a Fluid dataset: CheckIfPVCIsDataset of Fluid."""
    labels = at(claim, "metadata", "labels")
    if not isinstance(labels, Mapping):
        return False
    return any(key.startswith("fluid.io/s-") or key in _FLUIDS for key in labels)


def runtime_of(dataset: Object) -> Runtime | None:
    """Return the runtime of a Dataset; None while it has none."""
    place = Name(text(dataset, "metadata", "namespace"), text(dataset, "metadata", "name"))
    for found in items(dataset, "status", "runtimes"):
        named = Name(text(found, "namespace") or place.namespace, text(found, "name") or place.name)
        return Runtime(text(found, "type"), named)
    return None


def clean_policy(kind: str, runtime: Object) -> str:
    """Return when the FUSE daemon of a runtime leaves a node, by default as Fluid has it."""
    section = "client" if kind == "cache" else "fuse"
    return text(runtime, "spec", section, "cleanPolicy") or ON_RUNTIME_DELETED
