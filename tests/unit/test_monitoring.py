"""Alerts and dashboard: about metrics that exist, and the alerts come when they should."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from csi_fluid import telling
from csi_fluid.metrics import catalogue
from tests import manifests, sandbox
from tests.cluster.settings import ROOT
from tests.manifests import FOLDER, Object

MONITORING = FOLDER / "components/monitoring"
OVERLAY = "overlays/monitoring"
WEBHOOK = "serverless/monitoring"
RULES = (MONITORING / "prometheusrule.yaml", FOLDER / WEBHOOK / "prometheusrule.yaml")
KNOWN = {metric.name: metric for metric in (*catalogue.METRICS, *catalogue.WEBHOOK_METRICS)}
# What Prometheus itself adds to a sample here, and what a histogram's buckets have.
ADDED_LABELS = {"node", "job", "instance", "le"}
SERIES = re.compile(r"\b(csi_fluid_\w+)(?:\{([^}]*)\})?")


def rules() -> list[Object]:
    documents = [document for path in RULES for document in manifests.read(path)]
    groups = [group for document in documents for group in document["spec"]["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> Object:
    return dict(json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8")))


def queries() -> list[str]:
    panels = dashboard()["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def metric_of(series: str) -> catalogue.Metric | None:
    if series in KNOWN:
        return KNOWN[series] if KNOWN[series].kind != "histogram" else None
    base = KNOWN.get(re.sub(r"_(bucket|sum|count)$", "", series))
    return base if base is not None and base.kind == "histogram" else None


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in rules()), *queries()])
def test_every_query_is_about_metrics_and_labels_that_exist(query: str):
    for series, selector in SERIES.findall(query):
        metric = metric_of(series)
        assert metric is not None, series
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert labels <= {*metric.labels, *ADDED_LABELS}, series


def test_grouping_and_texts_name_labels_that_their_metric_has():
    for rule in rules():
        found = (metric_of(series) for series, _ in SERIES.findall(rule["expr"]))
        known = ADDED_LABELS.union(*(metric.labels for metric in found if metric))
        grouped = re.findall(r"by \(([\w, ]+)\)", rule["expr"])
        named = re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))

        assert {*named, *(label for group in grouped for label in group.split(", "))} <= known


def test_every_state_and_result_in_a_query_is_one_that_the_program_tells():
    text = "\n".join([*(rule["expr"] for rule in rules()), *queries()])

    assert set(re.findall(r'\bstate!?="(\w+)"', text)) <= set(catalogue.STATES)
    assert set(re.findall(r'\bresult="(\w+)"', text)) <= {"healed", "failed", "skipped", "error"}


def test_the_dashboard_shows_what_plugin_and_webhook_count():
    shown = {metric_of(series) for query in queries() for series, _ in SERIES.findall(query)}

    every = {*catalogue.METRICS, *catalogue.WEBHOOK_METRICS}
    assert {metric.name for metric in every} == {m.name for m in shown if m}


def test_no_two_panels_share_an_id_or_a_place():
    panels = dashboard()["panels"]
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}

    assert len({panel["id"] for panel in panels}) == len(places) == len(panels)


def test_the_dashboard_reaches_the_cluster_as_it_lies_here():
    found = manifests.one(manifests.rendered(OVERLAY), "ConfigMap")

    assert found["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(found["data"]["csi-fluid.json"]) == dashboard()


@pytest.mark.parametrize(
    ("folders", "kind"), [([OVERLAY], "DaemonSet"), (["serverless", WEBHOOK], "Deployment")]
)
def test_the_pods_are_what_is_scraped(folders: list[str], kind: str):
    objects = [found for folder in folders for found in manifests.rendered(folder)]
    monitor = manifests.one(objects, "ServiceMonitor")
    label = monitor["spec"]["selector"]["matchLabels"]["app"]
    service = manifests.one(objects, "Service", label)
    template = manifests.one(objects, kind)["spec"]["template"]
    (port,) = service["spec"]["ports"]
    (endpoint,) = monitor["spec"]["endpoints"]
    ports = [p for c in template["spec"]["containers"] for p in c["ports"]]

    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert service["metadata"]["labels"]["app"] == label
    assert endpoint["port"] == port["name"]
    assert port["targetPort"] in {p["name"] for p in ports}
    assert f'job="{service["metadata"]["name"]}"' in "".join(rule["expr"] for rule in rules())


# ---- The alerts, as Prometheus evaluates them

NODE = 'node="n1"'
SOURCE = 'source="/runtime-mnt/juicefs/ns/demo/juicefs-fuse"'
# By alert: the samples (one a minute, in promtool's notation), and from which minute on it fires.
CASES: dict[str, tuple[dict[str, str], int]] = {
    "CsiFluidVolumeAway": (
        {f"csi_fluid_broken_since_timestamp_seconds{{{NODE},{SOURCE}}}": "60x20"},
        4,
    ),
    "CsiFluidHealFailed": (
        {f'csi_fluid_heals_total{{{NODE},result="failed",strategy="namespace"}}': "_ _ 1 1 1"},
        2,
    ),
    "CsiFluidVolumeNotHealed": (
        {f'csi_fluid_publications{{{NODE},state="skipped"}}': "0 0 1x20"},
        12,
    ),
    "CsiFluidDaemonKeepsCrashing": (
        {f'csi_fluid_heals_total{{{NODE},result="healed",strategy="namespace"}}': "0 1+1x30"},
        11,
    ),
    "CsiFluidHealSlow": (
        {
            f'csi_fluid_heal_seconds_bucket{{{NODE},le="1"}}': "0x20",
            f'csi_fluid_heal_seconds_bucket{{{NODE},le="2"}}': "0+1x20",
            f'csi_fluid_heal_seconds_bucket{{{NODE},le="+Inf"}}': "0+1x20",
        },
        6,
    ),
    "CsiFluidConnectionAborted": (
        {f'csi_fluid_aborts_total{{{NODE},result="aborted"}}': "_ _ 1 1 1"},
        2,
    ),
    "CsiFluidLayersPileUp": ({f"csi_fluid_layers{{{NODE},{SOURCE}}}": "25 25 26 27"}, 2),
    "CsiFluidDaemonsSilent": ({f"csi_fluid_abandoned_probes{{{NODE}}}": "0 17x20"}, 6),
    "CsiFluidStateProblem": ({f"csi_fluid_state_problem{{{NODE}}}": "0 1x20"}, 6),
    "CsiFluidNotRegistered": ({f"csi_fluid_registered{{{NODE}}}": "1 0x20"}, 6),
    "CsiFluidCallsFail": (
        {
            f'csi_fluid_rpc_seconds_count{{{NODE},method="NodePublishVolume",code="OK"}}': "0x40",
            f'csi_fluid_rpc_seconds_count{{{NODE},method="NodePublishVolume",code="INTERNAL"}}': (
                "0+1x40"
            ),
        },
        16,
    ),
    "CsiFluidEventsWait": ({f"csi_fluid_api_events_waiting{{{NODE}}}": "0 1x20"}, 16),
    "CsiFluidWebhookDown": ({'up{job="csi-fluid-webhook-metrics",instance="a"}': "1 0x20"}, 6),
    "CsiFluidAdmissionsFail": ({'csi_fluid_admissions_total{result="error"}': "_ _ 1 1 1"}, 2),
    "CsiFluidCertificateEnds": (  # seven days and two minutes at the beginning
        {'csi_fluid_certificate_expiry_timestamp_seconds{instance="a"}': "604920x20"},
        13,
    ),
    "CsiFluidPluginDown": ({f'up{{{NODE},job="csi-nodeplugin-fluid"}}': "1 0x20"}, 6),
}


def test_every_alert_has_a_case():
    assert {rule["alert"] for rule in rules()} == CASES.keys()


def test_operations_says_what_to_do_about_each_alert_and_each_event():
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    severity = {rule["alert"]: rule["labels"]["severity"] for rule in rules()}

    assert dict(re.findall(r"^\| `(Csi\w+)` \| (\w+) \|", text, re.MULTILINE)) == severity
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    assert {reason.name for reason in telling.REASONS} == set(rows) - severity.keys()


def promtool(folder: Path, alert: str, at_minute: int, *, fires: bool) -> None:
    """Have promtool evaluate the rules on an alert's samples, and compare."""
    sandbox.require("promtool")
    (rule,) = (rule for rule in rules() if rule["alert"] == alert)
    bare = {k: v for k, v in rule.items() if k != "annotations"}  # their texts are not the point
    samples, _ = CASES[alert]
    told = {} if not fires else {"exp_labels": _labels(alert, rule["labels"])}
    case: dict[str, Any] = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in samples.items()],
                "alert_rule_test": [
                    {
                        "eval_time": f"{at_minute}m",
                        "alertname": alert,
                        "exp_alerts": [told] if fires else [],
                    }
                ],
            }
        ],
    }
    (folder / "rules.yaml").write_text(json.dumps({"groups": [{"name": "g", "rules": [bare]}]}))
    (folder / "case.yaml").write_text(json.dumps(case))
    command = ("promtool", "test", "rules", folder / "case.yaml")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _labels(alert: str, own: dict[str, str]) -> dict[str, str]:
    series = next(iter(CASES[alert][0]))
    given = dict(re.findall(r'(\w+)="([^"]*)"', series))
    (rule,) = (rule for rule in rules() if rule["alert"] == alert)
    grouped = re.search(r"by \(([\w, ]+)\)", rule["expr"])
    kept = set(grouped[1].split(", ")) - {"le"} if grouped else given.keys()
    return {k: v for k, v in given.items() if k in kept} | own


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_comes_when_its_case_says_and_not_before(tmp_path: Path, alert: str):
    _, minute = CASES[alert]
    promtool(tmp_path, alert, minute - 1, fires=False)
    promtool(tmp_path, alert, minute, fires=True)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.parent.parent.name)
def test_the_rules_are_sound_for_promtool(tmp_path: Path, path: Path):
    sandbox.require("promtool")
    (document,) = manifests.read(path)
    (tmp_path / "rules.yaml").write_text(json.dumps(document["spec"]))
    command = ("promtool", "check", "rules", "--lint-fatal", tmp_path / "rules.yaml")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
