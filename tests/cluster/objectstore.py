"""An S3 server with buckets, in the place of an OSS, that pods of one cluster reach."""

import http.client
import subprocess
import sys
from typing import Self
from urllib.parse import quote

from tests.cluster.node import Node
from tests.cluster.waiting import ClusterError, wait_for

ACCESS_KEY = "demo-access-key"
SECRET_KEY = "demo-secret-key"  # the server is our own and checks none
_PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address=sys.argv[1], port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


class Store:
    """A server at the machine's end of a cluster's link; it ends with this object.

    Use it as a context manager. Raises ClusterError when the server does not start.
    """

    def __init__(self, node: Node) -> None:
        self._host = node.host_ip
        self._folders: set[str] = set()
        self._server = subprocess.Popen(
            (sys.executable, "-c", _PROGRAM, self._host),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._server.stdout is not None
        line = self._server.stdout.readline()  # ends at the latest with the process
        if not line:
            self.close()
            raise ClusterError("the local S3 server did not start: is moto installed?")
        self._port = int(line)

    @property
    def url(self) -> str:
        """Return the address that pods use."""
        return f"http://{self._host}:{self._port}"

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket."""
        self._put(f"/{bucket}")

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Write an object, and before it the directories in its name, which s3fs wants to exist."""
        parents = name.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            folder = f"/{bucket}/{quote('/'.join(parents[:depth]))}/"
            if folder not in self._folders:  # nobody may write an object a second time
                self._put(folder)
                self._folders.add(folder)
        self._put(f"/{bucket}/{quote(name)}", data)

    def _put(self, path: str, data: bytes = b"") -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=10)
        try:
            connection.request("PUT", path, data)
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != http.client.OK:
            raise ClusterError(f"the local S3 server answered {status} to PUT {path}")

    def close(self) -> None:
        """End the server."""
        self._server.kill()
        wait_for(lambda: self._server.poll() is not None, "the S3 server's end")
        for stream in (self._server.stdin, self._server.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
