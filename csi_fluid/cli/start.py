"""`csi-fluid start`: the plugin itself."""

import contextlib
import logging
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import cast

from csi_fluid import config
from csi_fluid.cli import usage

_EXAMPLES = """\
  csi-fluid start --nodeid=$(hostname) --endpoint=unix:///run/csi-fluid/csi.sock \\
    --feature-gates=FuseRecovery=true
  MOUNT_ROOT=/runtime-mnt csi-fluid start --nodeid=n1 --endpoint=unix:///tmp/csi.sock --v=5"""


def run(words: Sequence[str]) -> int:
    """Serve until a signal ends it."""
    settings, _ = usage.parse(_parser(), words, required=("nodeid", "endpoint"))
    with _without_openssl():
        from csi_fluid import app

    try:
        app.run(settings)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise usage.Failure(f"cannot start: {where}{error.strerror}") from error
    # A thread that hangs in a FUSE mount must not keep the process: nothing is left to be done.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


@contextlib.contextmanager
def _without_openssl() -> Iterator[None]:
    """Save 8 MiB of resident memory while the plugin's modules are imported.

    asyncio, under gRPC, and hashlib take OpenSSL if they can, and do without it where they cannot:
    no TLS is spoken here.  None in sys.modules makes an import fail (The import system, 5.3.1).
    """
    modules = cast("dict[str, object]", sys.modules)
    hidden = {"ssl", "_hashlib"} - modules.keys()
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


def _parser() -> usage.Parser:
    variables = "\n".join(_variable(option) for option in config.OPTIONS if option.env)
    ignored = ", ".join(option.name for option in config.OPTIONS if not option.field)
    parser = usage.Parser(
        "start",
        "--nodeid NAME --endpoint URL [OPTIONS]",
        "Serve the CSI volumes of this node, and with FuseRecovery=true heal them.",
        f"{_EXAMPLES}\n\n"
        f"environment (a flag of the same meaning wins):\n{variables}\n\n"
        f"accepted without effect, because Fluid's own plugin has them:\n{_wrapped(ignored)}",
    )
    usage.add_options(parser, (option for option in config.OPTIONS if option.flag))
    return parser


def _variable(option: config.Option) -> str:
    what = f"as --{option.flag}" if option.flag else option.help
    default = f" (default {option.default})" if option.default and not option.flag else ""
    return f"  {', '.join(option.env)}\n{_wrapped(what + default, '      ')}"


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(
        text, 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
