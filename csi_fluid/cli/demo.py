"""`csi-fluid demo`: the whole story on one machine."""

from collections.abc import Sequence


def run(words: Sequence[str]) -> int:
    """Run the demonstration, whose code nothing else needs."""
    from csi_fluid import demo

    return demo.run(words)
