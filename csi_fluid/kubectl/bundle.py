"""`kubectl csi-fluid bundle`: one file for support."""

import io
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from csi_fluid import __version__
from csi_fluid.cli import screen, usage
from csi_fluid.kubectl import fleet, gather, options, plugins, redact
from csi_fluid.kubectl.gather import File, Missing, Part

_EXAMPLES = """\
  kubectl csi-fluid bundle
  kubectl csi-fluid bundle --node worker-7 -o /tmp/csi-fluid.tar.gz"""
_ABOUT = """\
csi-fluid {version}, {when}: {nodes} nodes.

nodes/NODE   of each node's plugin: status, doctor, the log of every life of it, the mounts of
             datasets, its metrics and its pod
objects/     of the API server: datasets, runtimes, volumes, FUSE pods, events, what is installed

No Secret was read.  What is or looks like a secret was replaced by (redacted): values under keys
that sound like one, tokens, passwords in URLs, private keys.  Paths and names are left.
"""


def run(argv: Sequence[str]) -> int:
    """Write the file; say how large it is and what is not in it."""
    parser = options.Parser("bundle", "[OPTIONS]", "Write what support needs.", _EXAMPLES)
    parser.add_argument("--node", default="", metavar="NAME", help="of the nodes this one alone")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: csi-fluid-TIME.tar.gz"
    )
    name = f"csi-fluid-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    with parser.read(argv) as asked:
        path = asked.given.output or Path(f"{name}.tar.gz")
        every = plugins.need(asked.api, asked.namespace, asked.given.node)
        missing = _write(path, name, _parts(asked, every), len(every))
    for each in missing:
        screen.talk(f"not in it: {each.path}: {each.why}")
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, {len(every)} nodes")
    return 0


def _write(path: Path, name: str, parts: Iterator[Part], nodes: int) -> list[Missing]:
    """Write a bundle, all of it or nothing; return what is not in it."""
    if path.exists():
        raise usage.Failure(f"{path} is there already; say with -o where to write")
    half = path.with_name(f"{path.name}.part")
    try:
        with tarfile.open(half, "w:gz") as archive:
            missing = _fill(archive, name, parts, nodes)
        half.rename(path)
    except OSError as error:
        raise usage.Failure(f"{path} cannot be written: {error}; say with -o where to") from error
    finally:
        half.unlink(missing_ok=True)
    return missing


def _parts(asked: options.Asked, every: Sequence[plugins.Plugin]) -> Iterator[Part]:
    replies = fleet.ask(every, gather.of_node(asked.api, asked.limits), asked.limits)
    for reply in screen.counted(replies, len(every), "asking the nodes"):
        if reply.error:
            yield Missing(f"nodes/{reply.asked.node}", reply.error)
        else:
            yield from reply.answer or ()
    yield from gather.of_cluster(asked.api, asked.namespace)


def _fill(archive: tarfile.TarFile, name: str, parts: Iterator[Part], nodes: int) -> list[Missing]:
    """Write the parts, each redacted; return those that are none."""
    missing = []
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    _add(archive, f"{name}/README.txt", _ABOUT.format(version=__version__, when=when, nodes=nodes))
    for part in parts:
        if isinstance(part, File):
            _add(archive, f"{name}/{part.path}", gather.shown(redact.tree(part.data)))
        else:
            missing.append(part)
    lines = [f"{each.path}: {redact.text(each.why)}\n" for each in missing]
    _add(archive, f"{name}/MISSING.txt", "".join(lines) or "nothing\n")
    return missing


def _add(archive: tarfile.TarFile, path: str, text: str) -> None:
    data = text.encode("utf-8", "replace")
    entry = tarfile.TarInfo(path)
    entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
    archive.addfile(entry, io.BytesIO(data))
