"""The webhook as API servers meet it: a process, TLS, certificates that change under way."""

import base64
import contextlib
import functools
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from csi_fluid import webhook
from csi_fluid.kube import calls
from csi_fluid.testbed import waiting
from csi_fluid.webhook.certificates import Material, Terms, renew
from csi_fluid.webhook.keeper import Identity, Keeper
from csi_fluid.webhook.sources import Files
from tests.harness import apiserver, jsonpatch
from tests.harness.apiserver import ApiServer
from tests.unit import webhooks
from tests.unit.webhooks import SERVER, question

SECRET = f"/api/v1/namespaces/{webhook.NAMESPACE}/secrets/{webhook.SECRET}"
CONFIGURATION = (
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/" + webhook.CONFIGURATION
)
COMMAND = (sys.executable, "-m", "csi_fluid", "webhook", f"--agent-image={webhooks.IMAGE}")
until = functools.partial(waiting.until, timeout_s=30.0)  # a process here imports much
MATERIAL = renew(Material(), Terms((SERVER,), 3600), time.time())


# ---- The process


class Running:
    """A webhook process, and how to ask it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def port(self, message: str) -> int:
        until(lambda: message in self.log or self.process.poll() is not None, message)
        found = re.search(rf"{message}.*? port=(\d+)", self.log)
        assert found, self.log
        return int(found[1])

    def connect(self, bundle: str) -> http.client.HTTPSConnection:
        """Connect as an API server does: trusting the bundle alone, and checking the name."""
        context = ssl.create_default_context(cadata=bundle)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        connection = _Named("127.0.0.1", self.port("answering"), context=context, timeout=5)
        connection.connect()
        return connection


class _Named(http.client.HTTPSConnection):
    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), 5)
        self.sock = self._context.wrap_socket(plain, server_hostname=SERVER)  # type: ignore[attr-defined]


@contextlib.contextmanager
def running(folder: Path, *words: str, code: int = 0) -> Iterator[Running]:
    """Run the webhook for a block; it must end with an exit code."""
    log = folder / f"log-{len(list(folder.glob('log-*')))}"
    listen = ("--listen=127.0.0.1:0", "--metrics-addr=127.0.0.1:0", "--drain=1ms")
    with log.open("wb") as output:
        process = subprocess.Popen([*COMMAND, *listen, *words], stderr=output)
    try:
        yield Running(process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == code, log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    folder = tmp_path / "api"
    folder.mkdir()
    with apiserver.running(folder) as server:
        server.rules[apiserver.ACCOUNT] = (calls.WEBHOOK_SECRET, calls.WEBHOOK_TRUST)
        server.put(SECRET, "v1", "Secret", type="Opaque")
        hooks = [{"name": "recovery.fuse.csi.fluid.io", "clientConfig": {"service": {"name": "x"}}}]
        server.put(
            CONFIGURATION,
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            webhooks=hooks,
        )
        yield server


def trusted(api: ApiServer) -> str:
    (hook,) = api.objects[CONFIGURATION]["webhooks"]
    assert hook["clientConfig"]["service"] == {"name": "x"}
    return base64.b64decode(hook["clientConfig"].get("caBundle", "")).decode()


def reviewed(connection: http.client.HTTPConnection, pod: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that an API server makes of the answer."""
    connection.request("POST", "/mutate?timeout=5s", question(pod))
    with connection.getresponse() as response:
        assert response.status == 200
        answer = json.loads(response.read())["response"]
    assert answer["allowed"]
    return jsonpatch.apply(pod, json.loads(base64.b64decode(answer.get("patch", "W10="))))


def test_a_pod_gets_its_agent_over_a_connection_that_the_configuration_trusts(
    api: ApiServer, tmp_path: Path
):
    with running(tmp_path, f"--kubeconfig={api.account_config()}") as found:
        until(lambda: bool(trusted(api)), "the bundle is in the configuration")
        until(lambda: "serving a certificate" in found.log, "it serves")
        connection = found.connect(trusted(api))
        with contextlib.closing(connection):
            pod = webhooks.pod("demo-dataset")
            first = reviewed(connection, pod)
            second = reviewed(connection, webhooks.injected(pod))  # over the same connection

    assert first["metadata"]["labels"]["serverless.fluid.io/inject"] == "true"
    assert second == webhooks.admitted(pod)


def test_replicas_share_one_authority_and_each_serves_what_the_other_made(
    api: ApiServer, tmp_path: Path
):
    kubeconfig = f"--kubeconfig={api.account_config()}"
    with running(tmp_path, kubeconfig) as one, running(tmp_path, kubeconfig) as two:
        until(lambda: "serving a certificate" in one.log, "the first serves")
        until(lambda: "serving a certificate" in two.log, "the second serves")
        certificates = []
        for found in (one, two):
            with contextlib.closing(found.connect(trusted(api))) as connection:
                certificates.append(connection.sock.getpeercert(binary_form=True))

    assert certificates[0] == certificates[1]
    assert trusted(api).count("BEGIN CERTIFICATE") == 1


def test_certificates_are_renewed_under_way_without_a_connection_refused(
    api: ApiServer, tmp_path: Path
):
    """A certificate lives 9 s and is renewed after 6."""
    words = (f"--kubeconfig={api.account_config()}", "--certificate-lifetime=9s")
    seen = set()
    with running(tmp_path, *words) as found:
        until(lambda: "serving a certificate" in found.log, "it serves")

        def renewed_twice() -> bool:
            with contextlib.closing(found.connect(trusted(api))) as connection:
                seen.add(connection.sock.getpeercert(binary_form=True))
            return len(seen) == 3

        until(renewed_twice, "the third certificate", timeout_s=40)


def test_files_are_served_and_read_again_and_their_authority_is_told(
    api: ApiServer, tmp_path: Path
):
    folder = tmp_path / "certificates"
    first, second = (renew(Material(), Terms((SERVER,), 3600), time.time()) for _ in range(2))
    write(tmp_path / "first", first)
    replace(folder, tmp_path / "first")
    words = (f"--kubeconfig={api.account_config()}", f"--cert-dir={folder}")
    with running(tmp_path, *words) as found:
        until(lambda: trusted(api) == first.authorities, "the files' authority is trusted")
        until(lambda: "serving a certificate" in found.log, "it serves")
        found.connect(first.authorities).close()
        write(tmp_path / "renewed", second)
        replace(folder, tmp_path / "renewed")
        until(lambda: trusted(api) == second.authorities, "the new one is trusted", timeout_s=30)
        until(lambda: found.log.count("serving a certificate") == 2, "it is served")
        found.connect(second.authorities).close()

    assert SECRET not in {path for _, _, path in api.asked}


@pytest.mark.parametrize("odd", ["fifo", "folder", "encrypted"])
def test_files_that_are_odd_for_a_while_are_read_again_when_they_are_right(
    odd: str, tmp_path: Path
):
    folder = tmp_path / "certificates"
    write(folder, MATERIAL)
    identity = Identity()
    keeper = Keeper(Files(folder), None, identity, 0.01)
    key = folder / "tls.key"
    key.unlink()
    if odd == "encrypted":
        key.write_text(encrypted(MATERIAL.key))
    else:
        os.mkfifo(key) if odd == "fifo" else key.mkdir()

    with pytest.raises((OSError, ValueError)):
        keeper.check()
    key.rmdir() if odd == "folder" else key.unlink()
    key.write_text(MATERIAL.key)
    keeper.check()

    assert keeper.is_ready


def encrypted(key: str) -> str:
    secret = serialization.BestAvailableEncryption(b"secret")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    loaded = serialization.load_pem_private_key(key.encode(), None)
    return loaded.private_bytes(*form, secret).decode()


def test_with_files_alone_no_api_server_is_asked(api: ApiServer, tmp_path: Path):
    material = renew(Material(), Terms((SERVER,), 3600), time.time())
    folder = tmp_path / "certificates"
    write(folder, material)
    with running(tmp_path, f"--cert-dir={folder}", "--webhook-config=") as found:
        until(lambda: "serving a certificate" in found.log, "it serves")
        with contextlib.closing(found.connect(material.authorities)) as connection:
            connection.request("GET", "/readyz")
            assert connection.getresponse().status == 200

    assert api.asked == []


def write(folder: Path, material: Material) -> None:
    folder.mkdir()
    (folder / "ca.crt").write_text(material.authorities)
    (folder / "tls.crt").write_text(material.certificate)
    (folder / "tls.key").write_text(material.key)


def replace(link: Path, folder: Path) -> None:
    """Have a link lead to a folder from one moment to the next, as kubelet does with a Secret."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(folder)
    fresh.replace(link)


def test_it_is_not_ready_and_says_why_until_the_configuration_is_there(
    api: ApiServer, tmp_path: Path
):
    kept = api.objects.pop(CONFIGURATION)
    with running(tmp_path, f"--kubeconfig={api.account_config()}") as found:
        until(lambda: "manifests/serverless" in found.log, "it says what is missing")
        port = metrics_port(found)
        assert get(port, "/readyz") == 503
        assert get(port, "/healthz") == 200
        api.objects[CONFIGURATION] = kept
        until(lambda: get(port, "/readyz") == 200, "it is ready")

    assert found.log.count("manifests/serverless") == 1


def test_metrics_tell_admissions_and_the_end_of_the_certificate(api: ApiServer, tmp_path: Path):
    with running(tmp_path, f"--kubeconfig={api.account_config()}") as found:
        until(lambda: "serving a certificate" in found.log, "it serves")
        with contextlib.closing(found.connect(trusted(api))) as connection:
            reviewed(connection, webhooks.pod("demo-dataset"))
        with urllib.request.urlopen(
            f"http://127.0.0.1:{metrics_port(found)}/metrics", timeout=5
        ) as response:
            text = response.read().decode()

    assert 'csi_fluid_admissions_total{result="translated"} 1' in text
    assert "csi_fluid_admission_seconds_count 1" in text
    assert re.search(r"^csi_fluid_certificate_expiry_timestamp_seconds 1\d{9}", text, re.MULTILINE)
    assert "csi_fluid_publications" not in text


def metrics_port(found: Running) -> int:
    return found.port("serving metrics")


def get(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return int(error.code)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--certificate-lifetime=1ms",), "--certificate-lifetime=1ms"),
        (("--listen=nowhere",), "--listen=nowhere"),
        (("--agent-image=",), "--agent-image is missing"),
        (("--drain=x",), "--drain=x"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line(words: tuple[str, ...], said: str):
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=20, check=False
    )

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
