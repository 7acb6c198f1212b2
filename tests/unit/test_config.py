"""Options: every flag and variable of Fluid's is taken, and a bad value is told in one line."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from csi_fluid import config, optiontypes, telling
from csi_fluid.cli import usage
from csi_fluid.cli.start import _parser
from csi_fluid.metrics import catalogue
from recover.policy import HoldSettings

NEEDED = ("--nodeid=n1", "--endpoint=unix:///run/csi.sock")
REQUIRED = ("nodeid", "endpoint")


def settings(*words, **environ):
    flags = dict(word.removeprefix("--").split("=", 1) for word in (*NEEDED, *words))
    return config.settle(flags, environ, required=REQUIRED)


def started(*words):
    """Parse the words as `csi-fluid start` does."""
    return usage.parse(_parser(), words, required=REQUIRED)[0]


def test_every_setting_has_an_option_and_every_option_a_setting_or_none():
    fields = {field.name for field in dataclasses.fields(config.Settings)} - {"without_effect"}

    assert fields == {option.field for option in config.OPTIONS if option.field}


def test_no_flag_and_no_variable_is_given_twice():
    names = [option.flag for option in config.OPTIONS if option.flag]
    names += [name for option in config.OPTIONS for name in option.env]

    assert len(names) == len(set(names))


def test_the_arguments_of_fluids_daemonset_are_accepted():
    found = started(
        "--nodeid=node-a",
        "--endpoint=unix:///var/lib/kubelet/csi-plugins/fuse.csi.fluid.io/csi.sock",
        "--v=5",
        "--feature-gates=FuseRecovery=true",
        "--prune-fs=fuse.alluxio-fuse,fuse.jindofs-fuse,fuse.juicefs,ossfs",
        "--prune-path=/runtime-mnt",
        "--pprof-addr=:6060",
    )

    assert found.node_id == "node-a"
    assert found.endpoint == "unix:/var/lib/kubelet/csi-plugins/fuse.csi.fluid.io/csi.sock"
    assert found.recovery
    assert found.log_level == "debug"
    assert found.prune_fs == ("fuse.alluxio-fuse", "fuse.jindofs-fuse", "fuse.juicefs", "ossfs")
    assert found.prune_path == ("/runtime-mnt",)
    assert set(found.without_effect) == {"--pprof-addr"}


@pytest.mark.parametrize(
    "words",
    [
        ("-v=5",),
        ("-v", "5"),
        ("--v", "5"),
        ("-nodeid=n1", "-v=5"),
        ("--logtostderr", "--v=5"),
        ("-logtostderr=false", "-stderrthreshold", "INFO", "--v=5"),
        ("--vmodule=a=1,b=2", "-log_dir=/tmp", "--alsologtostderr=true", "--v=9"),
        ("--kubeconfig=/x", "--kubelet-kube-config=/y", "--v=5"),
    ],
)
def test_gos_ways_to_write_a_flag_are_understood(words):
    assert started(*NEEDED, *words).log_level == "debug"


def test_every_option_with_a_flag_can_be_given():
    values = {"BOOL": "true", "NAME=BOOL,...": "", "DURATION": "5s", "ADDR": ":1", "LEVEL": "1"}
    values |= {"URL": "unix:///a", "none": "none", "N": "1", "PATH": "/a"}
    for option in filter(lambda option: option.flag, config.OPTIONS):
        value = values.get(option.kind.name, option.default or option.kind.name.split("|")[0])

        assert started(*NEEDED, f"--{option.flag}={value}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (NEEDED[1:], "--nodeid is missing"),
        (NEEDED[:1], "--endpoint is missing"),
        ((*NEEDED, "--nosuch"), "unrecognized arguments: --nosuch"),
        ((*NEEDED, "--nodeid="), "--nodeid=: expected a value that is not empty"),
        ((*NEEDED, "--endpoint=csi.sock"), "--endpoint=csi.sock: expected unix:///"),
        ((*NEEDED, f"--endpoint=unix:///{'x' * 107}"), "at most 107 bytes"),
        ((*NEEDED, "--feature-gates=FuseRecovery"), "expected FuseRecovery=true or"),
        ((*NEEDED, "--feature-gates=FuseRecovery=yes"), "'yes'; expected true or false"),
        ((*NEEDED, "--feature-gates=fuseRecovery=true"), "there is no gate fuseRecovery"),
        ((*NEEDED, "--kubelet-registration-path=csi.sock"), "expected an absolute path"),
        ((*NEEDED, f"--kubelet-registration-path=/{'x' * 107}"), "at most 107 bytes"),
        ((*NEEDED, "--prune-fs=fuse.a,b c"), "expected words without blank"),
        ((*NEEDED, '--prune-path=/a"b'), "expected words without blank"),
        ((*NEEDED, "--strategy=magic"), "--strategy=magic: expected auto or namespace or"),
        ((*NEEDED, "--kube=in-cluster"), "--kube=in-cluster: expected auto or account or"),
        ((*NEEDED, "--metrics-addr=8080"), "expected host:port or :port, or 0 for off"),
        ((*NEEDED, "--metrics-addr=:70000"), "expected host:port"),
        ((*NEEDED, "--probe-timeout=5"), "--probe-timeout=5: expected a duration"),
        ((*NEEDED, "--v=high"), "--v=high: expected a whole number"),
        ((*NEEDED, "--log-format=xml"), "expected text or json"),
    ],
)
def test_a_wrong_command_line_is_told_with_flag_value_and_expectation(words, message):
    with pytest.raises(usage.Misuse) as caught:
        started(*words)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RECOVER_FUSE_PERIOD", "5"),
        ("RECOVER_FUSE_PERIOD", "-5s"),
        ("RECOVER_FUSE_PERIOD", "0s"),
        ("RECOVER_FUSE_PERIOD", "1000h"),
        ("RECOVER_WARNING_THRESHOLD", "many"),
        ("RECOVER_WARNING_THRESHOLD", "0"),
        ("REVOCER_WARNING_THRESHOLD", "x"),
        ("MOUNT_ROOT", "runtime-mnt"),
        ("MOUNT_ROOT", "/runtime-mnt/../etc"),
        ("KUBELET_ROOTDIR", "kubelet"),
        ("ALLOW_PATCH_STALE_NODE", "maybe"),
    ],
)
def test_a_bad_variable_is_an_error_that_names_it(name, value):
    with pytest.raises(config.Invalid, match=f"^{name}={value}: expected "):
        settings(**{name: value})


def test_the_environment_stands_in_for_flags():
    found = config.settle({}, {"NODE_ID": "n2", "CSI_ENDPOINT": "unix:///e"}, required=REQUIRED)

    assert (found.node_id, found.endpoint) == ("n2", "unix:/e")


def test_a_flag_wins_over_its_variable():
    assert settings(NODE_ID="other").node_id == "n1"


def test_an_empty_variable_counts_as_unset():
    found = settings(RECOVER_FUSE_PERIOD="", MOUNT_ROOT="", REVOCER_WARNING_THRESHOLD="")

    assert (found.period_s, found.mount_root, found.warning_threshold) == (5.0, "/runtime-mnt", 50)


def test_the_right_name_of_the_warning_threshold_wins_over_the_misspelt_one():
    both = {"RECOVER_WARNING_THRESHOLD": "7", "REVOCER_WARNING_THRESHOLD": "9"}

    assert settings(**both).warning_threshold == 7
    assert settings(REVOCER_WARNING_THRESHOLD="9").warning_threshold == 9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("1m30s", 90), ("500ms", 0.5), ("1.5s", 1.5), ("1h", 3600), ("2000us", 0.002)],
)
def test_durations_are_gos(text, seconds):
    assert optiontypes.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "5", "5 s", "5sx", "x5s", "1d", "\u0665s", "5s5", "1e3s"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="expected a duration"):
        optiontypes.parse_duration(text)


@given(st.integers(1, 86_399), st.integers(0, 999))
def test_a_duration_is_the_sum_of_its_parts(seconds, millis):
    text = f"{seconds // 3600}h{seconds // 60 % 60}m{seconds % 60}s{millis}ms"

    assert optiontypes.parse_duration(text) == pytest.approx(seconds + millis / 1000)


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("", False),
        ("FuseRecovery=true", True),
        ("FuseRecovery=false", False),
        (" FuseRecovery = T ,", True),
        ("AllBeta=true", True),
        ("AllAlpha=true", False),
        ("AllBeta=true,FuseRecovery=false", False),
        ("FuseRecovery=false,AllBeta=true", False),
        ("FuseRecovery=true,SeamlessRecovery=false", True),
    ],
)
def test_gates_are_kubernetes_gates(text, on):
    assert optiontypes.parse_gates(text)["FuseRecovery"] is on


@pytest.mark.parametrize(
    ("gates", "on"),
    [
        ("", False),
        ("FuseRecovery=true", False),
        ("AllBeta=true", False),
        ("SeamlessRecovery=true", False),
        ("FuseRecovery=true,SeamlessRecovery=true", True),
        ("AllBeta=true,AllAlpha=true", True),
    ],
)
def test_nothing_is_held_but_with_both_gates(gates, on):
    assert (settings(f"--feature-gates={gates}").holds is not None) is on


def test_the_holder_is_the_plugins_own_unless_another_one_is_named():
    gates = "--feature-gates=FuseRecovery=true,SeamlessRecovery=true"
    own = settings(gates, "--state=/var/lib/x/state.db").holds
    other = settings(gates, "--holder=/run/holder/socket", "--hold-timeout=5s").holds

    assert own == HoldSettings(Path("/var/lib/x/holder/socket"), 30.0, starts=True)
    assert other == HoldSettings(Path("/run/holder/socket"), 5.0, starts=False)


@pytest.mark.parametrize(
    ("gate", "method", "on"),
    [("true", "bindMount", True), ("true", "symlink", True), ("false", "bindMount", False)],
)
def test_recovery_needs_the_gate_and_binds(gate, method, on):
    found = settings(f"--feature-gates=FuseRecovery={gate}", NODEPUBLISH_METHOD=method)

    assert found.recovery is on


@pytest.mark.parametrize("value", ["bindMount", "Symlink", "bind", "anything"])
def test_only_the_word_symlink_publishes_symbolic_links(value):
    assert settings(NODEPUBLISH_METHOD=value).publish_method == "bind"
    assert settings(NODEPUBLISH_METHOD="symlink").publish_method == "symlink"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", ("", 8080)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9", ("::1", 9)),
        ("0", None),
        ("", None),
    ],
)
def test_the_metrics_address_may_be_switched_off(text, address):
    assert settings(f"--metrics-addr={text}").metrics_addr == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///a/b.sock", "unix:/a/b.sock"),
        ("unix://a/b.sock", "unix:/a/b.sock"),
        ("unix:////a//b.sock", "unix:/a/b.sock"),
        ("tcp://127.0.0.1:10000", "127.0.0.1:10000"),
    ],
)
def test_endpoints_are_read_as_fluid_reads_them(text, address):
    assert settings(f"--endpoint={text}").endpoint == address


def test_the_state_file_lies_where_fluids_chart_keeps_things_if_that_is_there(tmp_path: Path):
    elsewhere = settings(KUBELET_ROOTDIR=str(tmp_path)).state
    (tmp_path / "plugins/csi-fluid-plugin").mkdir(parents=True)
    chart = settings(KUBELET_ROOTDIR=str(tmp_path)).state

    assert elsewhere == Path("/var/lib/csi-fluid/state.db")
    assert chart == tmp_path / "plugins/csi-fluid-plugin/state.db"


def test_a_given_log_level_wins_over_gos_verbosity():
    assert settings("--v=9", "--log-level=warning").log_level == "warning"
    assert settings("--v=4").log_level == "info"


def row_of(name: str) -> list[str]:
    """Return the cells of the row of docs/configuration.md that begins with a name."""
    text = (Path(__file__).parents[2] / "docs/configuration.md").read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    return [cell.strip(" `") for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("option", [o for o in config.OPTIONS if o.field], ids=lambda o: o.name)
def test_the_documentation_has_default_unit_and_owner_of_every_option(option):
    names = (option.name,) if option.flag else option.env
    for name in names:
        _, default, unit, _, owner = row_of(name)

        assert (unit, owner) == (option.unit, option.owner)
        assert option.default in {None, "", default}


@pytest.mark.parametrize("metric", catalogue.METRICS, ids=lambda metric: metric.name)
def test_the_documentation_has_kind_unit_and_labels_of_every_metric(metric):
    _, kind, unit, labels, _ = row_of(metric.name)

    assert (kind, unit) == (metric.kind, metric.unit)
    assert tuple(re.findall("[a-z]+", labels)) == metric.labels


@pytest.mark.parametrize("reason", telling.REASONS, ids=lambda reason: reason.name)
def test_the_documentation_has_type_and_message_of_every_event(reason):
    _, kind, message, _ = row_of(reason.name)

    assert kind == reason.type
    assert message.partition("<")[0] == reason.message.partition("{")[0]
