"""The plugins of the nodes: where they run, and what one says when it is asked.

A plugin is known by the label of its pod, `app=csi-nodeplugin-fluid`, which is also that of Fluid's
own plugin: one without our program in it is told apart by what happens when it is asked.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from csi_fluid import optiontypes
from csi_fluid.kubectl.api import Api, Container, Object, Unanswered
from csi_fluid.kubectl.fleet import Limits

SELECTOR = "app=csi-nodeplugin-fluid"
NAME = "plugins"
_GATES = "--feature-gates="
_METRICS = (
    "import sys, urllib.request as r;"
    "print(r.urlopen('http://127.0.0.1:' + sys.argv[1] + '/metrics', timeout=5).read().decode())"
)


@dataclass(frozen=True, slots=True)
class Plugin:
    """The plugin's pod on a node; trouble says why it cannot be asked, "" where it can."""

    node: str
    container: Container
    image: str
    arguments: tuple[str, ...] = ()
    sees_containers: bool = False
    trouble: str = ""

    @property
    def heals(self) -> bool:
        """Return whether the gate FuseRecovery is on."""
        gates = [w.removeprefix(_GATES) for w in self.arguments if w.startswith(_GATES)]
        try:
            return bool(gates) and optiontypes.parse_gates(gates[-1])["FuseRecovery"]
        except ValueError:  # gates of another version
            return "FuseRecovery=true" in gates[-1]


def find(api: Api, namespace: str, node: str = "") -> tuple[Plugin, ...]:
    """Return the plugins of all nodes, or of one."""
    query = {"labelSelector": SELECTOR}
    if node:
        query["fieldSelector"] = f"spec.nodeName={node}"
    pods = api.items(f"/api/v1/namespaces/{namespace}/pods", **query)
    found = (_of_pod(pod) for pod in pods if pod["spec"].get("nodeName"))
    return tuple(sorted(found, key=lambda plugin: plugin.node))


def need(api: Api, namespace: str, node: str = "") -> tuple[Plugin, ...]:
    """Return the plugins as `find` does; raises Unanswered where there is none."""
    found = find(api, namespace, node)
    if not found:
        raise absence(namespace, node)
    return found


def absence(namespace: str, node: str) -> Unanswered:
    """Return the error for a cluster, or a node, without a plugin."""
    where = f" on node {node}" if node else ""
    return Unanswered(
        f"there is no pod with label {SELECTOR} in namespace {namespace}{where}; say with "
        "--fluid-namespace where the plugin is installed"
    )


def _of_pod(pod: Object) -> Plugin:
    metadata, spec = pod["metadata"], pod["spec"]
    ours: Object = next((each for each in spec["containers"] if each["name"] == NAME), {})
    return Plugin(
        spec["nodeName"],
        Container(metadata["namespace"], metadata["name"], NAME),
        ours.get("image", ""),
        tuple(ours.get("args", ())),
        bool(spec.get("hostPID")),
        trouble_of(pod, NAME),
    )


def trouble_of(pod: Object, container: str) -> str:
    """Say why a container of a pod does not run; "" where it does."""
    status = pod.get("status", {})
    every = status.get("containerStatuses", []) + status.get("initContainerStatuses", [])
    for each in every:
        if each["name"] != container:
            continue
        state: Object = each.get("state", {})
        if "running" in state:
            return ""
        told: Object = state.get("waiting") or state.get("terminated") or {}
        words = (told.get("reason", "not started"), told.get("message", ""))
        return ": ".join(filter(None, words))
    return f"its pod is {status.get('phase', 'unknown')}"


def asking(api: Api, command: Sequence[str], limits: Limits) -> Callable[[Plugin], Any]:
    """Return the question: run a command of `csi-fluid` that prints JSON, and read that.

    It raises usage.Failure with what the plugin said, or why it cannot say anything.
    """

    def question(plugin: Plugin) -> Any:
        where = plugin.container
        if plugin.trouble:
            raise Unanswered(
                f"the plugin does not run: {plugin.trouble}; kubectl describe po -n "
                f"{where.namespace} {where.pod} says more"
            )
        output = api.execute(where, ("csi-fluid", *command), timeout_s=limits.each_s)
        try:
            return json.loads(output.stdout)
        except ValueError as error:
            said = (output.stderr or output.stdout).strip().splitlines()
            raise Unanswered(said[-1] if said else f"status {output.status}") from error

    return question


def metrics(api: Api, pod: Object, container: str, limits: Limits) -> str:
    """Return what a container of ours says at /metrics, asked from within: no further right."""
    metadata = pod["metadata"]
    ours = next(each for each in pod["spec"]["containers"] if each["name"] == container)
    port = next((p["containerPort"] for p in ours.get("ports", ()) if p["name"] == "metrics"), 8080)
    where = Container(metadata["namespace"], metadata["name"], container)
    command = ("python3", "-c", _METRICS, str(port))
    output = api.execute(where, command, timeout_s=limits.each_s)
    if output.status:
        said = output.stderr.strip().splitlines() or [f"status {output.status}"]
        raise Unanswered(f"/metrics of {where.pod}: {said[-1]}")
    return output.stdout
