"""The wire of /dev/fuse is parsed strictly: whatever comes is a request or Malformed."""

import contextlib
import os
import struct
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from recover.seamless import wire
from recover.seamless.wire import Entry, Malformed, Op, Request
from tests.unit.seamless.messages import message


def test_a_request_is_taken_apart():
    found = wire.parse(message(Op.LOOKUP, body=b"name\0", node=9))

    assert found == Request(Op.LOOKUP, 7, 9, 1, 2, 3, b"name\0")
    assert wire.name(found.body) == b"name"


@pytest.mark.parametrize("claim", [-1, 1, 4096])
def test_a_request_whose_length_lies_is_malformed(claim: int):
    with pytest.raises(Malformed):
        wire.parse(message(Op.LOOKUP, body=b"name\0", claim=claim))


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"a", b"a/b\0", b"/\0", b"a\0b", b"a" * 256 + b"\0", b"../x\0"]
)
def test_what_is_no_single_name_is_malformed(body: bytes):
    with pytest.raises(Malformed):
        wire.name(body)


BODIES: list[Callable[[bytes], object]] = [
    *(wire.name, wire.span, wire.seek, wire.handle, wire.open_flags, wire.access_mask),
    *(wire.xattr, wire.xattr_room, wire.interrupted),
]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_malformed(data: bytes):
    with contextlib.suppress(Malformed):
        found = wire.parse(data)
        assert len(found.body) <= len(data) - wire.HEADER
    assert wire.unique_of(data) >= 0


@given(st.integers(0, 60), st.binary(max_size=200))
def test_any_body_is_what_was_asked_for_or_malformed(op: int, body: bytes):
    request = wire.parse(message(op, body=body))
    for parse in BODIES:
        with contextlib.suppress(Malformed):
            parse(request.body)
    with contextlib.suppress(Malformed):
        pairs = list(wire.forgotten(request))
        assert len(pairs) <= max(len(body) // 16, 1)


def test_a_batch_of_forgets_that_claims_more_than_it_has_is_malformed():
    body = struct.pack("=II", 2, 0) + struct.pack("=QQ", 5, 1)
    with pytest.raises(Malformed):
        list(wire.forgotten(wire.parse(message(Op.BATCH_FORGET, body=body))))


@given(st.lists(st.binary(min_size=1, max_size=255), max_size=30), st.booleans())
def test_a_listing_never_exceeds_its_room_and_goes_on_where_it_ended(names, plus: bool):
    entries = [Entry(name, i + 1, 8, i + 1) for i, name in enumerate(names)]
    for room in (0, 100, 4096):
        found = wire.listing(entries, room, plus=plus)
        assert len(found) <= room
        assert len(found) % 8 == 0


def test_times_before_1970_are_sent_as_they_are(tmp_path):
    os.utime(tmp_path, ns=(-5_000_000_001, -1))
    attributes = wire.attributes(os.stat(tmp_path))

    assert struct.unpack_from("=qq", attributes, 24) == (-6, -1)
    assert struct.unpack_from("=II", attributes, 48) == (999_999_999, 999_999_999)


def test_the_sizes_are_those_of_the_kernels_header(tmp_path):
    source = tmp_path / "sizes.c"
    names = ("attr_out", "entry_out", "open_out", "lseek_out", "statfs_out", "in_header")
    lines = "".join(f'printf("%zu ", sizeof(struct fuse_{name}));' for name in names)
    source.write_text(f"#include <stdio.h>\n#include <linux/fuse.h>\nint main(){{{lines}}}")
    try:
        subprocess.run(["cc", "-o", tmp_path / "sizes", source], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs a C compiler and linux/fuse.h")
    done = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True)
    found = os.stat(tmp_path)
    attributes = wire.attributes(found)

    assert [int(size) for size in done.stdout.split()] == [
        len(wire.attr_out(1, attributes)),
        len(wire.entry(1, 0, 1, attributes)),
        len(wire.opened(1)),
        len(wire.position(1)),
        len(wire.statistics(os.statvfs(tmp_path))),
        wire.HEADER,
    ]
