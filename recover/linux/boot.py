"""What names this boot of the machine: device numbers mean nothing after it."""

from pathlib import Path


def boot_id() -> str:
    """Return the id of this boot: random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
