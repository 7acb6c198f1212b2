"""`csi-fluid version`: what runs here."""

import platform
from collections.abc import Sequence
from importlib import metadata

from csi_fluid import __version__
from csi_fluid.cli import usage


def run(words: Sequence[str]) -> int:
    """Print the versions of this program and of what it stands on."""
    parser = usage.Parser("version", "", "Print the version.", "  csi-fluid version")
    parser.parse_args(words)
    print(f"csi-fluid {__version__}")
    print(f"python    {platform.python_version()}")
    print(f"grpcio    {metadata.version('grpcio')}")
    print(f"kernel    {platform.release()}")
    return 0
