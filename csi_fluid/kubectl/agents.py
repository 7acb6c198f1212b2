"""The agents of serverless pods, as rows beside those of the nodes.

An agent keeps no state file to be asked for; what it did is in its log, and whether it and the
FUSE sidecars run is in the status of its pod.
"""

import calendar
import re
import time
from collections.abc import Iterator

from csi_fluid.kube.calls import RUNTIMES
from csi_fluid.kubectl import datasets, fleet, journal, plugins
from csi_fluid.kubectl.api import Api, Object
from csi_fluid.kubectl.datasets import Row
from csi_fluid.kubectl.fleet import Limits
from csi_fluid.kubectl.journal import Line
from csi_fluid.kubectl.rights import Denied
from csi_fluid.telling import BROKEN, FAILED, HUNG, SKIPPED, SUCCEEDED
from csi_fluid.webhook import AGENT
from recover.rows import Heal
from recover.states import State

_SELECTOR = "done.sidecar.fluid.io/inject=true"  # what Fluid's webhook leaves on a pod
_SIDECAR = re.compile(r"fluid-fuse-\d+")
_MOUNT = re.compile(r"--mount=([^=]+)(?:=(.*?))?(?::ro)?")
_DATASET = re.compile(rf"/(?:{'|'.join(RUNTIMES)})/([^/]+)/([^/]+)/")
_TAIL = "500"
_STATES = {
    BROKEN.name: State.WAITING,
    FAILED.name: State.STALE,
    HUNG.name: State.HUNG,
    SKIPPED.name: State.SKIPPED,
    SUCCEEDED.name: State.HEALTHY,
}


def rows(api: Api, limits: Limits, node: str = "") -> Iterator[Row]:
    """Yield the rows of all agents; of one node if it is named.

    Who may not list the pods of the cluster is told about the nodes alone.
    """
    try:
        found = pods(api, node)
    except Denied as denied:
        yield datasets.away("serverless pods", str(denied))
        return

    for reply in fleet.ask(found, lambda pod: log_of(api, pod), limits):
        yield from rows_of(reply.asked, reply.answer or "", reply.error)


def pods(api: Api, node: str = "") -> list[Object]:
    """Return the pods that have an agent, on all nodes or on one; raises as Api.get."""
    query = {"labelSelector": _SELECTOR}
    if node:
        query["fieldSelector"] = f"spec.nodeName={node}"
    return [pod for pod in api.items("/api/v1/pods", **query) if of(pod)]


def log_of(api: Api, pod: Object) -> str:
    """Return the end of the log of a pod's agent; raises as Api.get."""
    place = "/api/v1/namespaces/{namespace}/pods/{name}/log".format(**pod["metadata"])
    return api.text(place, container=AGENT, tailLines=_TAIL)


def of(pod: Object) -> Object | None:
    """Return the agent's container in a pod, None where it has none."""
    every = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    return next((each for each in every if each["name"] == AGENT), None)


def rows_of(pod: Object, log: str, error: str = "") -> Iterator[Row]:
    """Yield a row for each FUSE mount that the agent of a pod guards; error: its log's.  Pure."""
    agent = of(pod)
    if agent is None or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return
    said = list(journal.lines(log))
    for word in agent.get("args", ()):
        if found := _MOUNT.fullmatch(word):
            inside, outside = found[1], found[2] or found[1]
            yield _row(pod, outside, [x for x in said if x.fields.get("source") == inside], error)


def _row(pod: Object, source: str, said: list[Line], error: str) -> Row:
    metadata, spec = pod["metadata"], pod["spec"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    named = _DATASET.search(source)
    events = [line for line in said if line.fields.get("reason") in _STATES]
    state = _STATES[events[-1].fields["reason"]] if events else State.HEALTHY
    begun = events[-1].at if events else _started(pod)
    why, trouble = _trouble(pod, name, error)
    if why and state == State.HEALTHY:
        begun = None
    heals = [heal for heal in map(_heal, said) if heal is not None]
    return Row(
        dataset=f"{named[1]}/{named[2]}" if named else source,
        nodes=(spec.get("nodeName", "-"),),
        state=why or state,
        since=begun,
        pods=1,
        layers=heals[-1].layers if heals else 1,
        last_heal=heals[-1] if heals else None,
        source=source,
        advice=trouble or _advice(events, name, state),
        users=(name,),
    )


def _trouble(pod: Object, name: str, error: str) -> tuple[str, str]:
    """Return the state and the advice where agent or sidecars do not run, else two empty texts."""
    if down := plugins.trouble_of(pod, AGENT):
        return datasets.AWAY, f"the agent of pod {name} does not run: {down}"
    for each in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
        if _SIDECAR.fullmatch(each["name"]) and (down := plugins.trouble_of(pod, each["name"])):
            return State.WAITING, (
                f"{each['name']} of pod {name} does not run: {down}. The volume heals by itself "
                "when it mounts again"
            )
    return (datasets.AWAY, f"the log of the agent of pod {name}: {error}") if error else ("", "")


def _advice(events: list[Line], name: str, state: str) -> str:
    return "" if state == State.HEALTHY else f"pod {name}: {events[-1].message}"


def _heal(line: Line) -> Heal | None:
    told = line.fields
    if line.message != "healed" or "latency_ms" not in told:
        return None
    outage = told.get("outage_s", "unknown")
    return Heal(
        source=told["source"],
        at=line.at,
        strategy=told.get("strategy", ""),
        ok=True,
        copies=int(told.get("copies", 0)),
        healed=int(told.get("copies", 0)),
        layers=int(told.get("layers", 0)),
        latency_s=float(told["latency_ms"]) / 1000,
        outage_s=None if outage == "unknown" else float(outage),
    )


def _started(pod: Object) -> float | None:
    text = pod.get("status", {}).get("startTime")
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) if text else None
