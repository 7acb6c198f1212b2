"""The story of one pod's volumes, from objects of the API server and a node's report.  Pure."""

import calendar
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from csi_fluid import driver, kubelet
from csi_fluid.cli import times
from csi_fluid.kubectl.api import Object

_PASSED_ON = frozenset({"HostToContainer", "Bidirectional"})
_READ_ONLY = "ReadOnlyMany"
_OPEN_FILES = "Files that are open then stay broken; opened again they work"


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume in a container: where, with which propagation, and which part of it."""

    container: str
    path: str
    propagation: str
    sub_path: str

    @property
    def is_reached_by_propagation(self) -> bool:
        """Return whether what is mounted on the node's side arrives here by itself."""
        return self.propagation in _PASSED_ON and not self.sub_path


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of a dataset in a pod; source is the FUSE mount on the node."""

    name: str
    claim: str
    dataset: tuple[str, str]
    runtime: tuple[str, str]
    source: str
    read_only: bool
    heals_writable: bool
    mounts: tuple[Mount, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """What the plugin of the node does: whether it heals, and whether it sees every container."""

    heals: bool
    sees_containers: bool
    heals_writable: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened, in Unix seconds."""

    at: float
    text: str


def volume_of(pod: Object, volume: Object, claim: Object, found: Object) -> Volume | None:
    """Return a pod's volume as one of a dataset, None where it is another driver's.

    claim and found are its PersistentVolumeClaim and PersistentVolume.
    """
    csi = found["spec"].get("csi", {})
    if csi.get("driver") != driver.NAME:
        return None
    attributes: Mapping[str, str] = csi.get("volumeAttributes", {})
    metadata = claim["metadata"]
    dataset = metadata["namespace"], metadata["name"]
    everywhere = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    mounts = tuple(
        Mount(
            container["name"],
            mount["mountPath"],
            mount.get("mountPropagation", "None"),
            mount.get("subPath", mount.get("subPathExpr", "")),
        )
        for container in everywhere
        for mount in container.get("volumeMounts", ())
        if mount["name"] == volume["name"]
    )
    return Volume(
        name=volume["name"],
        claim=metadata["name"],
        dataset=dataset,
        runtime=(
            attributes.get(driver.RUNTIME_NAMESPACE, dataset[0]),
            attributes.get(driver.RUNTIME_NAME, dataset[1]),
        ),
        source=attributes.get(driver.FLUID_PATH, ""),
        read_only=_is_read_only(volume, found),
        heals_writable=attributes.get(driver.RECOVER_WRITABLE) == "true",
        mounts=mounts,
    )


def _is_read_only(volume: Object, found: Object) -> bool:
    modes = found["spec"].get("accessModes", ())
    asked = volume["persistentVolumeClaim"].get("readOnly", False)
    return bool(asked) or set(modes) == {_READ_ONLY}


def outlook(volume: Volume, reach: Reach) -> Iterator[str]:
    """Yield what each container would see if the FUSE daemon died now."""
    if not reach.heals:
        yield (
            "errors until the pod is restarted: recovery is off on this node "
            "(--feature-gates=FuseRecovery=true)"
        )
        return
    if not (volume.read_only or volume.heals_writable or reach.heals_writable):
        yield (
            "errors until the pod is restarted: the volume can be written to, and may have lost "
            "writes; --recover-writable, or the volume attribute "
            f'{driver.RECOVER_WRITABLE}: "true", has it healed all the same'
        )
        return
    for mount in volume.mounts:
        where = f"{mount.container} at {mount.path}"
        if reach.sees_containers or mount.is_reached_by_propagation:
            yield f"{where}: errors until FUSE is back, then the data again. {_OPEN_FILES}"
        else:
            why = "a subPath" if mount.sub_path else f"mountPropagation: {mount.propagation}"
            yield (
                f"{where}: errors until the container is restarted, because it has {why} and the "
                "plugin runs without hostPID: true"
            )


# ---- What happened


def seconds(text: str | None) -> float:
    """Return a time of the API server in Unix seconds, 0 where there is none."""
    if not text:
        return 0.0
    head, _, fraction = text.removesuffix("Z").partition(".")
    return calendar.timegm(time.strptime(head, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def of_events(events: Iterable[Object], about: str) -> Iterator[Moment]:
    """Yield the events of an object; about is what to call it."""
    for event in events:
        series = event.get("series") or {}
        at = (
            seconds(event.get("lastTimestamp"))
            or seconds(series.get("lastObservedTime"))
            or seconds(event.get("eventTime"))
            or seconds(event["metadata"].get("creationTimestamp"))
        )
        count = series.get("count") or event.get("count") or 1
        times = f" ({count} times)" if count > 1 else ""
        yield Moment(at, f"{event['reason']} on {about}{times}: {event.get('message', '')}")


def is_about(event: Object, uid: str) -> bool:
    """Return whether an event of a dataset is about a pod, or about no pod more than another."""
    message = event.get("message", "")
    return uid in message or kubelet.POD_FOLDER.search(message) is None


def shortened(text: str) -> str:
    """Return a text without the folder of the pod in kubelet's directory, the same in each line."""
    return kubelet.POD_FOLDER.sub("...", text)


def of_container(status: Object, about: str) -> Iterator[Moment]:
    """Yield when a container last ended and started again; about is what to call it."""
    if ended := status.get("lastState", {}).get("terminated"):
        yield Moment(seconds(ended.get("finishedAt")), f"{about} ended: {ending(ended)}")
    if running := status.get("state", {}).get("running"):
        yield Moment(seconds(running.get("startedAt")), f"{about} started")


def ending(terminated: Mapping[str, Any]) -> str:
    """Say how a container ended."""
    reason = terminated.get("reason", "Error")
    return f"{reason}, exit code {terminated.get('exitCode', '?')}"


def of_heal(heal: Mapping[str, Any] | None) -> Iterator[Moment]:
    """Yield the last heal."""
    if heal:
        took = times.latency(heal["latency_s"])
        outage = heal.get("outage_s")
        after = "" if outage is None else f"; accesses had failed for {outage:.1f} s"
        healed = f"{heal['healed']} of {heal['copies']} copies"
        yield Moment(heal["at"], f"healed {healed}, {took} after FUSE was back{after}")


# ---- What to do


def memory_limits(pod: Object) -> dict[str, str]:
    """Return the memory limit of each container of a pod."""
    return {
        each["name"]: each.get("resources", {}).get("limits", {}).get("memory", "none")
        for each in pod["spec"]["containers"]
    }


def memory_advice(pod: Object) -> Iterator[str]:
    """Yield what to do about containers that ended for want of memory."""
    limits = memory_limits(pod)
    for status in pod.get("status", {}).get("containerStatuses", ()):
        ended = status.get("lastState", {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            name = status["name"]
            yield (
                f"{name} of the FUSE pod was out of memory, its limit is {limits.get(name)}: raise "
                "it in the dataset's runtime (spec.fuse.resources.limits.memory)"
            )


# ---- Generations


def superblocks(mountinfo: str, paths: Iterable[str]) -> list[str]:
    """Return the superblock ("major:minor") of the topmost mount at each path, "" without one."""
    top: dict[str, str] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            top[_unescaped(fields[4])] = fields[2]  # a later line stands on top
    return [top.get(path, "") for path in paths]


def _unescaped(field: str) -> str:
    """Return a path of proc(5) mountinfo, which has blanks and the like as octal numbers."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), field)
