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
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings, strategies as st

from csi_fluid import webhook
from csi_fluid.kube import calls
from csi_fluid.testbed.waiting import until
from csi_fluid.webhook import review, rules
from csi_fluid.webhook.certificates import Material, Terms, renew
from csi_fluid.webhook.keeper import Identity, Keeper
from csi_fluid.webhook.review import Malformed
from csi_fluid.webhook.server import Server
from csi_fluid.webhook.sources import Files, Served
from tests.harness import apiserver, jsonpatch
from tests.harness.apiserver import ApiServer
from tests.unit import webhooks

NAME = f"{webhook.SERVICE}.{webhook.NAMESPACE}.svc"
SECRET = f"/api/v1/namespaces/{webhook.NAMESPACE}/secrets/{webhook.SECRET}"
CONFIGURATION = (
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/" + webhook.CONFIGURATION
)
COMMAND = (sys.executable, "-m", "csi_fluid", "webhook", f"--agent-image={webhooks.IMAGE}")
FAULTS = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)


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
        self.sock = self._context.wrap_socket(plain, server_hostname=NAME)  # type: ignore[attr-defined]


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


def question(pod: dict[str, Any]) -> bytes:
    resource = {"group": "", "version": "v1", "resource": "pods"}
    request = {"uid": "u1", "operation": "CREATE", "resource": resource, "object": pod}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(review).encode()


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
    """A certificate lives 6 s and is renewed after 4."""
    words = (f"--kubeconfig={api.account_config()}", "--certificate-lifetime=6s")
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
    folder.mkdir()
    first, second = (renew(Material(), Terms((NAME,), 3600), time.time()) for _ in range(2))
    write(folder, first)
    words = (f"--kubeconfig={api.account_config()}", f"--cert-dir={folder}")
    with running(tmp_path, *words) as found:
        until(lambda: trusted(api) == first.authorities, "the files' authority is trusted")
        until(lambda: "serving a certificate" in found.log, "it serves")
        found.connect(first.authorities).close()
        write(folder, second)
        until(lambda: trusted(api) == second.authorities, "the new one is trusted", timeout_s=30)
        until(lambda: found.log.count("serving a certificate") == 2, "it is served")
        found.connect(second.authorities).close()

    assert SECRET not in {path for _, _, path in api.asked}


@pytest.mark.parametrize("odd", ["fifo", "folder", "encrypted"])
def test_files_that_are_odd_for_a_while_are_read_again_when_they_are_right(
    odd: str, tmp_path: Path
):
    folder = tmp_path / "certificates"
    folder.mkdir()
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
    material = renew(Material(), Terms((NAME,), 3600), time.time())
    folder = tmp_path / "certificates"
    folder.mkdir()
    write(folder, material)
    with running(tmp_path, f"--cert-dir={folder}", "--webhook-config=") as found:
        until(lambda: "serving a certificate" in found.log, "it serves")
        with contextlib.closing(found.connect(material.authorities)) as connection:
            connection.request("GET", "/readyz")
            assert connection.getresponse().status == 200

    assert api.asked == []


def write(folder: Path, material: Material) -> None:
    (folder / "ca.crt").write_text(material.authorities)
    (folder / "tls.crt").write_text(material.certificate)
    (folder / "tls.key").write_text(material.key)


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


# ---- The server


MATERIAL = renew(Material(), Terms((NAME,), 3600), time.time())


class Asked:
    """What the server was asked, and what it is to answer."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, body: bytes) -> bytes:
        self.bodies.append(body)
        self.go.wait(10)
        if not body.startswith(b"{"):
            raise Malformed("no review")
        return b'{"answer":1}'


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def server(asked: Asked) -> Iterator[Server]:
    identity = Identity()
    identity.use(Served(MATERIAL.certificate, MATERIAL.key, MATERIAL.authorities))
    made = Server(("127.0.0.1", 0), identity, asked, lambda: True)
    made.start()
    yield made
    asked.go.set()
    made.stop(1)


def client(server: Server) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=MATERIAL.authorities)
    plain = socket.create_connection(("127.0.0.1", server.port), 5)
    plain.settimeout(5)
    return context.wrap_socket(plain, server_hostname=NAME)


def said(server: Server, data: bytes) -> bytes:
    """Send bytes; return what comes until the end of the answer's head."""
    answer = b""
    with client(server) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
            answer += part
    return answer


def post(body: bytes, *headers: bytes, path: bytes = b"/mutate") -> bytes:
    length = b"Content-Length: %d" % len(body)
    lines = (b"POST " + path + b" HTTP/1.1", b"Host: x", *(headers or (length,)))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post(b"{}"), 200),
        (post(b"{}", path=b"/mutate?timeout=5s"), 200),
        (post(b"nonsense"), 400),
        (post(b"{}", path=b"/other"), 404),
        (post(b"{}", b"Transfer-Encoding: chunked"), 411),
        (post(b"{}", b"Content-Length: -2"), 411),
        (post(b"{}", b"Content-Length: 4194305"), 413),
        (post(b"{}", b"Content-Length: " + b"9" * 4000), 413),
        (post(b"{}", b"X: " + b"a" * 70_000), 431),
        (b"PUT /mutate HTTP/1.1\r\n\r\n", 501),
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 200),
        (b"GET /mutate HTTP/1.1\r\n\r\n", 404),
    ],
)
def test_every_request_is_answered_with_its_status(server: Server, data: bytes, status: int):
    assert b" %d " % status in said(server, data).partition(b"\r\n")[0]


@settings(max_examples=60, deadline=None, suppress_health_check=FAULTS)
@given(st.binary(max_size=200), st.booleans())
def test_whatever_comes_the_next_client_is_served(server: Server, data: bytes, as_post: bool):
    with client(server) as connection, contextlib.suppress(OSError):
        connection.sendall(post(data) if as_post else data)

    assert b" 200 " in said(server, post(b"{}"))


@pytest.fixture
def reviewing() -> Iterator[Server]:
    """Serve what the webhook answers."""
    identity = Identity()
    identity.use(Served(MATERIAL.certificate, MATERIAL.key, MATERIAL.authorities))
    decide = functools.partial(rules.decide, image=webhooks.IMAGE)
    made = Server(
        ("127.0.0.1", 0), identity, lambda body: review.answer(body, decide).body, lambda: True
    )
    made.start()
    yield made
    made.stop(1)


REVIEW = question(webhooks.injected(webhooks.pod("demo-dataset")))
HEADERS = st.sampled_from(["Content-Length", "Transfer-Encoding", "Expect", "Connection", "X"])
VALUES = st.one_of(
    st.sampled_from(["0", "7", str(len(REVIEW)), "9" * 20, "+3", "chunked", "100-continue"]),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20),
)


@settings(max_examples=80, deadline=None, suppress_health_check=FAULTS)
@given(
    head=st.sampled_from(
        ["POST /mutate", "POST /mutate?timeout=\xff", "PUT /mutate", "GET /x", "A"]
    ),
    headers=st.lists(st.tuples(HEADERS, VALUES), max_size=4),
    cut=st.integers(0, len(REVIEW)),
    put=st.binary(max_size=8),
)
def test_whatever_request_and_review_come_the_next_review_is_answered(
    reviewing: Server, head: str, headers: list[tuple[str, str]], cut: int, put: bytes
):
    body = REVIEW[:cut] + put + REVIEW[cut + len(put) :]
    lines = [f"{head} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    with client(reviewing) as connection, contextlib.suppress(OSError):
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    assert b" 200 " in said(reviewing, post(REVIEW))


def test_bytes_that_are_no_tls_delay_nobody(server: Server):
    with socket.create_connection(("127.0.0.1", server.port), 5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)

        assert b" 200 " in said(server, post(b"{}"))


def test_a_client_that_never_begins_its_handshake_delays_nobody(server: Server):
    with socket.create_connection(("127.0.0.1", server.port), 5):
        assert b" 200 " in said(server, post(b"{}"))


def test_more_connections_than_there_may_be_end_the_oldest_not_the_newest(server: Server):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(client(server)) for _ in range(40)]

        assert b" 200 " in said(server, post(b"{}"))
        assert idle[0].recv(1) == b""


def test_a_small_review_waits_for_no_large_one(server: Server, asked: Asked):
    large = b"{" + b" " * 300_000
    asked.go.clear()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(client(server)).sendall(post(large))
        until(lambda: large in asked.bodies, "a large one is being answered")
        small = stack.enter_context(client(server))
        small.sendall(post(b"{}"))

        until(lambda: b"{}" in asked.bodies, "the small one is being answered too")
        assert asked.bodies.count(large) == 1
        asked.go.set()
        assert b" 200 " in small.recv(65536)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csi_fluid.webhook.server._WAIT_S", 0.05)


def test_a_review_that_gets_no_turn_in_time_is_told_so(
    impatient: None, server: Server, asked: Asked
):
    asked.go.clear()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(client(server)).sendall(post(b"{}"))
        until(lambda: len(asked.bodies) == 4, "all turns are taken")

        assert b" 503 " in said(server, post(b"{}"))


def test_stopping_lets_the_answer_under_way_go_out(server: Server, asked: Asked):
    asked.go.clear()
    with client(server) as connection:
        connection.sendall(post(b"{}"))
        until(lambda: bool(asked.bodies), "the answer is under way")
        stopping = threading.Thread(target=server.stop, args=(5,))
        stopping.start()
        asked.go.set()

        assert b'{"answer":1}' in connection.recv(65536)
        stopping.join(5)
        assert not stopping.is_alive()


def test_a_key_of_another_certificate_is_not_served_and_the_old_one_stays():
    identity = Identity()
    other = renew(Material(), Terms((NAME,), 3600), time.time())
    identity.use(Served(MATERIAL.certificate, MATERIAL.key, ""))
    context = identity.context

    with pytest.raises(ssl.SSLError):
        identity.use(Served(other.certificate, MATERIAL.key, ""))

    assert identity.context is context
