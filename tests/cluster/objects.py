"""The objects of the tests as plain data, small because what matters stands in the test."""

from typing import Any

from tests.images.clients import BUSYBOX, FUSE

Object = dict[str, Any]
LOOP = "while true; do ls -l /data; sleep 1; done"


def pod(
    name: str,
    command: str = "sleep infinity",
    *,
    labels: dict[str, str] | None = None,
    volumes: list[Object] | None = None,
    mounts: list[Object] | None = None,
    **container: Any,
) -> Object:
    """Return a pod with one container, ``main``, that runs a shell command; it ends at once."""
    main = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", f"trap exit TERM; {command} & wait"],
        "volumeMounts": mounts or [],
        **container,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name} | (labels or {})},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "dnsPolicy": "Default",
            "containers": [main],
            "volumes": volumes or [],
        },
    }


def host_path(name: str, path: str, kind: str = "DirectoryOrCreate") -> Object:
    """Return a volume that is a path of the node."""
    return {"name": name, "hostPath": {"path": path, "type": kind}}


def claim(name: str, pvc: str) -> Object:
    """Return a volume that is a claim."""
    return {"name": name, "persistentVolumeClaim": {"claimName": pvc}}


def mount(name: str, path: str, propagation: str | None = None, **more: Any) -> Object:
    """Return the mount of a volume in a container."""
    entry = {"name": name, "mountPath": path, **more}
    return entry if propagation is None else entry | {"mountPropagation": propagation}


def secret(name: str, texts: dict[str, str]) -> Object:
    """Return a Secret."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": texts}


def fuse_container(name: str, mount_point: str, environment: dict[str, str]) -> Object:
    """Return a container with a FUSE client; it still lacks its mounts."""
    variables = {"FLUID_FUSE_MOUNTPOINT": mount_point} | environment
    return {
        "name": name,
        "image": FUSE,
        "imagePullPolicy": "Never",
        "command": ["/entrypoint.sh"],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "securityContext": {"privileged": True},
    }


def daemonset(name: str, labels: dict[str, str], spec: Object) -> Object:
    """Return a DaemonSet around a pod's spec."""
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "OnDelete"},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
