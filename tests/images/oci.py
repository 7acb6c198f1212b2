"""An OCI image archive: layers, a configuration, an index; what ``ctr images import`` takes.

The format is that of the OCI image specification 1.1 (image-layout, manifest, config).
"""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_CHUNK = 1 << 20
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """A layer as a file: its digest when it is stored, and when it is unpacked (``diff``)."""

    path: Path
    digest: str
    diff: str
    media_type: str = _LAYER

    @classmethod
    def of_tar(cls, path: Path) -> "Layer":
        """Take a tar file as it is."""
        digest = _digest(path)
        return cls(path, digest, digest)

    def compressed(self) -> "Layer":
        """Return the same layer, compressed beside it; made once."""
        packed = self.path.with_name(self.path.name + ".gz")
        if not packed.exists() or packed.stat().st_mtime < self.path.stat().st_mtime:
            with (
                atomic(packed) as out,
                gzip.GzipFile("", "wb", 6, out, mtime=0) as stream,
                self.path.open("rb") as source,
            ):
                shutil.copyfileobj(source, stream, _CHUNK)
        return Layer(packed, _digest(packed), self.diff, f"{_LAYER}+gzip")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[io.BufferedWriter]:
    """Write a file that appears whole or not at all, also beside another writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as out:
            yield out
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class Files:
    """The content of a layer: files and directories of root, with one date, in a fixed order."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Path | bytes | None, int, str]] = {}

    def add(self, path: Path, target: str, mode: int | None = None) -> "Files":
        """Add a file, a symbolic link, or a directory with all that is below it."""
        if path.is_symlink():
            self._put(target, None, 0o777, str(path.readlink()))
        elif path.is_dir():
            self._put(target, None, 0o755)
            for child in sorted(path.iterdir()):
                self.add(child, f"{target}/{child.name}", mode)
        else:
            self._put(target, path, mode or (0o755 if os.access(path, os.X_OK) else 0o644))
        return self

    def text(self, target: str, text: str, mode: int = 0o644) -> "Files":
        """Add a file with this text."""
        self._put(target, text.encode(), mode)
        return self

    def link(self, target: str, to: str) -> "Files":
        """Add a symbolic link."""
        self._put(target, None, 0o777, to)
        return self

    def folder(self, target: str, mode: int = 0o755) -> "Files":
        """Add an empty directory."""
        self._put(target, None, mode)
        return self

    def drop(self, suffix: str) -> "Files":
        """Leave out what ends so, and what is below it."""
        self._entries = {
            name: entry
            for name, entry in self._entries.items()
            if not f"{name}/".endswith(f"{suffix}/") and f"{suffix}/" not in name
        }
        return self

    def has(self, target: str) -> bool:
        """Say whether a path is in it."""
        return target.strip("/") in self._entries

    def _put(self, target: str, content: Path | bytes | None, mode: int, link: str = "") -> None:
        self._entries[target.strip("/")] = (content, mode, link)

    def layer(self, path: Path) -> Layer:
        """Write the tar file and return it as a layer."""
        with atomic(path) as out, tarfile.open(fileobj=out, mode="w") as tar:
            for name, (content, mode, link) in sorted(self._entries.items()):
                _add(tar, name, content, mode, link)
        return Layer.of_tar(path)


def _add(tar: tarfile.TarFile, name: str, content: Path | bytes | None, mode: int, link: str):
    info = tarfile.TarInfo(name)
    info.mode = mode
    if link:
        info.type, info.linkname = tarfile.SYMTYPE, link
        tar.addfile(info)
    elif content is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif isinstance(content, bytes):
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    else:
        info.size = content.stat().st_size
        with content.open("rb") as source:
            tar.addfile(info, source)


def write(path: Path, name: str, layers: list[Layer], **config: Any) -> None:
    """Write an image archive under a full name with a tag; config goes into the OCI ``config``."""
    architecture = ARCHITECTURES[platform.machine()]
    image = {
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff for layer in layers]},
    }
    with atomic(path) as out, tarfile.open(fileobj=out, mode="w") as tar:
        settings = _blob(tar, image, "application/vnd.oci.image.config.v1+json")
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": settings,
            "layers": [_stored(tar, layer) for layer in layers],
        }
        entry = _blob(tar, manifest, manifest["mediaType"])
        entry["platform"] = {"architecture": architecture, "os": "linux"}
        entry["annotations"] = {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        }
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }
        _add(tar, "index.json", json.dumps(index).encode(), 0o644, "")
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0o644, "")


def _stored(tar: tarfile.TarFile, layer: Layer) -> dict[str, Any]:
    _add(tar, f"blobs/sha256/{layer.digest.partition(':')[2]}", layer.path, 0o644, "")
    size = layer.path.stat().st_size
    return {"mediaType": layer.media_type, "digest": layer.digest, "size": size}


def _blob(tar: tarfile.TarFile, value: Any, media_type: Any) -> dict[str, Any]:
    data = json.dumps(value, sort_keys=True).encode()
    digest = hashlib.sha256(data).hexdigest()
    _add(tar, f"blobs/sha256/{digest}", data, 0o644, "")
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _digest(path: Path) -> str:
    with path.open("rb") as source:
        return f"sha256:{hashlib.file_digest(source, 'sha256').hexdigest()}"
