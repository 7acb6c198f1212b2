"""Security modules that enforce, in a machine of their own: no host of these tests has one."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.kernels.machine import Kernel, Machine


@dataclass(frozen=True, slots=True)
class Module:
    """One of them: where it can forbid mounting, how it is started, what confines a process.

    kernel: by its name.  append: words of the kernel's command line.  setup: shell, which loads the
    policy and enforces it.  label: what a process writes to /proc/self/attr/exec to run the next
    program confined.
    """

    kernel: str
    append: str
    setup: str
    label: str

    def machine(self, kernels: Mapping[str, Kernel], accelerator: str) -> Machine:
        """Return a machine in which it enforces."""
        return Machine(kernels[self.kernel], accelerator, self.append, self.setup)


MODULES = {
    "AppArmor": Module(
        kernel="newest",  # move_mount(2) is asked about since Linux 6.7
        append="security=apparmor",
        setup="mount -t securityfs securityfs /sys/kernel/security\n"
        "apparmor_parser --add --skip-cache tests/kernels/apparmor.profile",
        label="exec csi-fluid-confined",
    ),
    "SELinux": Module(
        kernel="5.10",
        append="security=selinux selinux=1",
        setup="secilc --policyvers=31 --output=/run/policy -f /dev/null tests/kernels/selinux.cil\n"
        "mount -t selinuxfs selinuxfs /sys/fs/selinux\n"
        "dd if=/run/policy of=/sys/fs/selinux/load bs=16M status=none\n"  # in one write(2)
        "printf 1 >/sys/fs/selinux/enforce",
        label="system_u:system_r:container_t:s0",
    ),
}
