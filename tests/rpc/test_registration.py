"""Registration, as kubelet does it: over a real channel, on the socket that appeared."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_fluid._pb import registration_pb2 as pb, registration_pb2_grpc
from csi_fluid.rpc.loop import Loop
from csi_fluid.rpc.registration import SOCKET, Registrar
from csi_fluid.testbed.waiting import until
from tests.rpc import serving  # noqa: F401  keeps gRPC's own machinery up
from tests.rpc.serving import rpc_loop

ENDPOINT = "/var/lib/kubelet/csi-plugins/fuse.csi.fluid.io/csi.sock"
SOON_S = 0.02


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "plugins_registry"


@pytest.fixture
def loop() -> Loop:
    return rpc_loop()


@pytest.fixture
def registrar(folder: Path, loop: Loop) -> Iterator[Registrar]:
    made = Registrar(folder, ENDPOINT, loop, retry_s=SOON_S, check_s=SOON_S)
    made.start()
    yield made
    made.stop()


class Kubelet:
    """What kubelet's plugin watcher does with a socket; every call makes a new connection."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / SOCKET

    def appears(self) -> None:
        until(self._socket.exists, "the socket appears")

    def asks(self) -> pb.PluginInfo:
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            stub = registration_pb2_grpc.RegistrationStub(channel)
            return stub.GetInfo(pb.InfoRequest(), timeout=5)

    def says(self, registered: bool, error: str = "") -> None:
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            stub = registration_pb2_grpc.RegistrationStub(channel)
            status = pb.RegistrationStatus(plugin_registered=registered, error=error)
            stub.NotifyRegistrationStatus(status, timeout=5)


@pytest.fixture
def kubelet(registrar: Registrar, folder: Path) -> Kubelet:
    made = Kubelet(folder)
    made.appears()
    return made


def test_kubelet_is_told_name_kind_version_and_where_it_finds_the_csi_socket(kubelet: Kubelet):
    info = kubelet.asks()

    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", "fuse.csi.fluid.io", ENDPOINT)
    assert list(info.supported_versions) == ["1.0.0"]


def test_the_plugin_knows_that_it_was_registered(registrar: Registrar, kubelet: Kubelet):
    before = registrar.registered
    kubelet.asks()
    kubelet.says(True)

    assert (before, registrar.registered) == (False, True)


@pytest.mark.expects_log(
    "kubelet did not register the plugin: 'no such socket'; .* at /var/lib/kubelet/csi-plugins"
)
def test_a_refusal_is_told_with_its_reason_and_what_to_check(
    registrar: Registrar, kubelet: Kubelet
):
    kubelet.says(True)
    kubelet.says(False, "no such socket")

    assert not registrar.registered


def test_a_kubelet_that_started_anew_registers_the_plugin_again(
    registrar: Registrar, kubelet: Kubelet
):
    kubelet.asks()
    kubelet.says(True)

    assert kubelet.asks().name == "fuse.csi.fluid.io"
    kubelet.says(True)
    assert registrar.registered


def test_only_root_can_connect_and_nothing_else_is_left_in_the_folder(
    kubelet: Kubelet, folder: Path
):
    until(lambda: os.listdir(folder) == [SOCKET], "only the socket is there")

    assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600


def test_the_socket_goes_when_the_plugin_stops(folder: Path, loop: Loop):
    registrar = Registrar(folder, ENDPOINT, loop)
    registrar.start()
    Kubelet(folder).appears()
    registrar.stop()

    assert os.listdir(folder) == []


def test_a_socket_that_a_sidecar_put_in_its_place_outlives_the_plugin(folder: Path, loop: Loop):
    registrar = Registrar(folder, ENDPOINT, loop)
    registrar.start()
    Kubelet(folder).appears()
    (folder / SOCKET).unlink()  # node-driver-registrar begins so
    with socket.socket(socket.AF_UNIX) as sidecar:
        sidecar.bind(str(folder / SOCKET))
        registrar.stop()

        assert os.listdir(folder) == [SOCKET]


def test_a_socket_that_an_earlier_life_left_is_replaced(folder: Path, request):
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / SOCKET))
    left = (folder / SOCKET).stat().st_ino

    request.getfixturevalue("registrar")

    until(lambda: (folder / SOCKET).stat().st_ino != left, "it is replaced")
    assert Kubelet(folder).asks().endpoint == ENDPOINT


def test_a_socket_that_somebody_removed_is_made_again(kubelet: Kubelet, folder: Path):
    (folder / SOCKET).unlink()
    kubelet.appears()

    assert kubelet.asks().endpoint == ENDPOINT


@pytest.mark.expects_log("another process serves at .*; stop it or leave --kubelet-registration")
def test_a_registrar_that_is_there_is_left_alone_and_followed_when_it_goes(
    folder: Path, loop: Loop, caplog: pytest.LogCaptureFixture
):
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as sidecar:
        sidecar.bind(str(folder / SOCKET))
        sidecar.listen(64)
        registrar = Registrar(folder, ENDPOINT, loop, retry_s=SOON_S, check_s=SOON_S)
        registrar.start()
        until(lambda: caplog.records, "the conflict is told")
        theirs = (folder / SOCKET).stat().st_ino
        for _ in range(3):
            sidecar.accept()[0].close()
        kept = (folder / SOCKET).stat().st_ino
    try:
        until(lambda: (folder / SOCKET).stat().st_ino != theirs, "it is followed")

        assert kept == theirs
        assert len(caplog.records) == 1
        assert Kubelet(folder).asks().endpoint == ENDPOINT
    finally:
        registrar.stop()


@pytest.mark.expects_log("cannot make kubelet's registration socket .*: Not a directory")
def test_a_folder_that_cannot_be_used_is_told_once_and_tried_again(
    tmp_path: Path, loop: Loop, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").touch()
    registrar = Registrar(tmp_path / "file" / "sub", ENDPOINT, loop, retry_s=SOON_S)
    registrar.start()
    until(lambda: caplog.records, "the trouble is told")
    (tmp_path / "file").unlink()
    Kubelet(tmp_path / "file" / "sub").appears()
    registrar.stop()

    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
