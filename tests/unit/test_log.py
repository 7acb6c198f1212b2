"""The log: one line a record, whatever is in it, and never a secret."""

import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from csi_fluid import log


def record(message="done", *args, exc_info=None, **extra):
    made = logging.makeLogRecord({"name": "csi_fluid.x", "levelno": 20, "levelname": "INFO"})
    made.msg, made.args, made.exc_info, made.created, made.msecs = (
        message,
        args,
        exc_info,
        0.25,
        250,
    )
    vars(made).update(extra)
    return made


def text(*args, **extra):
    return log.TextFormatter().format(record(*args, **extra))


def data(*args, **extra):
    return json.loads(log.JsonFormatter().format(record(*args, **extra)))


def test_a_text_line_has_time_level_message_and_context():
    line = text("published %s", "/a", volume="v 1", copies=3, seconds=0.001234567)

    assert line == (
        '1970-01-01T00:00:00.250Z INFO    published /a volume="v 1" copies=3 seconds=0.00123457'
    )


def test_a_json_line_has_the_same_and_the_logger():
    assert data("published %s", "/a", volume="v 1") == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "csi_fluid.x",
        "message": "published /a",
        "volume": "v 1",
    }


def test_context_cannot_take_the_place_of_the_message():
    assert data("real", level="forged", time="forged")["level"] == "info"


@given(st.text(), st.text())
def test_a_record_is_one_line_whatever_is_in_it(message, value):
    for line in (text("%s", message, key=value), json.dumps(data("%s", message, key=value))):
        assert len(line.splitlines()) == 1


def test_a_path_of_any_bytes_can_be_logged():
    path = b"/mnt/\xff\n".decode("utf-8", "surrogateescape")

    assert "\\n" in text("at %s", path, path=path)
    assert data("at %s", path)["message"] == f"at {path}"


@pytest.mark.parametrize(
    "key",
    ["password", "accessKeyId", "secret", "fs.oss.access_key", "token", "apiKey", "Credential"],
)
@pytest.mark.parametrize("form", [text, lambda *a, **k: json.dumps(data(*a, **k))])
def test_a_secret_is_never_written_at_any_depth(key, form):
    assert "hunter2" not in form("m", **{key: "hunter2"})
    assert "hunter2" not in form("m", attributes={"a": {key: "hunter2"}})


def test_other_keys_are_shown():
    assert "fluid_path" in text("m", attributes={"fluid_path": "/x", "monkey": "see"})


def test_an_error_is_told_on_the_same_line():
    with pytest.raises(ValueError, match="such") as caught:
        int("no such thing")

    line = text("failed", exc_info=(caught.type, caught.value, caught.tb))

    assert "no such thing" in line
    assert "test_log.py" in line
    assert len(line.splitlines()) == 1


def test_only_our_own_debugging_is_shown():
    """With Fluid's chart, which always says --v=5, the log is for people too."""
    script = (
        "import logging; from csi_fluid import log; log.configure('debug', 'text')\n"
        "for name in ('csi_fluid.x', 'recover.x', 'asyncio'):\n"
        "    logging.getLogger(name).debug('debug of %s', name)\n"
        "    logging.getLogger(name).warning('warning of %s', name)\n"
    )
    command = (sys.executable, "-c", script)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    shown = [line.split(maxsplit=2)[2] for line in said.splitlines()]
    assert shown == [
        *("debug of csi_fluid.x", "warning of csi_fluid.x"),
        *("debug of recover.x", "warning of recover.x"),
        "warning of asyncio",
    ]
