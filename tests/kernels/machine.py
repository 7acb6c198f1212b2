"""A virtual machine that runs one command as root under another kernel.

QEMU, with KVM where that works and emulated elsewhere (then Python is about ten times slower).  The
guest's root is the host's: what the command writes is gone at its end, but for the folder `out`.
"""

import contextlib
import functools
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from csi_fluid.testbed.waiting import until
from tests.kernels import initramfs

PROJECT = Path(__file__).parents[2]
OUT = Path("/kernel-out")  # where the guest has the folder (init.sh)
_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
_KVM_TRIAL_S = 20.0
_MEMORY = "3072M"
# / is bound without what is mounted in it, and is read-only for the server too.
_SERVE_ROOT = 'mount --bind / "$0" && mount -o remount,bind,ro "$0" && exec "$@" -o source="$0"'


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel as .ci/setup leaves it in the cache."""

    folder: Path

    @property
    def name(self) -> str:
        """Return by what it is asked for: 5.10, newest."""
        return self.folder.name.removeprefix("kernel-")

    @property
    def release(self) -> str:
        """Return the release, as uname -r says it."""
        return (self.folder / "release").read_text(encoding="ascii").strip()

    @property
    def image(self) -> Path:
        """Return the kernel itself."""
        return self.folder / "vmlinuz"

    def modules(self) -> dict[str, bytes]:
        """Return what it needs for its root file system."""
        return {
            f"modules/{path.name}": path.read_bytes()
            for path in sorted((self.folder / "modules").iterdir())
        }


def kernels() -> tuple[Kernel, ...]:
    """Return the kernels of the cache, oldest first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csi-fluid"
    cache = Path(os.environ.get("CSI_FLUID_CACHE") or cache)
    found = (Kernel(path) for path in cache.glob("kernel-*"))
    return tuple(sorted(found, key=lambda k: [int(n) for n in k.release.split(".")[:2]]))


def find(name: str) -> Kernel:
    """Return the kernel of that name; raises KeyError."""
    return {kernel.name: kernel for kernel in kernels()}[name]


@dataclass(frozen=True, slots=True)
class Machine:
    """How a kernel is run.

    append: further words of its command line.  setup: shell, run before each command.
    """

    kernel: Kernel
    accelerator: str
    append: str = ""
    setup: str = ":"

    def run(self, command: Sequence[str], out: Path, timeout_s: float, **variables: str) -> int:
        """Run a command in the project's folder, its output to ours; return its status.

        Raises subprocess.TimeoutExpired, RuntimeError where the machine ends without a status.
        """
        with tempfile.TemporaryDirectory(prefix="csi-vm-") as made, _served(Path(made), out):
            folder = Path(made)
            (folder / "initrd").write_bytes(self._initrd(command, variables))
            status = out / "status"
            status.unlink(missing_ok=True)
            with _ended(subprocess.Popen(self._qemu(folder), stdin=subprocess.DEVNULL)) as qemu:
                qemu.wait(timeout_s)
            if not status.exists():
                console = (folder / "console").read_text("utf-8", "replace")
                raise RuntimeError(
                    f"Linux {self.kernel.release} said no status:\n{console[-3000:]}"
                )
            return int(status.read_text(encoding="ascii"))

    def _initrd(self, command: Sequence[str], variables: dict[str, str]) -> bytes:
        exports = "".join(f"export {name}={shlex.quote(v)}\n" for name, v in variables.items())
        folder = shlex.quote(str(PROJECT))
        script = f"set -e\ncd {folder}\n{exports}{self.setup}\nexec {shlex.join(command)}\n"
        busybox = shutil.which("busybox")
        assert busybox is not None
        files = {
            "init": (Path(__file__).parent / "init.sh").read_bytes(),
            "command": script.encode(),
            "bin/busybox": Path(busybox).read_bytes(),
        }
        return initramfs.pack(files | self.kernel.modules())

    def _qemu(self, folder: Path) -> list[str]:
        memory = f"memory-backend-memfd,id=memory,size={_MEMORY},share=on"  # as virtiofs needs it
        # On a busy host an emulated timer fails the kernel's own check of it.
        words = "console=ttyS0 panic=-1 quiet mitigations=off tsc=unstable no_timer_check"
        shares = [
            word
            for tag in ("root", "out")
            for word in (
                *("-chardev", f"socket,id={tag},path={folder / tag}.sock"),
                *("-device", f"vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"),
            )
        ]
        return [
            *("qemu-system-x86_64", *_processor(self.accelerator)),
            *("-m", _MEMORY),
            *("-object", memory, "-machine", "q35,memory-backend=memory", *shares),
            *("-kernel", str(self.kernel.image), "-initrd", str(folder / "initrd")),
            *(
                "-append",
                f"{words} {self.append}",
                "-display",
                "none",
                "-monitor",
                "none",
                "-no-reboot",
            ),
            *("-nic", "none", "-nodefaults"),
            *("-serial", f"file:{folder / 'console'}", "-serial", "stdio"),
        ]


def _processor(accelerator: str) -> tuple[str, ...]:
    if accelerator == "kvm":
        return "-accel", "kvm", "-cpu", "host", "-smp", "2"
    # One processor: a second one costs the first a quarter of its speed.  Without what protects a
    # kernel from its processes, and the fifth level of page tables, Python starts a fifth faster.
    without = "".join(f",{each}=off" for each in ("la57", "smap", "smep", "umip", "pku", "pks"))
    return "-accel", "tcg,thread=multi,tb-size=512", "-cpu", f"max{without}"


@functools.cache
def accelerator() -> str:
    """Return "kvm" if the newest kernel runs under it here, else "tcg".

    The device may be there and able to make a machine that then does not run.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    command = [
        *("qemu-system-x86_64", *_processor("kvm"), "-m", "256M", "-nodefaults", "-no-reboot"),
        *("-display", "none", "-kernel", str(kernels()[-1].image)),
        *("-append", "panic=-1"),  # it finds no root, panics, and so ends
    ]
    with _ended(subprocess.Popen(command, stderr=subprocess.DEVNULL)) as trial:
        try:
            return "tcg" if trial.wait(_KVM_TRIAL_S) else "kvm"
        except subprocess.TimeoutExpired:
            return "tcg"


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _served(folder: Path, out: Path) -> Iterator[None]:
    """Serve / and a folder to the guest for the length of a block."""
    root = folder / "root"
    root.mkdir()
    server = [
        _VIRTIOFSD,
        "-o",
        "log_level=err",
        "-o",
        "sandbox=chroot,no_posix_lock,no_flock,xattr",
    ]
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SERVE_ROOT, str(root)]
    commands = {
        "root": [*private, *server, f"--socket-path={folder}/root.sock", "-o", "cache=always"],
        "out": [*server, f"--socket-path={folder}/out.sock", "-o", f"cache=auto,source={out}"],
    }
    with contextlib.ExitStack() as servers:
        for tag, command in commands.items():
            servers.enter_context(_ended(subprocess.Popen(command)))
            socket = folder / f"{tag}.sock"
            until(socket.exists, f"the file server of {tag}")
        yield
