"""Where the served certificate comes from: files, or an authority that the replicas share."""

import base64
import binascii
import io
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from csi_fluid.errors import Conflict, NotFound, Unavailable
from csi_fluid.kube import cluster, objects
from csi_fluid.kube.cluster import Api
from csi_fluid.kube.wire import Request
from csi_fluid.webhook import certificates
from csi_fluid.webhook.certificates import Material, Terms

_TRIES = 4
_CONFLICT = 409
_MAX_FILE = 1024 * 1024  # bytes; a Secret holds no more
_FIELDS = {
    "ca.crt": "authorities",
    "ca.key": "authority_key",
    "tls.crt": "certificate",
    "tls.key": "key",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A certificate with its key, and what an API server must trust, all in PEM.

    bundle is "" where somebody else tells the API server.
    """

    certificate: str
    key: str
    bundle: str


class Source(Protocol):
    """Says what is to be served now."""

    def fetch(self, until: float) -> Served:
        """Return it before the monotonic time until; raises Unavailable, NotFound or OSError."""


class Files:
    """tls.crt, tls.key and, if it is there, ca.crt in a directory; somebody else renews them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, until: float) -> Served:  # noqa: ARG002  nothing to wait for
        """Read the files; raises OSError, or ValueError for what is no text."""
        try:
            bundle = _read(self._folder / "ca.crt")
        except FileNotFoundError:
            bundle = ""
        return Served(_read(self._folder / "tls.crt"), _read(self._folder / "tls.key"), bundle)


def _read(path: Path) -> str:
    """Return a file's text without ever waiting for it, as the open of a FIFO would."""
    with io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no regular file")
        return file.read(_MAX_FILE).decode("ascii")


class Shared:
    """An authority of our own, in a Secret that every replica reads, and the first to come renews.

    The Secret must exist, empty at first: so no replica needs the right to make Secrets.
    """

    def __init__(self, api: Api, namespace: str, name: str, terms: Terms) -> None:
        self._api = api
        self._named = f"{namespace}/{name}"
        self._path = f"/api/v1/namespaces/{cluster.place(namespace, 'secrets', name)}"
        self._terms = terms

    def fetch(self, until: float) -> Served:
        """Return what the Secret holds, renewed if that is due; raises Unavailable or NotFound."""
        for _ in range(_TRIES):
            try:
                material = self._renewed(until)
            except Conflict:  # another replica was quicker: read what it wrote
                continue
            return Served(material.certificate, material.key, material.authorities)
        raise Unavailable(
            f"Secret {self._named} changes each time before it can be renewed; "
            "does somebody else write to it?"
        )

    def _renewed(self, until: float) -> Material:
        secret = cluster.get(self._api, self._path, "Secret", until)
        if secret is None:
            raise NotFound(
                f"there is no Secret {self._named}; make it again, empty, from manifests/serverless"
            )
        old = _material(secret)
        new = certificates.renew(old, self._terms, time.time())
        if new != old:
            self._write(secret, new, until)
        return new

    def _write(self, secret: objects.Object, material: Material, until: float) -> None:
        """Replace the Secret's data; the version in its metadata makes that fail if it changed."""
        body = {**secret, "data": _data(material)}
        request = Request("account", "PUT", self._path, body)
        answer = self._api.ask(request, until)
        if answer.status == _CONFLICT:
            raise Conflict(f"Secret {self._named} was changed meanwhile")
        if not cluster.succeeded(answer):
            raise cluster.refusal(request, answer)


def _material(secret: objects.Object) -> Material:
    return Material(
        **{field: _decoded(objects.text(secret, "data", key)) for key, field in _FIELDS.items()}
    )


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return ""  # as if it were not there, so that it is made anew


def _data(material: Material) -> Mapping[str, str]:
    return {
        key: base64.b64encode(getattr(material, field).encode()).decode()
        for key, field in _FIELDS.items()
    }
