"""The types of options: how a text becomes a value, and what is said of one that cannot.

Every parser raises ValueError, whose message says what is expected.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(rf"(\d+(?:\.\d*)?|\.\d+)({'|'.join(_SECONDS)})", re.ASCII)
_PLAIN = re.compile(r"[^\s\"'#\\\x00-\x1f]+")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_MAX_SOCKET_PATH = 107  # sockaddr_un.sun_path without its final zero: unix(7)

GATES: Mapping[str, str] = {"FuseRecovery": "Beta", "SeamlessRecovery": "Alpha"}


def parse_duration(text: str) -> float:
    """Return the seconds of a Go duration such as 1m30s; raises ValueError."""
    total = _seconds(text)
    if total is None or not 1e-3 <= total <= 86400:
        raise ValueError("expected a duration from 1ms to 24h, such as 5s, 1m30s or 500ms")
    return total


def parse_long_duration(text: str) -> float:
    """Return the seconds of a Go duration of up to ten years, such as 2160h; raises ValueError."""
    total = _seconds(text)
    if total is None or not 1 <= total <= 87600 * 3600:
        raise ValueError("expected a duration from 1s to 87600h, such as 2160h")
    return total


def _seconds(text: str) -> float | None:
    pieces = _DURATION.findall(text)
    if "".join(number + unit for number, unit in pieces) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in pieces)


def parse_bool(text: str) -> bool:
    """Return the truth of what Go's strconv.ParseBool takes; raises ValueError."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("expected true or false")


def parse_gates(text: str) -> Mapping[str, bool]:
    """Return the state of each gate from a list of Name=true|false; raises ValueError."""
    given: dict[str, bool] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"{name} has no value; expected {name}=true or {name}=false")
        given[name] = _gate_state(name, value)
    return {gate: given.get(gate, given.get(f"All{stage}", False)) for gate, stage in GATES.items()}


def _gate_state(name: str, value: str) -> bool:
    if name not in {*GATES, "AllAlpha", "AllBeta"}:
        raise ValueError(f"there is no gate {name}; expected {', '.join(GATES)}, AllAlpha, AllBeta")
    try:
        return parse_bool(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; {error}") from error


def parse_endpoint(text: str) -> str:
    """Return the gRPC address of unix://PATH or tcp://HOST:PORT; raises ValueError."""
    scheme, _, rest = text.partition("://")
    if scheme == "tcp" and ":" in rest:
        return rest
    if scheme != "unix" or not rest.strip("/"):
        raise ValueError("expected unix:///absolute/path.sock or tcp://host:port")
    path = os.path.normpath("/" + rest.lstrip("/"))  # Fluid reads unix://a/b as /a/b, too
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ValueError(f"expected a socket path of at most {_MAX_SOCKET_PATH} bytes")
    return f"unix:{path}"


def parse_socket(text: str) -> str:
    """Return the absolute path of a unix socket; raises ValueError."""
    path = parse_folder(text)
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ValueError(f"expected a socket path of at most {_MAX_SOCKET_PATH} bytes")
    return path


def parse_address(text: str) -> tuple[str, int] | None:
    """Return (host, port) of [HOST]:PORT, or None (off) of "" and "0"; raises ValueError."""
    if text in {"", "0"}:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected host:port or :port, or 0 for off")
    return host.strip("[]"), int(port)


def parse_folder(text: str) -> str:
    """Return a normal absolute path; raises ValueError."""
    if not text.startswith("/") or ".." in text.split("/"):
        raise ValueError('expected an absolute path without ".."')
    return os.path.normpath("/" + text.lstrip("/"))


def parse_words(text: str) -> tuple[str, ...]:
    """Return plain words of a list with commas; raises ValueError."""
    words = tuple(filter(None, (word.strip() for word in text.split(","))))
    if any(not _PLAIN.fullmatch(word) for word in words):
        raise ValueError(
            'expected words without blank, quote, "#" or backslash, with commas between'
        )
    return words


def parse_count(text: str) -> int:
    """Return a whole number above zero; raises ValueError."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("expected a whole number above zero")
    return int(text)


def parse_identifier(text: str) -> str:
    """Return letters, digits and hyphens; raises ValueError."""
    if not re.fullmatch(r"[\w-]{0,253}", text, re.ASCII):
        raise ValueError("expected letters, digits and hyphens")
    return text


def parse_level(text: str) -> int:
    """Return a whole number; raises ValueError."""
    try:
        return int(text)
    except ValueError as error:
        raise ValueError("expected a whole number") from error


def parse_filled(text: str) -> str:
    """Return a text that is not empty; raises ValueError."""
    if not text.strip():
        raise ValueError("expected a value that is not empty")
    return text


def parse_method(text: str) -> str:
    """Return how to publish; as with Fluid, all but symlink binds."""
    return "symlink" if text == "symlink" else "bind"


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of option: its name in help texts, and how a text becomes a value.

    parse raises ValueError, whose message says what is expected.  A switch may be given without a
    value, which then is "true".
    """

    name: str
    parse: Callable[[str], object]
    is_switch: bool = False


def choice(*names: str) -> Kind:
    """Return the type of an option that is one of several words."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"expected {' or '.join(names)}")
        return text

    return Kind("|".join(names), parse)


TEXT = Kind("TEXT", str)
NAME = Kind("TEXT", parse_filled)
BOOL = Kind("BOOL", parse_bool, is_switch=True)
UNREAD = Kind("BOOL", str, is_switch=True)
DIR = Kind("DIR", parse_folder)
TIME = Kind("DURATION", parse_duration)
