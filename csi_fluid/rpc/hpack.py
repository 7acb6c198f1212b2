"""Header blocks of HTTP/2: RFC 7541.  Pure.

A decoder reads all that the RFC allows; encode() writes the plainest form, in which no header is
remembered or compressed: what a server of gRPC sends is short.
"""

from collections import deque
from collections.abc import Iterable
from itertools import chain

TABLE_BYTES = 4_096  # of the dynamic table: what a peer may assume that was not told otherwise
_ENTRY_BYTES = 32  # what an entry counts beside its text: section 4.1
_MAX_INTEGER_BYTES = 4

Header = tuple[bytes, bytes]

# Appendix A, from index 1
_STATIC: tuple[Header, ...] = (
    (b":authority", b""),
    *((b":method", value) for value in (b"GET", b"POST")),
    *((b":path", value) for value in (b"/", b"/index.html")),
    *((b":scheme", value) for value in (b"http", b"https")),
    *((b":status", value) for value in (b"200", b"204", b"206", b"304", b"400", b"404", b"500")),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    *(
        (name, b"")
        for name in (
            b"accept-language accept-ranges accept access-control-allow-origin age allow "
            b"authorization cache-control content-disposition content-encoding content-language "
            b"content-length content-location content-range content-type cookie date etag expect "
            b"expires from host if-match if-modified-since if-none-match if-range "
            b"if-unmodified-since last-modified link location max-forwards proxy-authenticate "
            b"proxy-authorization range referer refresh retry-after server set-cookie "
            b"strict-transport-security transfer-encoding user-agent vary via www-authenticate"
        ).split()
    ),
)
# Appendix B: how many bits the code of each byte has.  The codes follow from that: they count up,
# the shorter ones first.  The last one, of the end of a string, must not occur.
_BITS = (
    *(13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28),
    *(28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28),
    *(6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6),
    *(5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10),
    *(13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7),
    *(7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6),
    *(15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5),
    *(6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28),
    *(20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23),
    *(24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24),
    *(22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23),
    *(21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23),
    *(26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25),
    *(19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27),
    *(20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23),
    *(26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26),
)


def _codes() -> dict[int, int]:
    """Return the byte of each code, behind a leading 1 that tells 00 from 000."""
    codes, code, length = {}, 0, 0
    for bits, byte in sorted(zip(_BITS, range(256), strict=True)):
        code <<= bits - length
        length = bits
        codes[1 << bits | code] = byte
        code += 1
    return codes


_BYTES = _codes()


class Malformed(ValueError):
    """A header block breaks the rules; the connection cannot be read any further."""


class Decoder:
    """Reads the header blocks of one connection, in the order in which they came."""

    def __init__(self, max_bytes: int) -> None:
        """Take how large the headers of one block may become; short words expand."""
        self._max_bytes = max_bytes
        self._table: deque[Header] = deque()  # the newest first
        self._size = 0
        self._limit = TABLE_BYTES

    def decode(self, block: bytes) -> list[Header]:
        """Return the headers of a block; raises Malformed."""
        headers: list[Header] = []
        size, at = 0, 0
        while at < len(block):
            header, at = self._field(block, at)
            if header is None:
                if headers:
                    raise Malformed("the table changes its size behind a header")
                continue
            headers.append(header)
            size += _size(header)
            if size > self._max_bytes:
                raise Malformed(f"the headers have more than {self._max_bytes} bytes")
        return headers

    def _field(self, block: bytes, at: int) -> tuple[Header | None, int]:
        first = block[at]
        if first & 0x80:
            index, at = _integer(block, at, 7)
            return self._entry(index), at
        if first & 0xE0 == 0x20:
            limit, at = _integer(block, at, 5)
            self._resize(limit)
            return None, at
        is_kept = bool(first & 0x40)
        index, at = _integer(block, at, 6 if is_kept else 4)
        if index:
            name, _ = self._entry(index)
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        if is_kept:
            self._keep((name, value))
        return (name, value), at

    def _entry(self, index: int) -> Header:
        if not 0 < index <= len(_STATIC) + len(self._table):
            raise Malformed(f"there is no header {index}")
        if index <= len(_STATIC):
            return _STATIC[index - 1]
        return self._table[index - len(_STATIC) - 1]

    def _keep(self, header: Header) -> None:
        self._table.appendleft(header)
        self._size += _size(header)
        self._evict()

    def _resize(self, limit: int) -> None:
        if limit > TABLE_BYTES:
            raise Malformed(f"a table of {limit} bytes was not offered")
        self._limit = limit
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            self._size -= _size(self._table.pop())


def _size(header: Header) -> int:
    name, value = header
    return len(name) + len(value) + _ENTRY_BYTES


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Return a number (section 5.1) and where what follows it begins."""
    most = (1 << prefix) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift, byte in enumerate(block[at : at + _MAX_INTEGER_BYTES]):
        value += (byte & 0x7F) << 7 * shift
        if not byte & 0x80:
            return value, at + shift + 1
    raise Malformed("a number is cut off or too large")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    if at >= len(block):
        raise Malformed("a string is cut off")
    is_compressed = bool(block[at] & 0x80)
    length, at = _integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise Malformed("a string is cut off")
    text = block[at:end]
    return (_expand(text) if is_compressed else text), end


def _expand(text: bytes) -> bytes:
    found = bytearray()
    code = 1
    for bit in chain.from_iterable(map(_bits, text)):
        code = code << 1 | bit
        if (byte := _BYTES.get(code)) is not None:
            found.append(byte)
            code = 1
    padding = code.bit_length() - 1
    if padding > 7 or code != (2 << padding) - 1:
        raise Malformed("a compressed string ends within a code")
    return bytes(found)


def _bits(byte: int) -> Iterable[int]:
    return (byte >> shift & 1 for shift in range(7, -1, -1))


def encode(headers: Iterable[Header]) -> bytes:
    """Return a block of headers that a decoder does not keep."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _text(text: bytes) -> bytes:
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    head, length = b"\x7f", length - 0x7F
    while length > 0x7F:
        head += bytes((length & 0x7F | 0x80,))
        length >>= 7
    return head + bytes((length,)) + text
