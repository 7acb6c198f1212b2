"""``make cluster-up`` and ``cluster-down``, and kubectl: the cluster for a person."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from tests.cluster.cluster import DEFAULT_NAME, Cluster
from tests.cluster.settings import BIN, CLUSTERS
from tests.cluster.waiting import ClusterError


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--name", default=DEFAULT_NAME, help="one of several clusters")
    parser.add_argument("--all", action="store_true", help="for down: every one of this checkout")
    parser.add_argument("command", choices=("up", "down", "kubectl", "enter"))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="for kubectl and enter")
    options = parser.parse_args(arguments)
    names = [options.name]
    if options.all and options.command == "down":
        names = [folder.name for folder in CLUSTERS.glob("*")]
    try:
        return max((_run(Cluster(n), options.command, options.rest) for n in names), default=0)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1


def _run(cluster: Cluster, command: str, rest: Sequence[str]) -> int:
    if command == "up":
        started = time.monotonic()
        cluster.up()
        print(_told(cluster, time.monotonic() - started))
    elif command == "down":
        cluster.down()
        print(f"cluster {cluster.name} is down, and nothing of it is left")
    else:
        inner = cluster.kubectl_command(*rest) if command == "kubectl" else tuple(rest)
        outer = cluster.node.command(*inner)
        os.execvp(outer[0], outer)
    return 0


def _told(cluster: Cluster, seconds: float) -> str:
    name = "" if cluster.name == DEFAULT_NAME else f" NAME={cluster.name}"
    return (
        f"cluster {cluster.name} is up after {seconds:.1f} s: node {cluster.node.ip}, "
        f"pods {cluster.node.pod_subnet}, logs in {cluster.place.logs}\n"
        f"  make kubectl{name} ARGS='get pods -A'     make cluster-down{name}\n"
        "  or, for kubectl, kubectl csi-fluid and helm in this terminal:\n"
        f"  export KUBECONFIG={cluster.place.secrets}/admin.conf PATH={BIN}:$PATH"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
