"""The API server, with the caller's own kubeconfig: objects, logs, commands in containers.

Safe to use from any thread.  Every call ends: answers and commands have time limits.
"""

import json
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import websocket
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException, list_kube_config_contexts, load_kube_config
from kubernetes.stream import ws_client
from urllib3 import exceptions

from csi_fluid import __version__
from csi_fluid.cli import usage
from csi_fluid.kubectl.rights import Denied, Wanted

Object = dict[str, Any]

_CHUNK = 500  # objects in one answer, as kubectl asks for
_ERROR_CHANNEL = 3  # of an exec, v4.channel.k8s.io: how the command ended


class Unanswered(usage.Failure):
    """The API server, or what is behind it, did not do what it was asked; the message says why."""


class Absent(Unanswered):
    """There is no such object."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod, by its names."""

    namespace: str
    pod: str
    name: str


@dataclass(frozen=True, slots=True)
class Output:
    """What a command said, and its exit status."""

    stdout: str
    stderr: str
    status: int


class Api:
    """What a caller can ask of the cluster."""

    def __init__(self, kubeconfig: str = "", context: str = "", *, timeout_s: float = 30.0) -> None:
        """Read the kubeconfig (default: kubectl's); raises usage.Failure where there is none."""
        self._timeout_s = timeout_s
        self._configuration = Configuration()
        try:
            load_kube_config(  # type: ignore[no-untyped-call]
                kubeconfig or None,
                context or None,
                client_configuration=self._configuration,
                persist_config=False,
            )
        except (ConfigException, OSError) as error:
            raise usage.Failure(
                f"{error} Say with --kubeconfig or KUBECONFIG where it is"
            ) from error
        self._configuration.retries = False
        self.namespace = _namespace(kubeconfig, context)
        self._pool = ApiClient(self._configuration).rest_client.pool_manager

    def close(self) -> None:
        """End the connections that are kept."""
        self._pool.clear()

    def get(self, path: str, **query: str) -> Object:
        """Return an object; raises Absent, Denied or Unanswered."""
        found: Object = json.loads(self.text(path, **query))
        return found

    def items(self, path: str, **query: str) -> Iterator[Object]:
        """Yield the objects of a list, fetched in chunks; raises as `get`."""
        more = {"limit": str(_CHUNK)} | query
        while True:
            found = self.get(path, **more)
            yield from found["items"]
            token = found["metadata"].get("continue", "")
            if not token:
                return
            more["continue"] = token

    def text(self, path: str, **query: str) -> str:
        """Return what stands at a path; raises as `get`."""
        url = self._url(path, list(query.items()))
        headers = {"User-Agent": f"kubectl-csi_fluid/{__version__}"} | self._authorization()
        try:
            answer = self._pool.request("GET", url, headers=headers, timeout=self._timeout_s)
        except exceptions.HTTPError as error:
            host = self._configuration.host
            raise Unanswered(f"the API server {host} does not answer: {error}") from error
        text: str = answer.data.decode("utf-8", "replace")
        if answer.status != 200:
            raise _refusal(answer.status, text, path, is_list="limit" in query)
        return text

    def execute(self, where: Container, command: Sequence[str], *, timeout_s: float) -> Output:
        """Run a command in a container; raises as `get`, Unanswered when the time is over."""
        path = f"/api/v1/namespaces/{where.namespace}/pods/{where.pod}/exec"
        asked = [("command", word) for word in command]
        asked += [("container", where.name), ("stdout", "true"), ("stderr", "true")]
        url = ws_client.get_websocket_url(self._url(path, asked))  # type: ignore[no-untyped-call]
        until = time.monotonic() + timeout_s
        try:
            client = ws_client.WSClient(  # type: ignore[no-untyped-call]
                self._configuration, url, self._authorization(), capture_all=False
            )
        except websocket.WebSocketBadStatusException as error:
            body = error.resp_body or b""
            raise _refusal(error.status_code, body.decode("utf-8", "replace"), path) from error
        except (OSError, websocket.WebSocketException) as error:
            raise Unanswered(f"{where.pod}: {error}") from error
        try:
            return _read(client, until)
        except TimeoutError as error:
            said = f"{where.pod}: {command[0]} did not end within {timeout_s:g} s"
            raise Unanswered(said) from error
        except (OSError, websocket.WebSocketException) as error:
            raise Unanswered(f"{where.pod}: {error}") from error
        finally:
            client.sock.shutdown()  # close() leaves it open where the server closed first

    def _url(self, path: str, query: list[tuple[str, str]]) -> str:
        asked = f"?{urllib.parse.urlencode(query)}" if query else ""
        return f"{self._configuration.host}{path}{asked}"

    def _authorization(self) -> dict[str, str]:
        settings: Iterable[dict[str, str]] = self._configuration.auth_settings().values()  # type: ignore[assignment]
        return {each["key"]: each["value"] for each in settings if each["in"] == "header"}


def _namespace(kubeconfig: str, context: str) -> str:
    """Return the namespace of a context."""
    every, active = list_kube_config_contexts(kubeconfig or None)  # type: ignore[no-untyped-call]
    chosen = next((each for each in every if each["name"] == context), active)
    return str(chosen["context"].get("namespace", "default"))


def _read(client: Any, until: float) -> Output:
    said = {1: "", 2: "", _ERROR_CHANNEL: ""}
    while client.is_open():
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        client.update(timeout=left_s)
        for channel in said:
            said[channel] += client.read_channel(channel)
    return Output(said[1], said[2], _status(said[_ERROR_CHANNEL]))


def _status(told: str) -> int:
    """Return the exit status in a v1.Status; raises Unanswered where the command did not run."""
    status = json.loads(told or '{"status": "Failure", "message": "the connection was closed"}')
    if status["status"] == "Success":
        return 0
    for cause in status.get("details", {}).get("causes", ()):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise Unanswered(status["message"])


def _refusal(status: int, body: str, path: str, *, is_list: bool = False) -> usage.Failure:
    """Return the error of an answer that is none."""
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body.strip()[:200] or f"status {status}"
    if status == 403:
        return Denied(_wanted(path, is_list=is_list))
    return Absent(message) if status == 404 else Unanswered(message)


def _wanted(path: str, *, is_list: bool) -> Wanted:
    """Return the right that a call needs, from its path."""
    parts = path.strip("/").split("/")
    group = parts[1] if parts[0] == "apis" else ""
    parts = parts[3 if group else 2 :]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    resource = "/".join((parts[0], *parts[2:3]))
    verb = "list" if is_list else "create" if resource == "pods/exec" else "get"
    return Wanted(verb, f"{resource}.{group}" if group else resource, namespace)
