"""Thousands of connections to the open port that say nothing take nothing from anybody."""

import contextlib
import errno
import os
import resource
import socket
import urllib.request
from collections.abc import Iterator

import pytest

from csi_fluid.metrics.server import MAX_CONNECTIONS
from tests.harness import Node, until
from tests.privileged.healing import whole

SILENT = 4_000


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, SILENT + 1_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def connect_silently(port: int, ends: contextlib.ExitStack) -> None:
    link = ends.enter_context(socket.socket())
    link.setblocking(False)
    assert link.connect_ex(("127.0.0.1", port)) in {0, errno.EINPROGRESS}


def held(pid: int) -> tuple[int, int]:
    """Return the threads and the descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))


def test_silent_connections_make_neither_threads_nor_descriptors_nor_slow_heals(node: Node):
    port = free_port()
    plugin = node.plugin(options=[f"--metrics-addr=127.0.0.1:{port}"])
    data = node.dataset()
    pod = node.pod()
    main = pod.container("main", {"/data": pod.publish(data)})
    threads, descriptors = held(plugin.pid)
    with contextlib.ExitStack() as ends:
        for _ in range(SILENT):
            connect_silently(port, ends)
        data.daemon.kill()
        data.daemon.restart()
        until(lambda: whole(node, main.sees, "/data", data), "the heal")
        more_threads, more_descriptors = held(plugin.pid)

        assert "csi_fluid_publications" in scrape(port)
        assert more_threads - threads <= MAX_CONNECTIONS + 8  # and those of the heal
        assert more_descriptors - descriptors <= MAX_CONNECTIONS + 32
