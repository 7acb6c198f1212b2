"""How long applications wait for a FUSE daemon that crashes again and again, on a real kubelet.

    .venv/bin/python -m tests.cluster.backoff [--crashes=10] [--max-period=10s]

Each setting of --reset-backoff gets a cluster of its own, all at the same time, with kubelet's own
back-off. The FUSE daemon is killed, again 2 s after each heal; the application itself notes, in
hundredths of a second, when it could not read and when it could again. With kubelet's defaults ten
crashes take about half an hour. The table goes to stdout, progress to stderr.
"""

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Fluid, application
from tests.cluster.fluidobjects import Spec
from tests.cluster.plugin import Plugin
from tests.cluster.settings import KubeletSettings
from tests.cluster.waiting import ClusterError, wait_for

SOURCE = "/var/lib/data"
LONGEST_S = 500.0  # 300 s of kubelet's, and what it takes to notice
QUIET_S = 2.0
# The shell notes each change; /proc/uptime has hundredths of a second and no namespace.
NOTES = """
while true; do
  if cat /data/hello >/dev/null 2>&1; then now=reads; else now=fails; fi
  if [ "$now" != "$last" ]; then read up idle </proc/uptime; echo "$up $now"; last=$now; fi
  sleep 0.05
done
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One column of the table: the arguments that the plugin gets."""

    key: str
    title: str
    arguments: tuple[str, ...]
    overlay: str = "overlays/recovery"


SETTINGS = (
    Setting("without", "without it", ()),
    Setting("reset", "`--reset-backoff=20s`", (), "overlays/reset-backoff"),
    Setting(
        "often",
        "the same, `--reset-backoff-interval=1m`",
        ("--reset-backoff-interval=1m",),
        "overlays/reset-backoff",
    ),
)


class Patient:
    """A dataset on a cluster of its own, and an application that notes its outages."""

    def __init__(self, setting: Setting, name: str, max_period: str | None) -> None:
        self._setting = setting
        self._cluster = Cluster(f"{name}-{setting.key}")
        self._settings = KubeletSettings("1m", max_period, "1m")
        self._spec = Spec("default", "demo", source=SOURCE)

    def measure(self, crashes: int) -> list[float]:
        """Return the outage of each crash in seconds."""
        outages: list[float] = []
        for number in range(1, crashes + 1):
            outages.append(self._crash(len(outages)))
            print(f"{self._setting.key}: {number}: {outages[-1]:.1f} s", file=sys.stderr)
        restarts = self._cluster.container_status("app", "main", "default")["restartCount"]
        if restarts:
            raise ClusterError(f"the application was restarted {restarts} times")
        return outages

    def stop(self) -> None:
        """Take the cluster down."""
        self._cluster.down()

    def start(self) -> None:
        """Bring everything up and return when the application reads."""
        cluster = self._cluster
        cluster.down()
        cluster.up(self._settings)
        cluster.write(f"{SOURCE}/hello", "hello\n")
        plugin = Plugin(cluster)
        plugin.install(self._setting.overlay)
        if self._setting.arguments:
            plugin.add_arguments(*self._setting.arguments)
        fluid = Fluid(cluster)
        fluid.dataset(self._spec)
        pod = application("app", "demo", propagation="HostToContainer")
        pod["spec"]["containers"][0]["command"] = ["sh", "-c", NOTES]
        cluster.apply(pod, namespace="default")
        cluster.wait_ready("app", "default", 120)
        wait_for(self._notes, "the first data")

    def _crash(self, before: int) -> float:
        """Kill the daemon once; return the outage when it is over."""
        wait_for(lambda: len(self._outages()) == before, "the end of the last outage")
        pause(QUIET_S)
        fluid = Fluid(self._cluster)
        pod = fluid.fuse_pod(self._spec)
        container = fluid.fuse_container(self._spec)
        self._cluster.kill_container(pod, container, namespace="default")
        wait_for(lambda: len(self._outages()) > before, "the end of the outage", LONGEST_S, 1.0)
        return self._outages()[before]

    def _notes(self) -> list[tuple[float, str]]:
        lines = self._cluster.kubectl("logs", "app", "-n", "default", check=False).splitlines()
        return [(float(line.split()[0]), line.split()[1]) for line in lines if line]

    def _outages(self) -> list[float]:
        notes = self._notes()
        return [
            after - at for (at, what), (after, _) in itertools.pairwise(notes) if what == "fails"
        ]


def pause(seconds: float) -> None:
    """Let time pass: here that is what is asked for, and nothing is awaited."""
    end = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= end, "the clock", seconds + 1)


def table(settings: Sequence[Setting], results: Sequence[Sequence[float]]) -> str:
    """Return the outages as a table of Markdown."""
    titles = [setting.title for setting in settings]
    lines = [f"| crash | {' | '.join(titles)} |", "|" + "---|" * (len(titles) + 1)]
    for number, row in enumerate(zip(*results, strict=True), 1):
        lines.append(f"| {number} | {' | '.join(f'{outage:.1f} s' for outage in row)} |")
    lines.append(f"| all | {' | '.join(f'{sum(r):.0f} s' for r in results)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure all settings at the same time and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    keys = [setting.key for setting in SETTINGS]
    parser.add_argument("--only", nargs="+", choices=keys, default=keys, metavar="SETTING")
    parser.add_argument("--name", default="backoff", help="what the clusters' names begin with")
    parser.add_argument("--crashes", type=int, default=10)
    parser.add_argument("--max-period", help="kubelet's longest back-off; default: its own, 300 s")
    options = parser.parse_args(arguments)
    settings = [setting for setting in SETTINGS if setting.key in options.only]
    patients = [Patient(setting, options.name, options.max_period) for setting in settings]
    try:
        for patient in patients:
            patient.start()
        with ThreadPoolExecutor(len(patients)) as pool:
            results = list(pool.map(lambda patient: patient.measure(options.crashes), patients))
    finally:
        for patient in patients:
            patient.stop()
    print(table(settings, results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
