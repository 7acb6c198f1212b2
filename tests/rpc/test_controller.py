"""The controller service: static volumes over the wire."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_fluid._pb import csi_pb2, csi_pb2_grpc
from recover.rows import Publication
from tests.rpc.serving import Serving, capability, refusal, serving

GIB = 2**30


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Serving, csi_pb2_grpc.ControllerStub]]:
    with serving(tmp_path) as (plugin, client):
        yield plugin, client.controller


@pytest.fixture
def controller(pair: tuple[Serving, csi_pb2_grpc.ControllerStub]) -> csi_pb2_grpc.ControllerStub:
    return pair[1]


def create(
    controller: csi_pb2_grpc.ControllerStub, name: str = "Demo", size: int = 0, **changes: Any
) -> csi_pb2.Volume:
    fields: dict[str, Any] = {
        "name": name,
        "volume_capabilities": [capability()],
        "capacity_range": csi_pb2.CapacityRange(required_bytes=size),
        "parameters": {"fluid_path": "/runtime-mnt/x"},
    } | changes
    return controller.CreateVolume(csi_pb2.CreateVolumeRequest(**fields)).volume


def test_a_volume_echoes_its_parameters_under_a_lower_case_id(
    controller: csi_pb2_grpc.ControllerStub,
):
    volume = create(controller, "Demo", GIB)

    assert (volume.volume_id, volume.capacity_bytes) == ("demo", GIB)
    assert dict(volume.volume_context) == {"fluid_path": "/runtime-mnt/x"}


def test_a_long_name_becomes_a_hash(controller: csi_pb2_grpc.ControllerStub):
    name = "N" * 64
    volume = create(controller, name)

    assert volume.volume_id == hashlib.sha1(name.lower().encode()).hexdigest()
    assert create(controller, "n" * 63).volume_id == "n" * 63


def test_creating_the_same_again_is_the_same(controller: csi_pb2_grpc.ControllerStub):
    first = create(controller, size=GIB)

    assert create(controller, size=GIB) == first
    assert create(controller, size=0) == first


@pytest.mark.expects_log("CreateVolume ALREADY_EXISTS")
@pytest.mark.parametrize(
    "changes",
    [
        {"size": 2 * GIB},
        {"capacity_range": csi_pb2.CapacityRange(limit_bytes=1)},
        {"parameters": {"fluid_path": "/runtime-mnt/y"}},
        {"name": "dEMO"},
    ],
    ids=["larger", "smaller", "parameters", "name of the same id"],
)
def test_creating_something_else_by_the_same_name_is_refused(
    controller: csi_pb2_grpc.ControllerStub, changes: dict[str, Any]
):
    first = create(controller, size=GIB)
    with refusal(grpc.StatusCode.ALREADY_EXISTS):
        create(controller, **({"size": GIB} | changes))

    assert create(controller, size=GIB) == first


@pytest.mark.expects_log("CreateVolume INVALID_ARGUMENT")
@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "n" * 4097},
        {"volume_capabilities": []},
        {"volume_capabilities": [csi_pb2.VolumeCapability()]},
        {"size": -1},
        {"capacity_range": csi_pb2.CapacityRange(required_bytes=2, limit_bytes=1)},
        {"parameters": {"k": "v" * 70_000}},
    ],
)
def test_create_checks_its_arguments(
    pair: tuple[Serving, csi_pb2_grpc.ControllerStub], changes: dict[str, Any]
):
    plugin, controller = pair
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        create(controller, **changes)

    assert plugin.store.volume("demo") is None


@pytest.mark.expects_log("DeleteVolume INVALID_ARGUMENT", "DeleteVolume FAILED_PRECONDITION")
def test_delete_is_idempotent_and_spares_a_volume_in_use(
    pair: tuple[Serving, csi_pb2_grpc.ControllerStub],
):
    plugin, controller = pair
    create(controller)
    plugin.store.put_publication(Publication("/pods/1/mount", "demo", "/runtime-mnt/x"))
    request = csi_pb2.DeleteVolumeRequest(volume_id="demo")
    with refusal(grpc.StatusCode.FAILED_PRECONDITION) as refused:
        controller.DeleteVolume(request)
    plugin.store.remove_publication("/pods/1/mount")
    controller.DeleteVolume(request)
    controller.DeleteVolume(request)

    assert "/pods/1/mount" in refused.message
    assert plugin.store.volume("demo") is None
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        controller.DeleteVolume(csi_pb2.DeleteVolumeRequest())


def validate(
    controller: csi_pb2_grpc.ControllerStub, volume_id: str = "demo", **changes: Any
) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
    fields: dict[str, Any] = {
        "volume_id": volume_id,
        "volume_capabilities": [capability()],
    } | changes
    return controller.ValidateVolumeCapabilities(
        csi_pb2.ValidateVolumeCapabilitiesRequest(**fields)
    )


@pytest.mark.parametrize("mode", range(1, 8))
def test_every_access_mode_is_confirmed(controller: csi_pb2_grpc.ControllerStub, mode: int):
    create(controller)
    answer = validate(controller, volume_capabilities=[capability(mode)])

    assert list(answer.confirmed.volume_capabilities) == [capability(mode)]
    assert answer.message == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"volume_capabilities": [capability(), csi_pb2.VolumeCapability()]},
        {"volume_context": {"fluid_path": "/elsewhere"}},
        {"parameters": {"fluid_path": "/elsewhere"}},
    ],
)
def test_what_cannot_be_had_is_not_confirmed_and_said_why(
    controller: csi_pb2_grpc.ControllerStub, changes: dict[str, Any]
):
    create(controller)
    answer = validate(controller, **changes)

    assert not answer.HasField("confirmed")
    assert answer.message


@pytest.mark.expects_log("ValidateVolumeCapabilities NOT_FOUND", "INVALID_ARGUMENT")
def test_validate_checks_its_arguments(controller: csi_pb2_grpc.ControllerStub):
    create(controller)
    with refusal(grpc.StatusCode.NOT_FOUND):
        validate(controller, "unknown")
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        validate(controller, "")
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        validate(controller, volume_capabilities=[])


def test_the_controller_announces_exactly_what_it_offers(
    controller: csi_pb2_grpc.ControllerStub,
):
    answer = controller.ControllerGetCapabilities(csi_pb2.ControllerGetCapabilitiesRequest())

    assert [capability.rpc.type for capability in answer.capabilities] == [1]
