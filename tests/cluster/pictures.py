"""The pictures of the docs, drawn anew from crashes on a cluster: `make pictures`.

docs/dashboard.svg has the panels of the Grafana dashboard, by their own queries on a Prometheus
that scrapes plugin and webhook; docs/status.svg has what `kubectl csi-fluid status` says during a
crash and after it.
"""

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from csi_fluid.demo.screen import picture
from csi_fluid.kubectl import status
from tests.cluster import drawing
from tests.cluster.cluster import Cluster, scratch
from tests.cluster.drawing import Line, Panel
from tests.cluster.fluid import Fluid, application
from tests.cluster.fluidobjects import Spec
from tests.cluster.plugin import Plugin
from tests.cluster.prometheus import Prometheus
from tests.cluster.recovery import NAME as WEBHOOK, Recovery
from tests.cluster.settings import ROOT
from tests.cluster.waiting import wait_for

_DASHBOARD = ROOT / "manifests/components/monitoring/dashboard.json"
_CRASHES = 5
_REST_S = 12.0
_STEP_S = 1.0
_INTERVAL = (
    "15s"  # what Grafana puts in for $__rate_interval at such a resolution, and a little more
)


class Show:
    """Two datasets on a cluster, one of which crashes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.fluid = Fluid(cluster)
        self.plugin = Plugin(cluster)
        self.webhook = Recovery(cluster)
        self.console = Console(record=True, width=112, file=sys.stderr)

    def set_up(self) -> list[Spec]:
        """Install everything; return the datasets."""
        self.plugin.install()
        self.webhook.deploy()
        made = []
        for name, dead in (("models", "unmount"), ("training", "refuse")):
            source = f"/var/lib/data/default/{name}"
            self.cluster.enter("mkdir", "-p", source)
            told = {"FUSE_DELAY": "1.5", "FUSE_DEAD": dead}
            spec = Spec(namespace="default", name=name, source=source, environment=told)
            made.append(self.fluid.dataset(spec))
            for number in range(3):
                pod = application(f"{name}-{number}", name)
                self.cluster.apply(pod, namespace="default")
                self.cluster.wait_ready(f"{name}-{number}", "default")
        return made

    def crash(self, spec: Spec) -> None:
        """Kill a dataset's daemon."""
        container = self.fluid.fuse_container(spec)
        self.cluster.kill_container(self.fluid.fuse_pod(spec), container, namespace="default")

    def show(self, spec: Spec, state: str) -> None:
        """Show the status of the cluster as soon as a dataset is in a state."""
        config = f"--kubeconfig={self.cluster.place.secrets}/admin.conf"
        parser = status._parser()

        def found() -> list[Any]:
            with parser.read([config]) as asked:
                rows = status.collect(asked)
            wanted = [row for row in rows if row.dataset.endswith(f"/{spec.name}")]
            return rows if any(state in row.state for row in wanted) else []

        rows = wait_for(found, f"{spec.name} to be {state}", 60)
        self.console.print("[bold green]$[/] kubectl csi-fluid status")
        for part in status.render(rows, time.time()):
            self.console.print(part)
        self.console.print()

    def heals(self) -> float:
        return self.plugin.metrics("csi_fluid_heals_total", result="healed")


def tell(show: Show, specs: list[Spec]) -> float:
    """Let the first dataset crash again and again, and the second stay away for a while.

    Return a time in Unix seconds at which it was away.
    """
    quick, slow = specs
    for _ in range(_CRASHES):
        before = show.heals()
        show.crash(quick)
        show.webhook.answers()  # one review
        wait_for(lambda before=before: show.heals() > before, "the heal", 60)  # type: ignore[misc]
        time.sleep(_REST_S)  # noqa: TID251  what is drawn is time
    show.crash(slow)
    show.show(slow, "waiting for FUSE")
    time.sleep(_REST_S)  # noqa: TID251
    away_at = time.time()
    show.cluster.enter("umount", "-l", slow.fluid_path)
    show.show(slow, "healthy")
    time.sleep(_REST_S)  # noqa: TID251
    return away_at


def panels(prometheus: Prometheus, begin: float, end: float, at: float) -> Iterator[Panel]:
    """Ask for what each panel shows over a time, a table at one moment of it."""
    for panel in json.loads(_DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        first, last = (at, at) if panel["type"] == "table" else (begin, end)
        lines = [
            Line(_name(target["legendFormat"], series["metric"]), _points(series))
            for target in panel["targets"]
            for series in prometheus.ask(
                _query(target["expr"]), start=first, end=last, step=_STEP_S
            )
        ]
        grid = panel["gridPos"]
        place = grid["x"], grid["y"], grid["w"], grid["h"]
        unit = panel["fieldConfig"]["defaults"].get("unit", "short")
        yield Panel(panel["title"], place, unit, lines, panel["type"])


def _query(text: str) -> str:
    return (
        text.replace("$node", ".*").replace("$__rate_interval", _INTERVAL).replace("$__range", "5m")
    )


def _name(legend: str, labels: dict[str, str]) -> str:
    shown = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)
    return shown.replace("/runtime-mnt/jindo/default/", ".../") or labels.get("source", "")


def _points(series: Any) -> list[tuple[float, float]]:
    return [(float(at), float(value)) for at, value in series["values"]]


def main() -> None:
    """Draw the pictures on a cluster that is made for them."""
    cluster = Cluster("pictures")
    cluster.up()
    folder = scratch()
    try:
        show = Show(cluster)
        specs = show.set_up()
        prometheus = Prometheus(cluster, folder, _targets(show))
        healthy = 'csi_fluid_publications{state="healthy"}'
        wait_for(lambda: prometheus.value(healthy) == 6, "Prometheus to know of all pods", 60)
        begin = time.time()
        away_at = tell(show, specs)
        end = time.time()
        found = list(panels(prometheus, begin, end, away_at))
        (ROOT / "docs/dashboard.svg").write_text(drawing.picture(found, begin, end))
        text = picture(show.console, "kubectl csi-fluid status")
        (ROOT / "docs/status.svg").write_text(text)
    finally:
        cluster.down()
        shutil.rmtree(folder)
    _say_what_is_empty(found)


def _targets(show: Show) -> dict[str, str]:
    pods = {
        "csi-nodeplugin-fluid": show.plugin.pod(),
        f"{WEBHOOK}-metrics": show.webhook.pods()[0],
    }
    found = {job: show.cluster.get("pod", pod, "fluid-system") for job, pod in pods.items()}
    return {job: f"{pod['status']['podIP']}:8080" for job, pod in found.items()}


def _say_what_is_empty(found: list[Panel]) -> None:
    empty = [panel.title for panel in found if not panel.lines]
    print(f"docs/dashboard.svg, docs/status.svg; without data: {', '.join(empty) or 'none'}")


if __name__ == "__main__":
    main()
