"""A small API server over real TLS: the verbs that the plugin uses, with real status bodies.

It knows two users, by client certificate (kubelet's) or by token (the ServiceAccount's), and allows
each what csi_fluid.kube.calls says that it needs and no more, so that a call which RBAC would
refuse is refused here too.  The cluster tests make the same calls to a real API server.
"""

import base64
import contextlib
import copy
import http.server
import json
import re
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from csi_fluid.kube import calls
from tests.harness import execution
from tests.harness.authority import Authority

NODE = "node1"
KUBELET = f"system:node:{NODE}"
ACCOUNT = "system:serviceaccount:fluid-system:fluid-csi"
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v[^/]+/(?:namespaces/(?P<ns>[^/]+)/)?(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>exec|log))?"
)
_VERBS = {
    "GET": "get",
    "PATCH": "patch",
    "POST": "create",
    "PUT": "update",
    "DELETE": "delete",
}

FLUID_PATH = calls.FLUID_API

Json = dict[str, Any]
Fault = Callable[[http.server.BaseHTTPRequestHandler], bool]
"""Does something other than answering; True if it did."""

Run = Callable[[str, list[str]], tuple[str, int]]
"""What a command says in a container of a pod, and how it ends."""


class ApiServer:
    """The server: its objects by path, what it was asked, and what it does wrong on purpose."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.token = "first-token"
        self.objects: dict[str, Json] = {}
        self.asked: list[tuple[str, str, str]] = []  # user, method, path
        self.fault: Fault | None = None
        self.run: Run = lambda pod, command: ("", 127)
        self.logs: dict[str, str] = {}  # by pod
        self.rules: dict[str, tuple[calls.Rule, ...]] = {
            KUBELET: calls.NODE + calls.NODE_EXTRA,
            ACCOUNT: calls.ACCOUNT,
        }
        self.lock = threading.Lock()
        self._port = port
        self._server: _Http | None = None
        self._thread: threading.Thread | None = None
        self.put("/api/v1/nodes/" + NODE, "v1", "Node")

    def start(self) -> None:
        """Listen; again at the same port after a stop."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.issue("server", self.folder / "server.pem"))
        context.load_verify_locations(self.authority.certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._server = _Http(("127.0.0.1", self._port), _Handler)
        self._server.api, self._server.context = self, context
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        """End every connection."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server.end_connections()
        self._server = self._thread = None

    def put(self, path: str, api_version: str, kind: str, **fields: Any) -> Json:
        """Store an object at a path; its metadata is completed."""
        parts = path.split("/")
        metadata: Json = {"name": parts[-1], "uid": f"uid-{parts[-1]}", "resourceVersion": "1"}
        if "namespaces" in parts:
            metadata["namespace"] = parts[parts.index("namespaces") + 1]
        metadata |= fields.pop("metadata", {})
        found = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}
        self.objects[path] = found
        return found

    def dataset(
        self,
        namespace: str,
        name: str,
        *,
        kind: str = "jindo",
        policy: str = "",
        shows: tuple[str, str] = ("", ""),
    ) -> None:
        """Store what Fluid makes of a dataset; shows: it refers to the dataset of that name."""
        runtime_ns, runtime_name = shows[0] or namespace, shows[1] or name
        handle, fluid = f"{runtime_ns}-{runtime_name}", "data.fluid.io/v1alpha1"
        attributes = {
            "fluid_path": f"/runtime-mnt/{kind}/{runtime_ns}/{runtime_name}/{kind}-fuse",
            "mount_pod_node_selector_key": f"fluid.io/f-{handle}",
            "runtime_namespace": runtime_ns,
            "runtime_name": runtime_name,
        }
        volume = {
            "claimRef": {"namespace": namespace, "name": name},
            "csi": {"volumeHandle": handle, "volumeAttributes": attributes},
        }
        self.put(
            f"/api/v1/persistentvolumes/{namespace}-{name}", "v1", "PersistentVolume", spec=volume
        )
        self.put(
            f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}",
            "v1",
            "PersistentVolumeClaim",
            metadata={"labels": {f"fluid.io/s-{namespace}-{name}": "true"}},
        )
        described = {"namespace": runtime_ns, "name": runtime_name, "type": kind}
        self.put(
            f"{FLUID_PATH}/namespaces/{namespace}/datasets/{name}",
            fluid,
            "Dataset",
            status={"runtimes": [described]},
        )
        section = {"client" if kind == "cache" else "fuse": {"cleanPolicy": policy}}
        self.put(
            f"{FLUID_PATH}/namespaces/{namespace}/{kind}runtimes/{name}", fluid, "R", spec=section
        )

    def pod(self, namespace: str, name: str, uid: str) -> None:
        """Store a pod of the node."""
        self.put(
            f"/api/v1/namespaces/{namespace}/pods/{name}",
            "v1",
            "Pod",
            metadata={"uid": uid},
            spec={"nodeName": NODE},
        )

    @property
    def labels(self) -> Mapping[str, str]:
        """Return the node's labels."""
        found: Mapping[str, str] = self.objects[f"/api/v1/nodes/{NODE}"]["metadata"].get(
            "labels", {}
        )
        return found

    @property
    def events(self) -> list[Json]:
        """Return the events that are stored."""
        with self.lock:
            return [found for path, found in self.objects.items() if "/events/" in path]

    def kubelet_config(self) -> Path:
        """Write a kubeconfig with a rotating client certificate, as kubelet has it."""
        path = self.folder / "kubelet.conf"
        pem = self.authority.issue(KUBELET, self.folder / "kubelet-client-1.pem")
        current = self.folder / "kubelet-client-current.pem"
        if not current.is_symlink():
            current.symlink_to(pem)
        self._write(path, {"client-certificate": str(current), "client-key": str(current)})
        return path

    def account_config(self, token: str = "") -> Path:
        """Write a kubeconfig with a token."""
        path = self.folder / "account.conf"
        self._write(path, {"token": token or self.token})
        return path

    def inline_config(self) -> Path:
        """Write a kubeconfig that holds kubelet's certificate itself."""
        pem = self.authority.issue(KUBELET, self.folder / "inline.pem").read_bytes()
        data = base64.b64encode(pem).decode()
        path = self.folder / "inline.conf"
        self._write(path, {"client-certificate-data": data, "client-key-data": data})
        return path

    def token_file_config(self) -> tuple[Path, Path]:
        """Write a kubeconfig that names a file with the token; return both."""
        path, token = self.folder / "token.conf", self.folder / "token"
        token.write_text(self.token)
        self._write(path, {"tokenFile": str(token)})
        return path, token

    def exec_config(self, command: str) -> Path:
        """Write a kubeconfig whose token a command is to make."""
        path = self.folder / "exec.conf"
        api = "client.authentication.k8s.io/v1"
        self._write(path, {"exec": {"apiVersion": api, "command": command}})
        return path

    def _write(self, path: Path, user: Mapping[str, object]) -> None:
        cluster = {
            "server": f"https://127.0.0.1:{self._port}",
            "certificate-authority": str(self.authority.certificate),
        }
        text = yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": dict(user)}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
        new = path.with_suffix(".new")
        new.write_text(text)
        new.rename(path)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[ApiServer]:
    """Serve for a block."""
    server = ApiServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _Http(http.server.ThreadingHTTPServer):
    api: ApiServer
    context: ssl.SSLContext
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[Any] = set()

    def get_request(self) -> tuple[Any, Any]:
        plain, address = super().get_request()
        plain.settimeout(10)
        wrapped = self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._open.add(wrapped)
        return wrapped, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(2)

    def server_close(self) -> None:
        self.socket.close()
        self.end_connections()
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients go away in the tests on purpose."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve()

    do_PATCH = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  names of http.server

    def _serve(self) -> None:
        api = self.server.api
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else {}
        user = self._user()
        api.asked.append((user, self.command, self.path))
        if api.fault is not None and api.fault(self):
            return
        if not user:
            self.answer(*_status(401, "Unauthorized", "Unauthorized"))
            return
        call = _Call(api, user, self.command, self.path)
        if call.is_exec and call.is_allowed():
            execution.answer(self, *api.run(*call.executed))
            return
        with api.lock:
            self.answer(*call.run(body))

    def _user(self) -> str:
        given = self.headers.get("Authorization", "").split()
        if len(given) == 2 and given[0].lower() == "bearer":
            return ACCOUNT if given[1] == self.server.api.token else ""
        certificate = self.connection.getpeercert() or {}
        names = dict(pair for part in certificate.get("subject", ()) for pair in part)
        return str(names.get("commonName", ""))

    def answer(self, status: int, found: Json | str) -> None:
        text = (found if isinstance(found, str) else json.dumps(found)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class _Call:
    """One call by a known user."""

    def __init__(self, api: ApiServer, user: str, method: str, target: str) -> None:
        self._api = api
        self._user = user
        self._url = urllib.parse.urlsplit(target)
        found = _PATH.fullmatch(self._url.path)
        self._parts = found.groupdict("") if found else {}
        is_list = method == "GET" and not self._parts.get("name")
        self._verb = "list" if is_list else _VERBS[method]
        self._query = urllib.parse.parse_qs(self._url.query)

    @property
    def is_exec(self) -> bool:
        return self._parts.get("part") == "exec"

    @property
    def executed(self) -> tuple[str, list[str]]:
        return self._parts["name"], self._query["command"]

    def run(self, body: Json) -> tuple[int, Json | str]:
        if not self._parts:
            return _status(404, "NotFound", "the server could not find the requested resource")
        if not self.is_allowed():
            return _status(403, "Forbidden", f'User "{self._user}" cannot {self._verb} this')
        return getattr(self, f"_{self._verb}")(body)  # type: ignore[no-any-return]

    def is_allowed(self) -> bool:
        is_node = self._parts["resource"] == "nodes"
        if self._user == KUBELET and is_node and self._parts["name"] != NODE:
            return False  # NodeRestriction
        resource = "/".join(filter(None, (self._parts["resource"], self._parts["part"])))
        return any(
            self._parts["group"] == rule.group
            and resource in rule.resources
            and self._verb in rule.verbs
            and (not rule.names or self._parts["name"] in rule.names)
            for rule in self._api.rules.get(self._user, ())
        )

    def _missing(self) -> tuple[int, Json]:
        text = f'{self._parts["resource"]} "{self._parts["name"]}" not found'
        return _status(404, "NotFound", text)

    def _get(self, _: Json) -> tuple[int, Json | str]:
        if self._parts["part"] == "log":
            return 200, self._api.logs.get(self._parts["name"], "")
        found = self._api.objects.get(self._url.path)
        return (200, found) if found else self._missing()

    def _list(self, _: Json) -> tuple[int, Json]:
        """List what lies at the path, or with no namespace in it in all of them."""
        query = dict(urllib.parse.parse_qsl(self._url.query))
        wanted = [
            pair.split("=") for pair in filter(None, query.get("labelSelector", "").split(","))
        ]
        node = query.get("fieldSelector", "").removeprefix("spec.nodeName=")
        found = [
            each
            for path, each in self._api.objects.items()
            if self._lists(path)
            and all(each["metadata"].get("labels", {}).get(k) == v for k, v in wanted)
            and (not node or each.get("spec", {}).get("nodeName") == node)
        ]
        first = int(query.get("continue", 0))
        end = first + int(query.get("limit", len(found)))
        metadata = {"continue": str(end)} if end < len(found) else {}
        return 200, {
            "kind": "List",
            "apiVersion": "v1",
            "metadata": metadata,
            "items": found[first:end],
        }

    def _lists(self, path: str) -> bool:
        found = _PATH.fullmatch(path)
        parts = found.groupdict("") if found else {}
        return bool(parts) and all(
            parts[key] == self._parts[key] or (key == "ns" and not self._parts["ns"])
            for key in ("group", "resource", "ns")
        )

    def _create(self, body: Json) -> tuple[int, Json]:
        namespace, about = self._parts["ns"], body["involvedObject"]
        if about["namespace"] != namespace or body["metadata"]["namespace"] != namespace:
            return _status(422, "Invalid", "involvedObject.namespace: does not match")
        path = f"{self._url.path}/{body['metadata']['name']}"
        if path in self._api.objects:
            return _status(409, "AlreadyExists", "it exists already")
        self._api.objects[path] = body
        return 201, body

    def _patch(self, body: Json) -> tuple[int, Json]:
        found = self._api.objects.get(self._url.path)
        if found is None:
            return self._missing()
        if not _is_current(found, body):
            return _status(409, "Conflict", "the object has been modified")
        _merge(found, body)
        _count(found)
        return 200, copy.deepcopy(found)

    def _update(self, body: Json) -> tuple[int, Json]:
        found = self._api.objects.get(self._url.path)
        if found is None:
            return self._missing()
        if not _is_current(found, body):
            return _status(409, "Conflict", "the object has been modified")
        self._api.objects[self._url.path] = made = copy.deepcopy(body)
        _count(made)
        return 200, made

    def _delete(self, body: Json) -> tuple[int, Json]:
        found = self._api.objects.get(self._url.path)
        if found is None:
            return self._missing()
        wanted = body.get("preconditions", {})
        if any(found["metadata"].get(key) != value for key, value in wanted.items()):
            return _status(409, "Conflict", "Precondition failed")
        del self._api.objects[self._url.path]
        return 200, found


def _is_current(found: Json, body: Json) -> bool:
    version = body.get("metadata", {}).get("resourceVersion")
    return version in {None, found["metadata"].get("resourceVersion")}


def _count(found: Json) -> None:
    metadata = found["metadata"]
    metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", "0")) + 1)


def _merge(found: Json, changes: Json) -> None:
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
        elif key == "webhooks":  # a list whose items are told apart by their names
            for item in value:
                _merge(next(old for old in found[key] if old["name"] == item["name"]), item)
        elif isinstance(value, dict):
            _merge(found.setdefault(key, {}), value)
        else:
            found[key] = value


def _status(code: int, reason: str, message: str) -> tuple[int, Json]:
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
