"""The agent's container and its volume.  Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from csi_fluid.webhook import AGENT
from csi_fluid.webhook.pod import Container, Place
from csi_fluid.webhook.sidecars import Guarded

SCRATCH = f"{AGENT}-tmp"
"""The agent's own volume, in memory: its health file, and where it looks at what it mounted."""

_HEALTH_FILE = "/tmp/healthy"  # noqa: S108  a volume of its own
_SHARES = PurePosixPath("/fluid")
_PROGRAM = ("csi-fluid", "agent")
# The agents on a node tell their pods apart by the uid; a host name may be another pod's too.
_IDENTITY = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
# Requests and limits for both, because a namespace's quota may demand either.
_RESOURCES = {
    "requests": {"cpu": "10m", "memory": "32Mi"},
    "limits": {"cpu": "500m", "memory": "96Mi"},
}


@dataclass(frozen=True, slots=True)
class Position:
    """Where the agent goes in the pod: the list, and the index in it."""

    place: Place
    index: int


def position(sidecars: Sequence[Container]) -> Position:
    """Return the agent's place: before the application, and right for the end of the pod.

    Ordinary containers end together, so it stands behind the last sidecar, whose postStart hook has
    then seen the FUSE mount.  Native sidecars (only where all of them are) end one after the other,
    the first one last, and the agent cleans up when the FUSE daemons have gone: so it is the first.
    """
    if all(each.is_native_sidecar for each in sidecars):
        return Position("initContainers", min(each.index for each in sidecars))
    ordinary = [each.index for each in sidecars if each.place == "containers"]
    return Position("containers", 1 + max(ordinary))


def build(
    image: str, guarded: Sequence[Guarded], place: Place, options: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return the agent's container; options are added to its arguments."""
    mounts = (f"--mount={_argument(each)}" for each in guarded)
    arguments = [*mounts, f"--health-file={_HEALTH_FILE}"]
    shares = {each.share.mount.volume: each.share.mount for each in guarded}
    security = guarded[0].share.sidecar.security
    container: dict[str, Any] = {
        "name": AGENT,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(_PROGRAM),
        "args": [*arguments, *options],
        "env": [_IDENTITY],
        "resources": _RESOURCES,
        "securityContext": {**security, "readOnlyRootFilesystem": True},
        "livenessProbe": {
            "exec": {"command": ["test", "-e", _HEALTH_FILE]},
            "initialDelaySeconds": 60,
            "periodSeconds": 60,
            "timeoutSeconds": 30,
            "failureThreshold": 5,  # a busy node is no reason to replace an agent
        },
        "lifecycle": {"preStop": {"exec": {"command": [*_PROGRAM, *arguments, "--leave"]}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": SCRATCH, "mountPath": "/tmp"},  # noqa: S108
            *(
                {
                    "name": volume,
                    "mountPath": str(_SHARES / volume),
                    "mountPropagation": "Bidirectional",
                }
                for volume in shares
            ),
        ],
    }
    if place == "initContainers":
        container["restartPolicy"] = "Always"
    return container


def without_resources(agent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an agent for a pod that has resources of its own.

    The API server refuses a pod whose containers ask for more than the pod has.
    """
    return {key: value for key, value in agent.items() if key != "resources"}


def scratch() -> Mapping[str, Any]:
    """Return the agent's volume."""
    return {"name": SCRATCH, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}


def _argument(guarded: Guarded) -> str:
    share = guarded.share.mount
    below = PurePosixPath(guarded.point).relative_to(share.host_path)
    inside = _SHARES / share.volume / below
    return f"{inside}={guarded.point}" + (":ro" if guarded.read_only else "")
