"""Whatever is asked, the answer is a status that says what to do: never INTERNAL, never silence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings, strategies as st

from csi_fluid._pb import csi_pb2
from csi_fluid.rpc import status
from tests.rpc.serving import serving

FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
METHODS = [
    method for service in csi_pb2.DESCRIPTOR.services_by_name.values() for method in service.methods
]
# Neither INTERNAL nor what gRPC itself would say of an exception.
CODES = {code for kind, code in status._TABLE if kind is not Exception}
TIMEOUT_S = 20.0
ODD = ["", "/", "..", "a/../..", "\n", "\\040", " ", "ü" * 200, "x" * 300, "\0", "a" * 5_000, "%s"]
TEXT = st.sampled_from(ODD) | st.text(max_size=30)
KEYS = st.sampled_from(
    [
        *("fluid_path", "fluid_sub_path", "mount_type", "node_publish_method", "runtime_name"),
        *("runtime_namespace", "fluid.io/skip-check-mount-ready-target", "efc_sessmgr_workdir"),
        *("fuse.csi.fluid.io/recover-writable", "mount_pod_node_selector_key"),
        *("csi.storage.k8s.io/pod.name", "csi.storage.k8s.io/pod.uid"),
    ]
)
pytestmark = [pytest.mark.expects_log("."), pytest.mark.usefixtures("hurried")]


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[grpc.Channel]:
    with serving(tmp_path) as (plugin, _), grpc.insecure_channel(f"unix:{plugin.socket}") as made:
        yield made


def refusal(channel: grpc.Channel, path: str, message: bytes) -> tuple[grpc.StatusCode, str] | None:
    """Return how a method answers bytes: None for a message."""
    try:
        channel.unary_unary(path, bytes, bytes)(message, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        call: Any = error
        return call.code(), call.details()
    return None


def fields(folder: Path) -> dict[str, st.SearchStrategy[Any]]:
    """Return values for the fields of requests; paths lead nowhere but below a folder."""
    paths = st.sampled_from(["", "relative", "/..", "/" + "x" * 300, str(folder), f"{folder}/p"])
    paths |= st.text(max_size=10).map(lambda name: f"{folder}/pods/{name}")
    values = TEXT | paths | st.sampled_from(["All", "true", "symlink"])
    attributes = st.builds(
        lambda others, source: others | {"fluid_path": source},
        st.dictionaries(KEYS | TEXT, values),
        paths,
    )
    mount = st.builds(
        csi_pb2.VolumeCapability.MountVolume, fs_type=TEXT, mount_flags=st.lists(TEXT, max_size=3)
    )
    mode = st.builds(csi_pb2.VolumeCapability.AccessMode, mode=st.integers(0, 9))
    capability = st.builds(csi_pb2.VolumeCapability, mount=mount, access_mode=mode) | st.builds(
        csi_pb2.VolumeCapability, block=st.just(csi_pb2.VolumeCapability.BlockVolume())
    )
    number = st.integers(-(2**63), 2**63 - 1)
    sizes = st.builds(csi_pb2.CapacityRange, required_bytes=number, limit_bytes=number)
    return {
        **dict.fromkeys(("volume_id", "name"), TEXT),
        **dict.fromkeys(
            ("target_path", "staging_target_path", "volume_path", "volume_publish_path"), paths
        ),
        **dict.fromkeys(("volume_context", "parameters", "secrets"), attributes),
        "volume_capability": capability,
        "volume_capabilities": st.lists(capability, max_size=3),
        "capacity_range": sizes,
        "readonly": st.booleans(),
    }


def requests_of(kind: type[Message], folder: Path) -> st.SearchStrategy[bytes]:
    known = fields(folder)
    names = [name for name in kind.DESCRIPTOR.fields_by_name if name in known]
    chosen = st.fixed_dictionaries({name: known[name] for name in names})
    return chosen.map(lambda values: kind(**values).SerializeToString())


@FUZZ
@given(data=st.data())
def test_any_request_has_an_answer_that_says_what_to_do(
    channel: grpc.Channel, tmp_path: Path, data: st.DataObject
):
    method = data.draw(st.sampled_from(METHODS))
    kind = message_factory.GetMessageClass(method.input_type)
    message = data.draw(st.binary(max_size=60) | requests_of(kind, tmp_path))
    refused = refusal(channel, f"/{method.containing_service.full_name}/{method.name}", message)

    if refused is not None:
        code, reason = refused
        assert code in CODES, reason
        assert 0 < len(reason) < 1_100
