"""One HTTP/2 connection from the server's side, as far as gRPC needs it: RFC 9113.

One thread reads; answers are written by whichever thread has one.  Everything that a peer can make
us hold is bounded: streams at once, the size of headers and of a body, the time of a write.
Nothing wakes up while nothing is said.
"""

import contextlib
import enum
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from csi_fluid.rpc import hpack
from csi_fluid.rpc.hpack import Header

MAX_STREAMS = 128
MAX_BODY = 4 * 1024 * 1024  # bytes, as in other servers of gRPC
_MAX_HEADERS = 16 * 1024
_MAX_FRAME = 16_384  # bytes; the size that every peer may send and takes
_WINDOW = 65_535  # bytes that may be sent before the receiver allows more
_MAX_WINDOW = 2**31 - 1
_WRITE_S = 10
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PRIORITY_BYTES = 5
_HEAD = struct.Struct(">HBBBL")  # length (24 bits), type, flags, stream
_LONG = struct.Struct(">L")
_SETTING = struct.Struct(">HL")
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 0x3, 0x4  # identifiers of settings
_OURS = {_MAX_CONCURRENT_STREAMS: MAX_STREAMS, _INITIAL_WINDOW_SIZE: MAX_BODY + _WINDOW}

_log = logging.getLogger(__name__)


class _Type(enum.IntEnum):
    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class _Flag(enum.IntFlag):
    END_STREAM = 0x1  # of DATA and HEADERS
    ACK = 0x1  # of SETTINGS and PING
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class _Reason(enum.IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class _Broken(Exception):
    """The peer broke a rule, after which nothing it says can be understood."""

    def __init__(self, reason: _Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(slots=True, eq=False)
class Stream:
    """A request, and how much of its answer may be sent at once."""

    number: int
    headers: dict[bytes, bytes]
    window: int
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False  # the peer has said all
    is_open: bool = True  # False when nobody waits for the answer any more


@dataclass(frozen=True, slots=True)
class _Frame:
    type: int
    flags: int
    number: int  # of the stream, 0 for the connection
    payload: bytes

    def has(self, flag: _Flag) -> bool:
        return bool(self.flags & flag)

    def text(self) -> bytes:
        """Return the payload without padding and priority; raises _Broken."""
        text, padding = self.payload, 0
        if self.has(_Flag.PADDED):
            padding, text = (text[0] if text else 1), text[1:]
        if self.type == _Type.HEADERS and self.has(_Flag.PRIORITY):
            text = text[_PRIORITY_BYTES:]
        if padding > len(text):
            raise _Broken(_Reason.PROTOCOL_ERROR, "there is more padding than frame")
        return text[: len(text) - padding]


class Connection:
    """Reads requests until the peer ends, and takes their answers."""

    def __init__(self, peer: socket.socket, request: Callable[[Stream], None]) -> None:
        """Take the connection, and who gets each request as soon as it is whole or too large.

        Until then no request is known to anybody else.
        """
        self._peer = peer
        self._file = peer.makefile("rb")
        self._request = request
        self._decoder = hpack.Decoder(_MAX_HEADERS)
        self._changed = threading.Condition()  # around what follows, and every write
        self._streams: dict[int, Stream] = {}
        self._last = 0  # the highest stream that the peer opened
        self._window = self._initial_window = _WINDOW
        self._taken = 0  # bytes of bodies for which the peer got no new room yet
        self._is_finishing = False
        # A peer that does not read must not keep a thread for ever: send(2) fails then.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _WRITE_S, 0))

    def serve(self) -> None:
        """Read until the connection ends; what is unanswered then is given up."""
        try:
            self._begin()
            while frame := self._next():
                self._take(frame)
        except (_Broken, hpack.Malformed) as error:
            _log.debug("a peer broke the rules of HTTP/2: %s", error)
            compression = _Reason.COMPRESSION_ERROR
            self._go_away(error.reason if isinstance(error, _Broken) else compression)
        finally:
            with self._changed:
                for stream in self._streams.values():
                    stream.is_open = False
                self._streams.clear()
                self._changed.notify_all()
            self._file.close()

    def finish(self) -> None:
        """Refuse further requests, and say so."""
        self._is_finishing = True
        self._go_away(_Reason.NO_ERROR)

    def answer(
        self, stream: Stream, headers: Iterable[Header], body: bytes, trailers: Iterable[Header]
    ) -> None:
        """Answer a request if somebody still waits; without a body everything is one frame."""
        begin, block = b"", hpack.encode(headers)
        number = stream.number
        with self._changed:
            if body:
                begin = _frame(_Type.HEADERS, _Flag.END_HEADERS, number, block)
                begin, block = self._send(stream, begin, body), b""
            if stream.is_open:
                block += hpack.encode(trailers)
                end = _Flag.END_HEADERS | _Flag.END_STREAM
                self._write(begin + _frame(_Type.HEADERS, end, number, block))
            if stream.is_open and not stream.is_whole:
                self._reset(number, _Reason.NO_ERROR)
            self._close(number)

    def _send(self, stream: Stream, begin: bytes, body: bytes) -> bytes:
        """Send the beginning of an answer and its body as the peer makes room for it.

        Returns what is still to be sent, for which there is room: of most answers all.
        """
        ready = [begin]
        while body and stream.is_open:
            room = min(self._window, stream.window, _MAX_FRAME)
            if room > 0:
                ready.append(_frame(_Type.DATA, 0, stream.number, body[:room]))
                sent = len(body[:room])
                body = body[room:]
                self._window -= sent
                stream.window -= sent
                continue
            self._write(b"".join(ready))
            ready.clear()
            if not self._changed.wait(_WRITE_S):
                stream.is_open = False
                self._reset(stream.number, _Reason.CANCEL)
        return b"".join(ready)

    def _begin(self) -> None:
        settings = b"".join(map(_SETTING.pack, *zip(*_OURS.items(), strict=True)))
        with self._changed:
            self._write(
                _frame(_Type.SETTINGS, 0, 0, settings)
                + _frame(_Type.WINDOW_UPDATE, 0, 0, _LONG.pack(MAX_BODY))
            )
        if self._file.read(len(_PREFACE)) != _PREFACE:
            raise _Broken(_Reason.PROTOCOL_ERROR, "it does not speak HTTP/2")

    def _next(self) -> _Frame | None:
        """Return the next frame, None at the end."""
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        high, low, kind, flags, number = _HEAD.unpack(head)
        length = high << 8 | low
        if length > _MAX_FRAME:
            raise _Broken(_Reason.FRAME_SIZE_ERROR, f"a frame has {length} bytes")
        payload = self._file.read(length)
        if len(payload) < length:
            return None
        return _Frame(kind, flags, number & _MAX_WINDOW, payload)

    def _take(self, frame: _Frame) -> None:
        match frame.type:
            case _Type.DATA:
                self._take_data(frame)
            case _Type.HEADERS:
                self._take_headers(frame)
            case _Type.RST_STREAM:
                with self._changed:
                    self._close(frame.number)
            case _Type.SETTINGS if not frame.has(_Flag.ACK):
                self._take_settings(frame)
            case _Type.PING if not frame.has(_Flag.ACK):
                with self._changed:
                    self._write(_frame(_Type.PING, _Flag.ACK, 0, _sized(frame, 8)))
            case _Type.WINDOW_UPDATE:
                self._take_room(frame)
            case _Type.PUSH_PROMISE | _Type.CONTINUATION:
                raise _Broken(_Reason.PROTOCOL_ERROR, f"a frame {frame.type} has no place here")
            case _:
                pass  # priorities, farewells, and what later versions may bring

    def _take_headers(self, frame: _Frame) -> None:
        headers = self._decoder.decode(self._block(frame))  # also of a stream that is refused
        number = frame.number
        stream = self._streams.get(number)
        if stream is None and number > self._last and number % 2:
            self._last = number
            stream = self._open(number, headers)
        elif not number % 2:
            raise _Broken(_Reason.PROTOCOL_ERROR, f"stream {number} is not the peer's to open")
        if stream is not None and frame.has(_Flag.END_STREAM):
            self._hand_on(stream)

    def _block(self, frame: _Frame) -> bytes:
        """Return the whole header block that a frame begins."""
        block, is_last = frame.text(), frame.has(_Flag.END_HEADERS)
        while not is_last:
            more = self._next()
            if more is None or (more.type, more.number) != (_Type.CONTINUATION, frame.number):
                raise _Broken(_Reason.PROTOCOL_ERROR, "the headers are not continued")
            block += more.payload
            if len(block) > _MAX_HEADERS:
                raise _Broken(_Reason.ENHANCE_YOUR_CALM, "the headers do not end")
            is_last = more.has(_Flag.END_HEADERS)
        return block

    def _open(self, number: int, headers: Iterable[Header]) -> Stream | None:
        with self._changed:
            if self._is_finishing or len(self._streams) >= MAX_STREAMS:
                self._reset(number, _Reason.REFUSED_STREAM)
                return None
            stream = self._streams[number] = Stream(number, dict(headers), self._initial_window)
            return stream

    def _take_data(self, frame: _Frame) -> None:
        if frame.number > self._last or not frame.number:
            raise _Broken(
                _Reason.PROTOCOL_ERROR, f"data of stream {frame.number}, which is not open"
            )
        self._make_room(len(frame.payload))
        stream = self._streams.get(frame.number)
        if stream is None or stream.is_whole or len(stream.body) > MAX_BODY:
            return  # answered, given up, or too large already
        stream.body += frame.text()
        if frame.has(_Flag.END_STREAM):
            self._hand_on(stream)
        elif len(stream.body) > MAX_BODY:
            self._request(stream)

    def _hand_on(self, stream: Stream) -> None:
        if not stream.is_whole:
            stream.is_whole = True
            self._request(stream)

    def _make_room(self, taken: int) -> None:
        """Let the peer send as much again, with one frame for many."""
        self._taken += taken
        if self._taken >= _MAX_FRAME:
            with self._changed:
                self._write(_frame(_Type.WINDOW_UPDATE, 0, 0, _LONG.pack(self._taken)))
            self._taken = 0

    def _take_settings(self, frame: _Frame) -> None:
        if len(frame.payload) % _SETTING.size:
            raise _Broken(_Reason.FRAME_SIZE_ERROR, "settings are cut off")
        settings = dict(_SETTING.iter_unpack(frame.payload))
        with self._changed:
            before = self._initial_window
            self._initial_window = settings.get(_INITIAL_WINDOW_SIZE, before)
            for stream in self._streams.values():
                stream.window += self._initial_window - before
            self._write(_frame(_Type.SETTINGS, _Flag.ACK, 0))
            self._changed.notify_all()

    def _take_room(self, frame: _Frame) -> None:
        room = _LONG.unpack(_sized(frame, 4))[0] & _MAX_WINDOW
        with self._changed:
            if not frame.number:
                self._window += room
            elif stream := self._streams.get(frame.number):
                stream.window += room
            if self._window > _MAX_WINDOW:
                raise _Broken(_Reason.FLOW_CONTROL_ERROR, "there is more room than can be counted")
            self._changed.notify_all()

    def _close(self, number: int) -> None:
        if stream := self._streams.pop(number, None):
            stream.is_open = False
            self._changed.notify_all()

    def _reset(self, number: int, reason: _Reason) -> None:
        self._write(_frame(_Type.RST_STREAM, 0, number, _LONG.pack(reason)))

    def _go_away(self, reason: _Reason) -> None:
        with self._changed:
            last, why = _LONG.pack(self._last), _LONG.pack(reason)
            self._write(_frame(_Type.GOAWAY, 0, 0, last + why))

    def _write(self, data: bytes) -> None:
        """Send all of it, or end the connection: what is half sent cannot be understood."""
        try:
            self._peer.sendall(data)
        except OSError:
            with contextlib.suppress(OSError):
                self._peer.shutdown(socket.SHUT_RDWR)


def _frame(kind: _Type, flags: int, number: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, number) + payload


def _sized(frame: _Frame, size: int) -> bytes:
    if len(frame.payload) != size:
        raise _Broken(_Reason.FRAME_SIZE_ERROR, f"a frame {frame.type} has not {size} bytes")
    return frame.payload
