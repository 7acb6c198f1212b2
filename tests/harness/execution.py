"""The answer to `kubectl exec` over a WebSocket: RFC 6455, with v4.channel.k8s.io in it."""

import base64
import hashlib
import http.server
import json
import struct

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_PROTOCOL = "v4.channel.k8s.io"
_BINARY, _CLOSE = 0x82, 0x88  # opcodes of whole messages
STDOUT, STDERR, ERROR = 1, 2, 3  # channels


def answer(handler: http.server.BaseHTTPRequestHandler, stdout: str, status: int = 0) -> None:
    """Tell a client what a command said and how it ended, and close the connection."""
    key = handler.headers["Sec-WebSocket-Key"] + _GUID
    handler.send_response(101)
    handler.send_header("Upgrade", "websocket")
    handler.send_header("Connection", "Upgrade")
    accepted = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    handler.send_header("Sec-WebSocket-Accept", accepted)
    handler.send_header("Sec-WebSocket-Protocol", _PROTOCOL)
    handler.end_headers()
    for start in range(0, len(stdout), 4096):  # in pieces, as a pipe is read
        _send(handler, STDOUT, stdout[start : start + 4096])
    _send(handler, ERROR, json.dumps(_ended(status)))
    handler.wfile.write(bytes((_CLOSE, 2)) + struct.pack(">H", 1000))
    handler.close_connection = True


def _ended(status: int) -> dict[str, object]:
    if status == 0:
        return {"status": "Success"}
    cause = {"reason": "ExitCode", "message": str(status)}
    return {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with exit code {status}",
        "details": {"causes": [cause]},
    }


def _send(handler: http.server.BaseHTTPRequestHandler, channel: int, text: str) -> None:
    data = bytes((channel,)) + text.encode()
    size = len(data)
    length = bytes((size,)) if size < 126 else b"\x7e" + struct.pack(">H", size)
    handler.wfile.write(bytes((_BINARY,)) + length + data)
