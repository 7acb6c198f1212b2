"""A node for tests: real FUSE daemons, pods in namespaces of their own, the plugin as a process.

Everything happens in the sandbox's mount and PID namespaces (tests/sandbox.py), on a tmpfs below
`workdir`.  A test takes the fixture `node` or makes a `Node`:

    def test_a_container_without_propagation_heals(workdir):
        with Node(workdir) as node:
            data = node.dataset("demo", Bindfs, files={"a.txt": b"1"})   # mounted and answering
            plugin = node.plugin(strategy="namespace")                   # started and ready
            pod = node.pod("app")
            target = pod.publish(data)                                   # NodePublishVolume
            main = pod.container("main", {"/data": target}, Propagation.NONE)

            data.daemon.kill()
            assert main.sees.error("/data") == errno.ENOTCONN
            data.daemon.restart()                        # stack=True: on top of the dead mount

            until(lambda: main.sees.names("/data") == {"a.txt"}, "the container sees its data")
            assert len(main.sees.layers("/data")) == 1
            assert main.sees.layers("/data")[0].read_only

Without the plugin (to test `recover` alone): `pod.bind(data)` makes the target by a plain bind.
`node.sees` is the same view from the host.  `pod.subpath(target, "sub")` makes kubelet's
volume-subpaths bind and returns it, as a source for `pod.container(...)`.
`node.plugin(chart=True)` runs the plugin in a mount namespace of its own as Fluid's chart does:
kubelet's directory shared, MOUNT_ROOT a slave; `host_pid=False` gives it its own PID namespace too.
Many containers start faster, 4 ms each, if several are begun before the first is awaited:
`[c.ready() for c in [Container(node.machine.image, f"{n}", mounts, pods.PAUSE) for n in ...]]`.
What was not closed by the test is closed by the node, in reverse order.
"""

from csi_fluid.rpc.client import Client, Volume
from csi_fluid.testbed.daemons import Daemon
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.filesystems import Bindfs, Filesystem, Rclone, S3fs
from csi_fluid.testbed.plugin import Plugin
from csi_fluid.testbed.pods import Container, Propagation, VolumeMount
from csi_fluid.testbed.waiting import pause, until
from tests.harness.gocryptfs import Gocryptfs
from tests.harness.node import Dataset, Node, Pod
from tests.harness.views import View

__all__ = [
    "BedError",
    "Bindfs",
    "Client",
    "Container",
    "Daemon",
    "Dataset",
    "Filesystem",
    "Gocryptfs",
    "Node",
    "Plugin",
    "Pod",
    "Propagation",
    "Rclone",
    "S3fs",
    "View",
    "Volume",
    "VolumeMount",
    "pause",
    "until",
]
