"""`kubectl csi-fluid doctor`: what the nodes and the cluster lack, in one table."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from csi_fluid.cli import screen, times
from csi_fluid.driver import NAME as DRIVER
from csi_fluid.kubectl import findings, fleet, options, plugins
from csi_fluid.kubectl.api import Absent, Api, Object, Unanswered
from csi_fluid.kubectl.findings import Finding
from csi_fluid.kubectl.plugins import Plugin
from csi_fluid.kubectl.rights import Denied
from csi_fluid.webhook import CONFIGURATION, SERVICE

_EXAMPLES = """\
  kubectl csi-fluid doctor
  kubectl csi-fluid doctor -o json | jq '.[] | select(.verdict != "ok")'"""
_COLOURS = {"ok": "green", "limited": "yellow", "no answer": "yellow"}
_SOON_S = 14 * 86400.0
_EXPIRY = "csi_fluid_certificate_expiry_timestamp_seconds"
_K0S = "/var/lib/k0s/kubelet"
_DRIVER_FIELDS = {"attachRequired": False, "podInfoOnMount": True, "requiresRepublish": False}


def run(argv: Sequence[str]) -> int:
    """Print what was found; return 1 if something that is needed is missing."""
    parser = options.Parser(
        "doctor", "[OPTIONS]", "Show what the nodes and the cluster lack.", _EXAMPLES
    )
    parser.add_argument("--node", default="", metavar="NAME", help="this node alone")
    parser.add_argument(
        "-o", "--output", choices=("json", "wide"), help="json, or what is well too"
    )
    with parser.read(argv) as asked:
        found = collect(asked)
    if asked.given.output == "json":
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        _print(found, wide=asked.given.output == "wide")
    return int(any(each.verdict == "missing" for each in found))


def collect(asked: options.Asked) -> list[Finding]:
    """Ask the nodes and the API server; return what was found, what is wrong first."""
    every = plugins.need(asked.api, asked.namespace, asked.given.node)
    return findings.together(
        [*_of_cluster(asked, every), *_of_plugins(every), *_of_nodes(asked, every)]
    )


# ---- What the nodes say


def _of_nodes(asked: options.Asked, every: Sequence[Plugin]) -> Iterator[Finding]:
    question = plugins.asking(asked.api, ("doctor", "--json"), asked.limits)
    replies = fleet.ask(every, question, asked.limits)
    for reply in screen.counted(replies, len(every), "asking the nodes"):
        node = reply.asked.node
        if reply.error:
            yield Finding("plugin", "no answer", reply.error, "nothing is known of it", (node,))
        else:
            yield from findings.of_node(node, reply.answer or ())


def _of_plugins(every: Sequence[Plugin]) -> Iterator[Finding]:
    images = {plugin.node: plugin.image for plugin in every}
    yield from findings.versions(
        "plugin's image", images, "is a roll-out under way? kubectl rollout status"
    )
    for plugin in every:
        if plugin.heals:
            yield Finding("FuseRecovery", "ok", "on", nodes=(plugin.node,))
        else:
            follows = "broken volumes are not healed: --feature-gates=FuseRecovery=true"
            yield Finding("FuseRecovery", "limited", "off", follows, (plugin.node,))


# ---- What the API server says


def _of_cluster(asked: options.Asked, every: Sequence[Plugin]) -> Iterator[Finding]:
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "kernel and kubelet": lambda: _nodes(asked.api, every, asked.given.node),
        f"CSIDriver {DRIVER}": lambda: _driver(asked.api),
        "registration with kubelet": lambda: _registered(asked.api, every),
        "webhook": lambda: _webhook(asked),
    }
    for what, look in looks.items():
        try:
            yield from look()
        except (Denied, Unanswered) as error:
            yield Finding(what, "no answer", str(error))


def _nodes(api: Api, every: Sequence[Plugin], only: str) -> Iterator[Finding]:
    nodes = {each["metadata"]["name"]: each for each in api.items("/api/v1/nodes")}
    yield from _systems(nodes, every)
    bare = nodes.keys() - {plugin.node for plugin in every}
    for name in sorted(bare if not only else ()):
        if nodes[name]["metadata"].get("labels", {}).get("type") != "virtual-kubelet":
            follows = "no volume of a dataset can be mounted there; do tolerations keep it away?"
            yield Finding("plugin", "limited", "has no pod", follows, (name,))


def _systems(nodes: Mapping[str, Object], every: Sequence[Plugin]) -> Iterator[Finding]:
    infos = {p.node: nodes[p.node]["status"]["nodeInfo"] for p in every if p.node in nodes}
    for what, key in (("kernel", "kernelVersion"), ("kubelet", "kubeletVersion")):
        by_node = {name: info[key] for name, info in infos.items()}
        for each in findings.versions(what, by_node, ""):
            yield dataclasses.replace(each, verdict="ok")  # nodes may differ
    for plugin in every:
        is_k0s = "+k0s" in infos.get(plugin.node, {}).get("kubeletVersion", "")
        if is_k0s and plugin.trouble and not any(_K0S in word for word in plugin.arguments):
            follows = f"set csi.kubelet.rootDir={_K0S}, or KUBELET_ROOTDIR and the volumes"
            seen = f"k0s has it at {_K0S}"
            yield Finding("kubelet's directory", "missing", seen, follows, (plugin.node,))


def _driver(api: Api) -> Iterator[Finding]:
    what = f"CSIDriver {DRIVER}"
    try:
        spec = api.get(f"/apis/storage.k8s.io/v1/csidrivers/{DRIVER}")["spec"]
    except Absent:
        follows = "kubelet tells no pod of a volume, so events have none; apply csidriver.yaml"
        yield Finding(what, "limited", "is not there", follows)
        return
    other = [
        f"{name}: {spec.get(name)}" for name, v in _DRIVER_FIELDS.items() if spec.get(name) != v
    ]
    if other:
        yield Finding(what, "limited", ", ".join(other), "delete it and apply csidriver.yaml again")
    else:
        yield Finding(what, "ok", "is there")


def _registered(api: Api, every: Sequence[Plugin]) -> Iterator[Finding]:
    what = "registration with kubelet"
    registered = {
        each["metadata"]["name"]
        for each in api.items("/apis/storage.k8s.io/v1/csinodes")
        if DRIVER in {driver["name"] for driver in each["spec"].get("drivers") or ()}
    }
    for plugin in every:
        if plugin.node in registered:
            yield Finding(what, "ok", f"CSINode names {DRIVER}", nodes=(plugin.node,))
        else:
            follows = "no new pod can mount there; the plugin's log has kubelet's reason"
            yield Finding(what, "missing", "CSINode does not name it", follows, (plugin.node,))


def _webhook(asked: options.Asked) -> Iterator[Finding]:
    """Look at the webhook for serverless pods, if it is installed."""
    group = "/apis/admissionregistration.k8s.io/v1"
    try:
        found = asked.api.get(f"{group}/mutatingwebhookconfigurations/{CONFIGURATION}")
    except Absent:
        yield Finding("webhook", "ok", "is not installed: serverless pods do not heal")
        return
    if not all(each["clientConfig"].get("caBundle") for each in found["webhooks"]):
        follows = f"no API server trusts it yet: kubectl logs -n {asked.namespace} deploy/{SERVICE}"
        yield Finding("webhook", "missing", "has no caBundle", follows)
    place = f"/api/v1/namespaces/{asked.namespace}/pods"
    pods = list(asked.api.items(place, labelSelector=f"app={SERVICE}"))
    ready = [pod for pod in pods if _is_ready(pod)]
    if not ready:
        follows = "serverless pods that are made now do not heal"
        yield Finding("webhook", "missing", f"0 of {len(pods)} replicas are ready", follows)
        return
    yield Finding("webhook", "ok", f"{len(ready)} of {len(pods)} replicas are ready")
    yield _certificate(asked, ready[0])


def _certificate(asked: options.Asked, pod: Object) -> Finding:
    metrics = plugins.metrics(asked.api, pod, "webhook", asked.limits)
    ends = [line.split()[-1] for line in metrics.splitlines() if line.startswith(_EXPIRY)]
    if not ends:
        return Finding("webhook's certificate", "missing", "it serves none", "see its log")
    left_s = float(ends[0]) - time.time()
    seen = f"ends in {times.span(left_s)}"
    if left_s < _SOON_S:
        return Finding("webhook's certificate", "limited", seen, "its log says why it stays")
    return Finding("webhook's certificate", "ok", seen)


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(x["type"] == "Ready" and x["status"] == "True" for x in conditions)


# ---- The table


def _print(found: Sequence[Finding], *, wide: bool) -> None:
    table = Table("what", "verdict", "nodes", "seen", "what follows", box=None)
    well = sum(each.is_well for each in found)
    always = {"kernel", "kubelet", "plugin's image", "FuseRecovery"}
    for each in found:
        if wide or not each.is_well or each.what in always:
            verdict = Text(each.verdict, _COLOURS.get(each.verdict, "bold red"))
            cells = (each.what, screen.some(each.nodes) or "-", each.seen, each.follows)
            what, nodes, seen, follows = (Text(screen.plain(text)) for text in cells)
            table.add_row(what, verdict, nodes, seen, follows)
    console = screen.console()
    console.print(table)
    if well and not wide:
        console.print(Text(f"\n{well} things are well; -o wide shows them."))
