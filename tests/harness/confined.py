"""Run a command that the kernel itself refuses something: `python -m tests.harness.confined`.

    confined move_mount=EACCES,setns=EPERM COMMAND...   a seccomp filter, as a profile has it
    confined landlock COMMAND...                        a security module, which forbids mounting

Unlike CSI_FLUID_REFUSE it holds for what the command starts, too.
"""

import ctypes
import errno
import os
import struct
import sys

NUMBERS = {  # <asm/unistd.h>, x86-64 and arm64; what is newer has the same number everywhere
    "x86_64": {"mount": 165, "umount2": 166, "setns": 308, "unshare": 272, "openat": 257},
    "aarch64": {"mount": 40, "umount2": 39, "setns": 268, "unshare": 97, "openat": 56},
}
NEWER = {"open_tree": 428, "move_mount": 429, "fsopen": 430, "openat2": 437, "mount_setattr": 442}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_ACCESS_FS_MAKE_BLOCK = 1 << 11  # has to name something; nobody makes such a device
LIBC = ctypes.CDLL(None, use_errno=True)


def command(what: str) -> tuple[str, ...]:
    """Return what to put before a command; its interpreter is this one."""
    return sys.executable, "-m", "tests.harness.confined", what


def call(name: str, *arguments: object) -> int:
    result = getattr(LIBC, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return int(result)


def filter_calls(refused: dict[str, int]) -> None:
    """Have system calls fail with an errno, for ever: seccomp(2)."""
    numbers = NUMBERS[os.uname().machine] | NEWER
    steps = [(LOAD, 0, 0, 0)]  # the number of the call
    for name, answer in refused.items():
        steps += [(JUMP_IF_EQUAL, 0, 1, numbers[name]), (RETURN, 0, 0, SECCOMP_RET_ERRNO | answer)]
    steps.append((RETURN, 0, 0, SECCOMP_RET_ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def restrict_files() -> None:
    """Be in a domain of Landlock, in which nothing can be mounted: landlock(7)."""
    handled = struct.pack("=QQ", LANDLOCK_ACCESS_FS_MAKE_BLOCK, 0)
    rules = call("syscall", LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    call("syscall", LANDLOCK_RESTRICT_SELF, rules, 0)
    os.close(rules)


def main(what: str, *command: str) -> None:
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if what == "landlock":
        restrict_files()
    else:
        pairs = (pair.partition("=") for pair in what.split(","))
        filter_calls({name: getattr(errno, answer) for name, _, answer in pairs})
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
