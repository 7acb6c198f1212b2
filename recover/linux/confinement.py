"""What may forbid root a call: a missing capability, a seccomp profile, a security module.

The kernel answers EPERM or EACCES to each of them and does not say which it was, so a refusal is
told together with all that could have made it.
"""

import errno
from collections.abc import Iterator
from pathlib import Path

CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_SYS_CHROOT": 18, "CAP_SYS_PTRACE": 19}
"""What mounting, and entering containers, needs: bit numbers of <linux/capability.h>."""

MOUNTING = ("CAP_SYS_ADMIN",)
"""What mounting alone needs."""

_STATUS = Path("/proc/self/status")
_LABEL = Path("/proc/self/attr/current")
# securityfs is seldom mounted in a container; with the host's processes in sight the node's is read
_OF_MODULES = "sys/kernel/security/lsm"
_MODULES = (Path("/", _OF_MODULES), Path("/proc/1", "root", _OF_MODULES))
_NEXT = "run it in a privileged container; csi-fluid doctor tries each thing by itself"


def is_refusal(error: BaseException) -> bool:
    """Tell whether an error says that something forbids a call."""
    return isinstance(error, OSError) and error.errno in {errno.EPERM, errno.EACCES}


def hint(error: BaseException) -> str:
    """Return what may have made an error, and the next step; "" where it is none of refusal.

    Also "" where nothing is seen that could forbid anything: a FUSE daemon may answer so, too.
    """
    if not isinstance(error, OSError) or not is_refusal(error):
        return ""
    of_processes = str(error.filename or "").startswith("/proc/")
    found = cause(*CAPABILITIES) if of_processes else cause(*MOUNTING, "CAP_SYS_CHROOT")
    return f"{found}: {_NEXT}" if found else ""


def told(error: BaseException) -> str:
    """Return an error's text, with the hint where there is one."""
    return "; ".join(filter(None, (str(error) or type(error).__name__, hint(error))))


def cause(*needed: str) -> str:
    """Return what can forbid a call that needs these capabilities, "" if nothing is seen."""
    if missing := [name for name in lacking() if name in needed]:
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    found = " or ".join(_profiles())
    return f"{found} may forbid it" if found else ""


def lacking() -> tuple[str, ...]:
    """Return which of CAPABILITIES this process does not hold."""
    held = int(_status("CapEff") or "0", 16)
    return tuple(name for name, bit in CAPABILITIES.items() if not held >> bit & 1)


def _profiles() -> Iterator[str]:
    if _status("Seccomp") == "2":  # a filter: proc_pid_status(5)
        yield "a seccomp profile"
    if module := _of_label(_read(_LABEL)):
        yield module
    elif modules := _modules():
        yield f"a security module ({', '.join(modules)})"


def _of_label(label: str) -> str:
    """Return the module whose label it is, "" for none that confines.

    user:role:type:level is SELinux's, else it is AppArmor's.
    """
    if label.count(":") >= 3:
        return f"SELinux (as {label}; ausearch -m avc on the node tells what it denied)"
    if not label or label.startswith("unconfined"):
        return ""
    return f"AppArmor (profile {label}; the node's kernel log tells what it denied)"


def _modules() -> tuple[str, ...]:
    texts = filter(None, map(_read, _MODULES))
    return tuple(name for name in next(texts, "").split(",") if name not in {"", "capability"})


def _status(key: str) -> str:
    lines = (line.partition(":") for line in _read(_STATUS).splitlines())
    return next((value.strip() for name, _, value in lines if name == key), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:  # no module keeps labels (EINVAL), or the file is not to be had here
        return ""
