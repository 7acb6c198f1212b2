"""What goes into a bundle: from each node's plugin and from the API server, as files with text.

Nothing here is redacted yet, and no Secret is ever asked for.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from csi_fluid import kubelet
from csi_fluid.cli import usage
from csi_fluid.driver import NAME as DRIVER
from csi_fluid.kube.calls import FLUID_API, RUNTIMES
from csi_fluid.kubectl import agents, plugins
from csi_fluid.kubectl.api import Absent, Api, Object
from csi_fluid.kubectl.fleet import Limits
from csi_fluid.kubectl.plugins import Plugin
from csi_fluid.webhook import CONFIGURATION

# Every life of the container, and what kubelet has rotated, oldest first; the last 20 MB of it.
_LOGS = (
    "cd /proc/1/root && cd var/log/pods/$0/plugins && for f in $(ls -tr); do "
    "case $f in *.gz) zcat -f $f;; *) cat $f;; esac; done | tail -c 20000000"
)
_SHOWN = ("fuse", "/runtime-mnt")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the bundle; data is text, or JSON data, None where there is no such object."""

    path: str
    data: Any


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be had, and why."""

    path: str
    why: str


Part = File | Missing


def _try(path: str, func: Callable[[], Any]) -> Part:
    try:
        return File(path, func())
    except Absent:
        return File(path, None)
    except usage.Failure as error:
        return Missing(path, str(error))


def of_node(api: Api, limits: Limits) -> Callable[[Plugin], list[Part]]:
    """Return the question to a plugin: everything that it knows."""

    def ask(plugin: Plugin) -> list[Part]:
        folder = f"nodes/{plugin.node}"
        parts = [_try(f"{folder}/log.txt", lambda: _log(api, plugin, limits))]
        if plugin.trouble:
            return [*parts, Missing(folder, f"the plugin does not run: {plugin.trouble}")]
        for verb in ("status", "doctor"):
            question = plugins.asking(api, (verb, "--json"), limits)
            parts.append(_try(f"{folder}/{verb}.json", lambda q=question: q(plugin)))  # type: ignore[misc]
        where = plugin.container
        pod = f"/api/v1/namespaces/{where.namespace}/pods/{where.pod}"
        return [
            *parts,
            _try(f"{folder}/pod.json", lambda: api.get(pod)),
            _try(f"{folder}/mounts.txt", lambda: _mounts(api, plugin, limits)),
            _try(
                f"{folder}/metrics.txt",
                lambda: plugins.metrics(api, api.get(pod), plugins.NAME, limits),
            ),
        ]

    return ask


def _log(api: Api, plugin: Plugin, limits: Limits) -> str:
    """Return all logs where the plugin sees the node's, else what the API server has."""
    where = plugin.container
    path = f"/api/v1/namespaces/{where.namespace}/pods/{where.pod}"
    if not plugin.trouble:
        uid = api.get(path)["metadata"]["uid"]
        folder = f"{where.namespace}_{where.pod}_{uid}"
        output = api.execute(where, ("sh", "-c", _LOGS, folder), timeout_s=limits.each_s)
        if output.stdout:
            return output.stdout
    return api.text(f"{path}/log", container=where.name)


def _mounts(api: Api, plugin: Plugin, limits: Limits) -> str:
    command = ("cat", "/proc/self/mountinfo")
    table = api.execute(plugin.container, command, timeout_s=limits.each_s).stdout
    return "".join(
        line
        for line in table.splitlines(keepends=True)
        if kubelet.is_of_volume(line) or any(word in line for word in _SHOWN)
    )


def of_cluster(api: Api, namespace: str) -> Iterator[Part]:
    """Yield what the API server has: objects and events, and the logs of the webhook."""
    lists: dict[str, Callable[[], Any]] = {
        "datasets": lambda: list(api.items(f"{FLUID_API}/datasets")),
        **{
            plural: lambda plural=plural: list(api.items(f"{FLUID_API}/{plural}"))  # type: ignore[misc]
            for plural in RUNTIMES.values()
        },
        "nodes": lambda: list(api.items("/api/v1/nodes")),
        "persistentvolumes": lambda: _volumes(api),
        "daemonsets": lambda: list(api.items(f"/apis/apps/v1/namespaces/{namespace}/daemonsets")),
        "fusepods": lambda: list(
            api.items("/api/v1/pods", labelSelector="fluid.io/managed-by=fluid")
        ),
        "serverlesspods": lambda: agents.pods(api),
        "csidriver": lambda: api.get(f"/apis/storage.k8s.io/v1/csidrivers/{DRIVER}"),
        "csinodes": lambda: list(api.items("/apis/storage.k8s.io/v1/csinodes")),
        "webhook": lambda: api.get(
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/" + CONFIGURATION
        ),
        "events": lambda: _events(api),
    }
    for name, look in lists.items():
        yield _try(f"objects/{name}.json", look)


def _volumes(api: Api) -> list[Object]:
    every = api.items("/api/v1/persistentvolumes")
    return [each for each in every if each["spec"].get("csi", {}).get("driver") == DRIVER]


def _events(api: Api) -> list[Object]:
    """Return the events of recovery, of datasets, and what went wrong with any pod of them."""
    return [
        each
        for each in api.items("/api/v1/events")
        if each["reason"].startswith("Fuse")
        or each["involvedObject"]["kind"] == "Dataset"
        or "fuse" in each["involvedObject"].get("name", "")
        or "csi" in each["involvedObject"].get("name", "")
    ]


def shown(data: Any) -> str:
    """Return the text of a file."""
    return data if isinstance(data, str) else json.dumps(data, indent=2) + "\n"
