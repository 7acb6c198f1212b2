"""The log: one line for each record on stderr, as key=value text or as JSON.

Whoever logs gives context with `extra={"volume": ..., "target": ...}`; the formats here append it.
A value whose key sounds like a secret is never written, whoever passed it.
"""

import functools
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import TextIO

_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
_SECRET = re.compile(r"secret|passw|token|credential|private|(access|api|auth).?key", re.IGNORECASE)
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f]+")
_OURS = ("csi_fluid", "recover")
REDACTED = "(redacted)"

_log = logging.getLogger(__name__)


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send everything from a level ("debug" ... "error") on to a stream (default: stderr).

    form is "text" or "json".  Replaces the handlers that are there.  "debug" is ours alone: Fluid's
    chart always asks for it (--v=5), and gRPC would fill the log with its own.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # never shown
    # nor is who logged, which costs as much as the rest: "Optimization" in Python's Logging HOWTO
    logging._srcfile = None  # noqa: SLF001  documented there
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("INFO" if level == "debug" else level.upper())
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
    threading.excepthook = _unexpected


class TextFormatter(logging.Formatter):
    """One line: time, level, message, context as key=value; what is not plain is quoted."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        message = _escape(record.getMessage())
        head = f"{_time(record)} {record.levelname:<7} {message}"
        return " ".join((head, *(f"{key}={_value(v)}" for key, v in _context(record).items())))


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, context."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        head = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps({**_context(record), **head}, default=str)


@functools.lru_cache(maxsize=256)  # keys are few, and come with every line
def is_secret(key: str) -> bool:
    """Return whether a key sounds as if its value were a secret."""
    return _SECRET.search(key) is not None


def redact(context: Mapping[str, object]) -> dict[str, object]:
    """Return a copy in which values whose key sounds like a secret are hidden, at any depth."""
    return {
        key: REDACTED if is_secret(key) else redact(value) if isinstance(value, Mapping) else value
        for key, value in context.items()
    }


def _context(record: logging.LogRecord) -> dict[str, object]:
    extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    context = redact(extra)
    if record.exc_info and record.exc_info[0] is not None:
        context["error"] = repr(record.exc_info[1])
        context["trace"] = logging.Formatter().formatException(record.exc_info)
    return context


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@functools.lru_cache(maxsize=2)  # thousands of lines come in one
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))


def _value(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())


def _escape(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _unexpected(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread else "unknown"
    error = args.exc_value or args.exc_type()
    _log.error(
        "thread %s ended unexpectedly; please report this",
        name,
        exc_info=(args.exc_type, error, args.exc_traceback),
    )
