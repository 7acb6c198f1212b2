"""`kubectl csi-fluid explain POD`: what became of one pod's volumes, and what to do."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from csi_fluid.cli import times, usage
from csi_fluid.kubectl import agents, options, plugins, story
from csi_fluid.kubectl.api import Absent, Api, Object, Unanswered
from csi_fluid.kubectl.datasets import Row
from csi_fluid.kubectl.rights import Denied
from csi_fluid.kubectl.story import Moment, Reach, Volume

_EXAMPLES = """\
  kubectl csi-fluid explain my-app-0
  kubectl csi-fluid explain -n team-a my-app-0"""
_REASON = "Fuse"  # the reasons of our events begin with it
_LAST = 12  # moments that are told


@dataclass(slots=True)
class Findings:
    """What was found of one volume; what could not be looked at is in unknown."""

    volume: Volume
    report: Mapping[str, Any] = field(default_factory=dict)
    fuse_pods: list[Object] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    superblocks: tuple[str, str] = ("", "")
    reach: Reach | None = None
    unknown: list[str] = field(default_factory=list)


def run(argv: Sequence[str]) -> int:
    """Print the story of a pod."""
    parser = options.Parser(
        "explain", "[-n NAMESPACE] POD", "Tell the story of one pod's volumes.", _EXAMPLES
    )
    parser.add_argument("-n", "--namespace", default="", help="the pod's namespace")
    parser.add_argument("pod", metavar="POD")
    with parser.read(argv) as asked:
        for line in _told(asked, _pod(asked)):
            print(line)
    return 0


def _pod(asked: options.Asked) -> Object:
    namespace = asked.given.namespace or asked.api.namespace
    try:
        return asked.api.get(f"/api/v1/namespaces/{namespace}/pods/{asked.given.pod}")
    except Absent as error:
        where = f"{error} in namespace {namespace}; say with -n in which it is"
        raise usage.Failure(where) from error


def _told(asked: options.Asked, pod: Object) -> Iterator[str]:
    now = time.time()
    node = pod["spec"].get("nodeName", "")
    phase = pod.get("status", {}).get("phase", "unknown")
    name = "{namespace}/{name}".format(**pod["metadata"])
    yield f"pod {name} on node {node or '(none yet)'}: {phase}"
    found = list(_volumes(asked.api, pod))
    guarded = list(_guarded(asked.api, pod))
    if not found and not guarded:
        yield "It uses no volume of a dataset: no claim of it is bound to one of the driver."
    for volume in found:
        yield from _chapter(_look(asked, pod, volume), now)
    for row in guarded:
        yield from _of_agent(row, now)


def _volumes(api: Api, pod: Object) -> Iterator[Volume]:
    namespace = pod["metadata"]["namespace"]
    claimed = [each for each in pod["spec"].get("volumes", ()) if "persistentVolumeClaim" in each]
    for volume in claimed:
        name = volume["persistentVolumeClaim"]["claimName"]
        claim = api.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
        bound = claim["spec"].get("volumeName")
        found = api.get(f"/api/v1/persistentvolumes/{bound}") if bound else None
        if found and (ours := story.volume_of(pod, volume, claim, found)):
            yield ours


# ---- Look


def _look(asked: options.Asked, pod: Object, volume: Volume) -> Findings:
    found = Findings(volume)
    for look in (_ask_plugin, _find_fuse_pods, _find_events):
        try:
            look(asked, pod, found)
        except (Denied, Unanswered) as error:
            found.unknown.append(str(error))
    return found


def _ask_plugin(asked: options.Asked, pod: Object, found: Findings) -> None:
    node = pod["spec"].get("nodeName")
    if not node:
        return
    (plugin, *_) = plugins.need(asked.api, asked.namespace, node)
    found.reach = Reach(
        heals=plugin.heals,
        sees_containers=plugin.sees_containers,
        heals_writable=any(
            word in {"--recover-writable", "--recover-writable=true"} for word in plugin.arguments
        ),
    )
    report = plugins.asking(asked.api, ("status", "--json"), asked.limits)(plugin)
    found.report = next(
        (each for each in report["datasets"] if each["source"] == found.volume.source), {}
    )
    found.moments += story.of_heal(found.report.get("last_heal"))
    targets = [
        each["target"]
        for each in found.report.get("publications", ())
        if each.get("pod_uid") == pod["metadata"]["uid"]
    ]
    command = ("cat", "/proc/self/mountinfo")
    table = asked.api.execute(plugin.container, command, timeout_s=asked.limits.each_s).stdout
    shown = story.superblocks(table, [found.volume.source, *targets])
    found.superblocks = shown[0], shown[1] if len(shown) > 1 else ""


def _find_fuse_pods(asked: options.Asked, pod: Object, found: Findings) -> None:
    namespace, name = found.volume.runtime
    node = pod["spec"].get("nodeName", "")
    query = {"labelSelector": f"release={name}", "fieldSelector": f"spec.nodeName={node}"}
    for each in asked.api.items(f"/api/v1/namespaces/{namespace}/pods", **query):
        if each["metadata"].get("labels", {}).get("role", "").endswith("-fuse"):
            found.fuse_pods.append(each)
            for status in each.get("status", {}).get("containerStatuses", ()):
                found.moments += story.of_container(status, f"FUSE container {status['name']}")


def _find_events(asked: options.Asked, pod: Object, found: Findings) -> None:
    uid = pod["metadata"]["uid"]
    pods = [(pod["metadata"], "the pod")]
    pods += [(each["metadata"], "the FUSE pod") for each in found.fuse_pods]
    for who, called in pods:
        events = _events(asked.api, who["namespace"], f"involvedObject.uid={who['uid']}")
        found.moments += story.of_events(events, called)
    namespace, name = found.volume.runtime
    selector = f"involvedObject.kind=Dataset,involvedObject.name={name}"
    told = {moment.text.partition(": ")[2] for moment in found.moments}
    others = [
        each
        for each in _events(asked.api, namespace, selector)
        if each.get("message") not in told and story.is_about(each, uid)
    ]
    found.moments += story.of_events(others, "the dataset")


def _events(api: Api, namespace: str, selector: str) -> list[Object]:
    """Return the events that are ours, or of what went wrong."""
    found = api.items(f"/api/v1/namespaces/{namespace}/events", fieldSelector=selector)
    return [x for x in found if x["reason"].startswith(_REASON) or x.get("type") == "Warning"]


# ---- Tell


def _chapter(found: Findings, now: float) -> Iterator[str]:
    volume, report = found.volume, found.report
    mode = "read-only" if volume.read_only else "can be written to"
    yield ""
    yield f"volume {volume.name}: dataset {'/'.join(volume.dataset)}, {mode}"
    yield f"  FUSE mount  {volume.source} on the node{_generation(found)}"
    if report:
        since = times.ago(report.get("since"), now)
        copies = f"{report['healthy']} of {report['copies']} copies answer"
        yield f"  state       {report['state']} (for {since}); {copies}, layers {report['layers']}"
    for mount in volume.mounts:
        part = f", subPath {mount.sub_path}" if mount.sub_path else ""
        yield f"  mounted     {mount.container} at {mount.path}, {mount.propagation}{part}"
    for pod in found.fuse_pods:
        yield from _of_fuse_pod(pod)
    yield from _section("what happened", _history(found.moments, now))
    if found.reach is not None:
        yield from _section("at the next crash", story.outlook(volume, found.reach))
    yield from _section("what to do", _advice(found) or ["nothing"])
    yield from _section("not known", found.unknown)


def _generation(found: Findings) -> str:
    source, target = found.superblocks
    if not source or not target:
        return ""
    same = "which the pod has too" if source == target else f"the pod has {target}, which is older"
    return f", generation {source}, {same}"


def _of_fuse_pod(pod: Object) -> Iterator[str]:
    limits = story.memory_limits(pod)
    for status in pod.get("status", {}).get("containerStatuses", ()):
        state = plugins.trouble_of(pod, status["name"]) or "running"
        facts = f"{status['restartCount']} restarts, memory limit {limits.get(status['name'])}"
        yield f"  FUSE pod    {pod['metadata']['name']}: {state}, {facts}"


def _history(moments: Sequence[Moment], now: float) -> Iterator[str]:
    for moment in sorted(moments, key=lambda each: each.at)[-_LAST:]:
        clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment.at))
        text = story.shortened(moment.text)
        yield f"{clock}  {times.ago(moment.at, now):>6} ago  {text}"


def _advice(found: Findings) -> list[str]:
    told = [found.report["advice"]] if found.report.get("advice") else []
    for pod in found.fuse_pods:
        told += story.memory_advice(pod)
    if not found.fuse_pods and not found.unknown:
        namespace, name = found.volume.runtime
        told.append(
            f"there is no FUSE pod of {namespace}/{name} on this node: is the dataset Bound? "
            f"kubectl get dataset,ds -n {namespace}"
        )
    return told


def _section(title: str, lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number == 0:
            yield f"  {title}"
        yield f"    {line}"


# ---- Serverless pods


def _guarded(api: Api, pod: Object) -> Iterator[Row]:
    if agents.of(pod) is None:
        return
    try:
        yield from agents.rows_of(pod, agents.log_of(api, pod))
    except (Denied, Unanswered) as error:
        yield from agents.rows_of(pod, "", str(error))


def _of_agent(row: Row, now: float) -> Iterator[str]:
    yield ""
    yield f"FUSE sidecar of dataset {row.dataset}, healed by the agent in this pod"
    yield f"  FUSE mount  {row.source} on the node"
    yield f"  state       {row.state} (for {times.ago(row.since, now)}), layers {row.layers}"
    yield f"  last heal   {times.last_heal(row.last_heal, now)}"
    yield from _section("what to do", [row.advice or "nothing"])
