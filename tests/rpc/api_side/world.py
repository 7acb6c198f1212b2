"""The API side over real TLS, in front of a server of the tests."""

import time
from collections import Counter

from csi_fluid.kube.access import Access
from csi_fluid.kube.cluster import Cluster
from csi_fluid.kube.eventsender import EventSender
from csi_fluid.kube.helper import Helper
from csi_fluid.kube.subjects import Subjects
from csi_fluid.kube.wire import Request, Response
from recover.rows import Publication
from tests.harness.apiserver import NODE, ApiServer

TARGET = "/var/lib/kubelet/pods/u-app/volumes/kubernetes.io~csi/ns-demo/mount"
ROW = Publication(
    target=TARGET,
    volume_id="ns-demo",
    source="/runtime-mnt/jindo/ns/demo/jindofs-fuse",
    runtime_namespace="ns",
    runtime_name="demo",
    pod_namespace="apps",
    pod_name="app",
    pod_uid="u-app",
)


class World:
    """A server, and the API side in front of it."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.calls: list[tuple[str, int]] = []
        self.starts = 0
        self.results: Counter[str] = Counter()
        self.access = Access(str(server.kubelet_config()), str(server.account_config()))
        self.helper = Helper(self.access, self._told, self._started, idle_s=60)
        self.cluster = Cluster(self.helper, NODE)
        subjects = Subjects(self.helper, self.cluster, NODE)
        self.sender = EventSender(
            self.helper, subjects, NODE, lambda result: self.results.update([result]), limit=5
        )

    def _told(self, request: Request, answer: Response) -> None:
        self.calls.append((request.method, answer.status))

    def _started(self) -> None:
        self.starts += 1

    @property
    def pid(self) -> int:
        pid = self.helper.pid
        assert pid is not None
        return pid


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds
