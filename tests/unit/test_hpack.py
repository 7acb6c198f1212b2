"""Header blocks: the RFC's own examples, and what no honest peer would send."""

import pytest
from hypothesis import given, strategies

from csi_fluid.rpc.hpack import TABLE_BYTES, Decoder, Malformed, encode

MAX = 16_384
EXAMPLE = (b":authority", b"www.example.com")
DATE = b"Mon, 21 Oct 2013 20:13:21 GMT"
LATER = b"Mon, 21 Oct 2013 20:13:22 GMT"
LOCATION = (b"location", b"https://www.example.com")
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
PRIVATE = (b"cache-control", b"private")
TEXT = strategies.binary(max_size=300)


def test_requests_that_refer_to_each_other():  # RFC 7541, C.4
    decoder = Decoder(MAX)
    blocks = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ]
    first, second, third = (decoder.decode(bytes.fromhex(block)) for block in blocks)

    plain = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), EXAMPLE]
    assert first == plain
    assert second == [*plain, (b"cache-control", b"no-cache")]
    assert third == [
        *((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), EXAMPLE),
        (b"custom-key", b"custom-value"),
    ]


def test_a_small_table_forgets_what_is_old():  # RFC 7541, C.6, whose table has 256 bytes
    decoder = Decoder(MAX)
    first = decoder.decode(
        bytes.fromhex(
            "3fe101488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff"
            "6e919d29ad171863c78f0b97c8e9ae82ae43d3"
        )
    )
    second = decoder.decode(bytes.fromhex("4883640effc1c0bf"))
    third = decoder.decode(
        bytes.fromhex(
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821d"
            "d7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
        )
    )

    assert first == [(b":status", b"302"), PRIVATE, (b"date", DATE), LOCATION]
    assert second == [(b":status", b"307"), *first[1:]]
    assert third == [
        *((b":status", b"200"), PRIVATE, (b"date", LATER), LOCATION),
        *((b"content-encoding", b"gzip"), (b"set-cookie", COOKIE)),
    ]


@given(strategies.lists(strategies.tuples(TEXT, TEXT), max_size=20))
def test_what_is_encoded_is_decoded(headers):
    assert Decoder(MAX).decode(encode(headers)) == headers


@given(strategies.lists(strategies.binary(max_size=200), max_size=5))
def test_any_bytes_are_headers_or_malformed(blocks):
    decoder = Decoder(MAX)
    try:
        for block in blocks:
            found = decoder.decode(block)
            assert sum(len(name) + len(value) for name, value in found) <= MAX
    except Malformed:
        pass
    assert decoder._size <= TABLE_BYTES


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("80", "there is no header 0"),
        ("be", "there is no header 62"),
        ("7f", "cut off or too large"),
        ("ffffffffffff", "cut off or too large"),
        ("40", "a string is cut off"),
        ("000561", "a string is cut off"),
        ("0081fe00", "ends within a code"),
        ("0084ffffffff00", "ends within a code"),
        ("823f01", "changes its size behind a header"),
        ("3fe21f", "was not offered"),
    ],
)
def test_what_breaks_the_rules_is_malformed(block, why):
    with pytest.raises(Malformed, match=why):
        Decoder(MAX).decode(bytes.fromhex(block))


def test_a_short_block_cannot_become_large_headers():
    long = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4_000  # kept, so that one byte means all of it

    with pytest.raises(Malformed, match="more than 16384 bytes"):
        Decoder(MAX).decode(long + b"\xbe" * 1_000)
