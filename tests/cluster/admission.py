"""Fluid's webhook on the cluster: the stand-in of tests/harness/fluidwebhook.py, over HTTPS.

The API server asks it about each new pod with the label serverless.fluid.io/inject: "true".
"""

import base64
import itertools
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

from tests.cluster import credentials
from tests.cluster.cluster import Cluster, Object
from tests.harness import fluidwebhook
from tests.harness.fluidwebhook import INJECT, Claim

RANDOM_SUFFIX = {"default.fuse-sidecar.fluid.io/host-mount-path-mode": "random-suffix"}
_TIMEOUT_S = 15


class FluidWebhook:
    """A server at the machine's end of a cluster's link; use it as a context manager.

    claims: of each namespace, what the name of a claim leads to.  native: what it makes of a pod
    are native sidecars (FUSE_SIDECAR_INJECTION_MODE).
    """

    name = "fluid-pod-admission-webhook"
    _path = "/mutate-fluid-io-v1alpha1-schedulepod"
    _selector: ClassVar[Object] = {"objectSelector": {"matchLabels": {INJECT: "true"}}}

    def __init__(self, cluster: Cluster) -> None:
        self.claims: dict[str, dict[str, Claim]] = {}
        self.native = False
        self._cluster = cluster
        self._numbers = itertools.count(1)
        self._server = ThreadingHTTPServer((cluster.node.host_ip, 0), self._handler())
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*credentials.serve(cluster.place, self.name, cluster.node.host_ip))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name=self.name)

    def __enter__(self) -> Self:
        self._thread.start()
        self._cluster.apply(self._configuration())
        return self

    def __exit__(self, *_: object) -> None:
        kind = "mutatingwebhookconfiguration"
        self._cluster.kubectl("delete", kind, self.name, "--ignore-not-found", check=False)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, body: bytes) -> bytes:
        """Return the answer to an AdmissionReview."""
        request = json.loads(body)["request"]
        before, after = request["object"], self.mutate(request)
        changes = [
            {"op": "add", "path": f"/{part}/{name}", "value": after[part][name]}
            for part, name in _PARTS
            if after[part].get(name) != before[part].get(name)
        ]
        response: Object = {"uid": request["uid"], "allowed": True}
        if changes:
            patch = base64.b64encode(json.dumps(changes).encode()).decode()
            response |= {"patchType": "JSONPatch", "patch": patch}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
        return json.dumps(review | {"response": response}).encode()

    def mutate(self, request: Object) -> Object:
        """Return what becomes of the pod of an admission request."""
        pod, namespace = request["object"], request["namespace"]
        metadata = pod["metadata"]
        suffix = ""
        if RANDOM_SUFFIX.items() <= metadata.get("annotations", {}).items():
            name = metadata.get("name") or f"{metadata['generateName']}--generate-name"
            suffix = f"{name}/{next(self._numbers):016d}-5eed5eed"
        claims = self.claims.get(namespace, {})
        return fluidwebhook.inject(pod, claims, native=self.native, suffix=suffix)

    def _configuration(self) -> Object:
        authority = (self._cluster.place.secrets / "ca.crt").read_bytes()
        host, port = self._server.server_address[:2]
        webhook = {
            "name": "sidecar.fuse.fluid.io",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {
                "caBundle": base64.b64encode(authority).decode(),
                "url": f"https://{host!s}:{port}{self._path}",
            },
            "failurePolicy": "Fail",
            **self._selector,
            "reinvocationPolicy": "IfNeeded",
            "rules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["pods"],
                }
            ],
            "sideEffects": "None",
            "timeoutSeconds": _TIMEOUT_S,
        }
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.name},
            "webhooks": [webhook],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = webhook.answer(body)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


_PARTS = (
    *(("metadata", part) for part in ("labels", "annotations")),
    *(("spec", part) for part in ("volumes", "initContainers", "containers")),
)
