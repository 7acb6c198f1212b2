"""Debian's Prometheus on the node, with the alert rules of the manifests."""

import json
import signal
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests import manifests
from tests.cluster.cluster import Cluster
from tests.cluster.settings import NODE_NAME


class Prometheus:
    """One life of it; it scrapes each second."""

    def __init__(self, cluster: Cluster, folder: Path, targets: Mapping[str, str]) -> None:
        """Start it in a folder; targets are the addresses to scrape, by the name of their job."""
        self._cluster = cluster
        rules = manifests.read(manifests.FOLDER / "components/monitoring/prometheusrule.yaml")
        jobs = [
            {
                "job_name": name,
                "static_configs": [{"targets": [target], "labels": {"node": NODE_NAME}}],
            }
            for name, target in targets.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.yaml")],
            "scrape_configs": jobs,
        }
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules[0]["spec"]))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        command = (
            *("prometheus", f"--config.file={folder}/prometheus.yaml"),
            *(f"--storage.tsdb.path={folder}/data", "--web.listen-address=0.0.0.0:9090"),
        )
        cluster.node.start("prometheus", *command)
        self._url = f"http://{cluster.node.ip}:9090/api/v1"

    def stop(self) -> None:
        """End it."""
        self._cluster.node.signal("prometheus", signal.SIGKILL)

    def ask(self, query: str, **when: float) -> list[Any]:
        """Return the result of a query; nothing while Prometheus starts.

        With start, end and step, all in seconds, it is one of a range.
        """
        kind = "query_range" if when else "query"
        url = f"{self._url}/{kind}?{urllib.parse.urlencode({'query': query} | when)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return list(json.load(answer)["data"]["result"])
        except OSError:
            return []

    def value(self, query: str) -> float | None:
        """Return the only value that a query has."""
        found = self.ask(query)
        return float(found[0]["value"][1]) if found else None
