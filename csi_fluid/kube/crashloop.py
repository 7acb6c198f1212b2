"""Is a pod the FUSE daemon of a dataset, and does it wait for kubelet's back-off?  Pure.

Whoever asks is going to delete the pod, so each of these must hold: it is on this node and in the
dataset's namespace, carries Fluid's labels for a FUSE pod of this dataset, belongs to a DaemonSet
that will make another, is not being deleted, and has a container that ended and was not started
again.

kubelet writes CrashLoopBackOff only when it looks at the pod again, which may take its sync
frequency (1 m by default): until then the container's state is ``terminated``, and it waits all the
same, because pods of a DaemonSet always restart (completeWork in kubelet's pod_workers.go).
"""

from datetime import datetime

from csi_fluid.kube import objects
from csi_fluid.kube.objects import Name, Object

_ROLE_ENDS = "-fuse"
_REASON = "CrashLoopBackOff"


def waiting_since(pod: Object, dataset: Name, node: str) -> float | None:
    """Return since when (Unix seconds) a dataset's FUSE pod waits; None if it is none or runs."""
    if not _is_fuse_pod(pod, dataset, node):
        return None
    times = [_ended(status) for status in objects.items(pod, "status", "containerStatuses")]
    return min((since for since in times if since is not None), default=None)


def _is_fuse_pod(pod: Object, dataset: Name, node: str) -> bool:
    labels = {
        key: objects.text(pod, "metadata", "labels", key)
        for key in ("role", "release", "fluid.io/managed-by")
    }
    owned = any(
        owner.get("kind") == "DaemonSet" and owner.get("controller") is True
        for owner in objects.items(pod, "metadata", "ownerReferences")
    )
    return (
        labels["role"].endswith(_ROLE_ENDS)
        and labels["release"] == dataset.name
        and labels["fluid.io/managed-by"] == "fluid"
        and objects.text(pod, "metadata", "namespace") == dataset.namespace
        and objects.text(pod, "spec", "nodeName") == node
        and not objects.text(pod, "metadata", "deletionTimestamp")
        and owned
    )


def _ended(status: Object) -> float | None:
    """Return when a container ended that is to be started again; None if it is not waiting."""
    if objects.text(status, "state", "waiting", "reason") == _REASON:
        return _time(objects.text(status, "lastState", "terminated", "finishedAt"))
    return _time(objects.text(status, "state", "terminated", "finishedAt"))


def _time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
