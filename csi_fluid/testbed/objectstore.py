"""A local S3 server with one bucket, in the place of an OSS, for the FUSE daemons that speak S3.

The server is moto, which only the development extra installs.  It runs in a process of its own
(this module, run by name) and ends when its standard input closes, so it never outlives its owner.
"""

import http.client
import importlib.util
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from csi_fluid.testbed import programs
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.waiting import PACE

BUCKET = "fluid-demo"
ACCESS_KEY = "demo-access-key"
SECRET_KEY = "demo-secret-key"  # noqa: S105  the server is our own and checks none
_START_TIMEOUT_S = PACE * 30.0


class ObjectStore:
    """A bucket that lives as long as this object, served at an address of this machine.

    Raises BedError when moto is missing or does not start.
    """

    def __init__(self, folder: Path, bucket: str = BUCKET, address: str = "127.0.0.1") -> None:
        """Make the bucket; the server's log goes into the folder."""
        self._bucket = bucket
        self._address = address
        if importlib.util.find_spec("moto") is None:
            raise BedError(
                "the local S3 server (moto) is not installed: run "
                "\"pip install 'csi-fluid[dev]'\", or use --daemon bindfs, which needs no server"
            )
        log = folder / "s3-server.log"
        with log.open("ab") as errors:
            self._server = subprocess.Popen(
                [sys.executable, "-m", __name__, address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        line = programs.first_line(self._server, _START_TIMEOUT_S)
        if not line:
            self.close()
            raise BedError(f"the local S3 server did not start: {programs.last_words(log)}")
        self._port = int(line)
        self._put(f"/{bucket}")

    @property
    def url(self) -> str:
        """Return the address of the server."""
        return f"http://{self._address}:{self._port}"

    def put(self, name: str, data: bytes) -> None:
        """Write an object; raises BedError when the server refuses it.

        s3fs wants a directory below which it mounts to be there: an object with "/" at its end.
        """
        self._put(f"/{self._bucket}/{quote(name)}", data)

    def _put(self, path: str, data: bytes = b"") -> None:
        connection = http.client.HTTPConnection(self._address, self._port, timeout=PACE * 10)
        try:
            connection.request("PUT", path, data)
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != http.client.OK:
            raise BedError(f"the local S3 server answered {status} to PUT {path}")

    def close(self) -> None:
        """End the server."""
        programs.stop(self._server)


def serve(address: str) -> None:
    """Serve until standard input ends; the port is the first line of output."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    serve(sys.argv[1])
