"""The helper process that talks to the API server.

`python -m csi_fluid.kube.child NODE ACCOUNT TMP`: the credentials of kube.access, and a folder for
temporary files.  Calls come as lines on the socket that is descriptor 0, each runs in a thread of
its own, and answers go back as they come.  The end of the socket, which is also the plugin's death,
ends the process.  Here, and only here, `kubernetes` and OpenSSL are imported: they take as much
memory as the whole plugin, and no call is made while all is well.
"""

import json
import logging
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from kubernetes.client import ApiClient, Configuration
from kubernetes.config import load_incluster_config, load_kube_config
from urllib3 import exceptions

from csi_fluid import __version__
from csi_fluid.kube import wire
from csi_fluid.kube.access import IN_CLUSTER, Access
from csi_fluid.kube.wire import Request, Response

_MAX_BODY = 24 * 1024 * 1024  # bytes
_SHOWN = 200
_UNAUTHORIZED = 401
_IN_CLUSTER_FILES = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_Look = tuple[tuple[str, int, int, int], ...]


class Door:
    """One credential's way to the API server, opened anew when one of its files was replaced."""

    def __init__(self, credential: str) -> None:
        self._credential = credential
        self._lock = threading.Lock()
        self._client: ApiClient | None = None
        self._files: tuple[str, ...] = ()
        self._seen: _Look = ()

    def ask(self, request: Request, timeout_s: float) -> Response:
        """Make a call; a credential that the server does not take any more is read again once."""
        try:
            answer = _ask(self._open(), request, timeout_s)
            if answer.status == _UNAUTHORIZED:
                answer = _ask(self._open(anew=True), request, timeout_s)
        except Exception as error:  # noqa: BLE001  whatever a library raises is the answer
            return Response(0, {}, _reason(error))
        return answer

    def _open(self, *, anew: bool = False) -> ApiClient:
        with self._lock:
            if self._client is None or anew or _look(self._files) != self._seen:
                configuration, files = _load(self._credential)
                self._files, self._seen = files, _look(files)
                self._client = ApiClient(configuration)
            return self._client


class _Said(logging.Handler):
    """Remembers the last thing that a library said."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


def _load(credential: str) -> tuple[Configuration, tuple[str, ...]]:
    """Read a credential; return it with the files that it is made of."""
    configuration = Configuration()
    said = _Said()
    logging.getLogger().addHandler(said)  # what a command of the kubeconfig died of is only logged
    try:
        if credential == IN_CLUSTER:
            load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
            token, authority = _IN_CLUSTER_FILES / "token", _IN_CLUSTER_FILES / "ca.crt"
            files: Iterable[str] = (str(token), str(authority))
        else:
            load_kube_config(  # type: ignore[no-untyped-call]
                credential,
                client_configuration=configuration,
                persist_config=False,
                temp_file_path=tempfile.tempdir,
            )
            parts = configuration.cert_file, configuration.key_file, configuration.ssl_ca_cert
            files = (credential, *filter(None, parts))
            if not configuration.cert_file and not configuration.auth_settings():
                raise ValueError(said.last or "it holds no token and no client certificate")  # noqa: TRY301
    except Exception as error:
        raise ValueError(f"cannot use the credential {credential}: {_reason(error)}") from error
    finally:
        logging.getLogger().removeHandler(said)
    configuration.retries = False  # each call has a time limit of its own
    return configuration, tuple(files)


def _look(files: Iterable[str]) -> _Look:
    """Tell which files stand at paths now; a rotation replaces a file or what a link names."""
    seen = []
    for path in files:
        try:
            found = Path(path).stat()
        except OSError:
            seen.append((path, 0, 0, 0))
        else:
            seen.append((path, found.st_ino, found.st_mtime_ns, found.st_size))
    return tuple(seen)


def _ask(client: ApiClient, request: Request, timeout_s: float) -> Response:
    configuration = client.configuration
    headers = {
        "Accept": request.accept,
        "Content-Type": request.content,
        "User-Agent": f"csi-fluid/{__version__}",  # what the API server's audit log shows
    }
    for setting in configuration.auth_settings().values():
        if setting["in"] == "header" and setting["value"]:
            headers[setting["key"]] = setting["value"]
    body = None if request.body is None else json.dumps(request.body)

    def once() -> Response:
        response = client.rest_client.pool_manager.request(
            request.method,
            configuration.host + request.path,
            body=body,
            headers=headers,
            timeout=timeout_s,
            preload_content=False,
        )
        try:
            return _answer(response.status, response.read(_MAX_BODY + 1))
        finally:
            response.release_conn()

    try:
        return once()
    except exceptions.ProtocolError:
        return once()  # a kept connection may have been closed meanwhile; every call is idempotent


def _answer(status: int, body: bytes) -> Response:
    if len(body) > _MAX_BODY:
        return Response(status, {}, f"an answer of more than {_MAX_BODY} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return Response(status, found)
    shown = body[:_SHOWN].decode("utf-8", "replace")
    return Response(status, {}, f"no JSON object but {shown!r}")


def _reason(error: BaseException) -> str:
    """Say what went wrong; the libraries put one error into the other and hide the useful one."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def serve(channel: socket.socket, access: Access) -> None:
    """Answer what comes through the channel until it ends."""
    doors = {"node": Door(access.of("node")), "account": Door(access.of("account"))}
    lock = threading.Lock()

    def work(line: bytes) -> None:
        number, timeout_s, request = wire.unpack(line)
        answer = wire.pack_response(number, doors[request.who].ask(request, timeout_s))
        with lock:
            channel.sendall(answer)

    buffer = bytearray()
    while data := channel.recv(65536):
        buffer += data
        for line in wire.lines(buffer):
            threading.Thread(target=work, args=(line,), daemon=True).start()


def main() -> None:
    """Serve the plugin that started this process."""
    # The plugin blocks the signals that end it, and children inherit that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    node, account, tempfile.tempdir = sys.argv[1:4]
    with socket.socket(fileno=0) as channel:
        serve(channel, Access(node, account))


if __name__ == "__main__":
    main()
