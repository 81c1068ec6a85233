"""MLLP framing: whole, byte by byte, split anywhere, with rubbish around."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.hl7.mllp import Decoder, FrameTooLongError, encode

MESSAGE = b"MSH|^~\\&|A|B|||20260101||ORU^R01|1|P|2.6\rOBX|1\r"
messages = st.lists(st.binary(min_size=1, max_size=40).filter(lambda b: not {0x0B, 0x1C} & set(b)), max_size=6)
filler = st.sampled_from([b"", b"\x00", b"\r\n", b"\x00\x00\r", b"noise", b"\x1c\r"])


@pytest.fixture
def check(every_way: Callable[..., list[list[bytes]]]) -> Callable[[bytes, Sequence[bytes]], None]:
    def _check(stream: bytes, expected: Sequence[bytes]) -> None:
        for pieces in every_way(stream, b"\x00trailing\x0brubbish"):
            decoder = Decoder(1 << 20)
            assert [message for piece in pieces for message in decoder.feed(piece)] == list(expected)

    return _check


Check = Callable[[bytes, Sequence[bytes]], None]


def test_one_message(check: Check) -> None:
    check(encode(MESSAGE), [MESSAGE])


def test_several_messages_nuls_and_line_ends_between(check: Check) -> None:
    check(b"\x00\r\n" + encode(b"one") + encode(b"two") + b"\x00\x00" + encode(b"three"), [b"one", b"two", b"three"])


def test_a_missing_last_byte_does_no_harm(check: Check) -> None:
    check(b"\x0bone\x1c\x0btwo\x1c", [b"one", b"two"])


def test_bytes_outside_frames_are_skipped_and_counted(check: Check) -> None:
    check(b"MSH|unframed" + encode(b"one") + b"??", [b"one"])
    decoder = Decoder()
    decoder.feed(b"\x00junk\r" + encode(b"one") + b"\x00\r\n")
    assert decoder.stray == 4


def test_a_frame_that_begins_anew_replaces_the_one_that_never_ended(check: Check) -> None:
    check(b"\x0blost\x0balso lost\x0bkept\x1c\r", [b"kept"])
    decoder = Decoder()
    assert decoder.feed(b"\x0blost\x0balso lost\x0bkept\x1c\r") == (b"kept",)
    assert decoder.truncated == 2


def test_an_empty_frame_is_no_message(check: Check) -> None:
    check(b"\x0b\x1c\r" + encode(b"one"), [b"one"])


def test_partial_tells_of_a_frame_under_way() -> None:
    decoder = Decoder()
    assert not decoder.partial
    decoder.feed(b"\x0bhalf")
    assert decoder.partial
    decoder.feed(b" rest\x1c\r")
    assert not decoder.partial


def test_the_limit_has_a_name_and_what_came_before_it_is_kept() -> None:
    assert Decoder(3).feed(encode(b"abc")) == (b"abc",)
    with pytest.raises(FrameTooLongError, match="3 bytes"):
        Decoder(3).feed(encode(b"abcd"))
    decoder = Decoder(3)
    assert decoder.feed(encode(b"abc") + b"\x0babcd") == (b"abc",)
    for data in (b"", b"x", encode(b"abc")):
        with pytest.raises(FrameTooLongError):
            decoder.feed(data)


def test_the_limit_holds_without_an_end_ever_coming() -> None:
    decoder = Decoder(1000)
    decoder.feed(b"\x0b")
    with pytest.raises(FrameTooLongError):
        for _ in range(2000):
            decoder.feed(b"x")


@given(messages, filler, st.data())
def test_any_split_gives_the_same_messages(sent: list[bytes], between: bytes, data: st.DataObject) -> None:
    stream = between.join(encode(message) for message in sent)
    decoder, found, at = Decoder(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[at : at + size])
        at += size
    assert found == sent


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_any_bytes_raise_nothing_but_the_limit(chunks: list[bytes]) -> None:
    decoder = Decoder(50)
    try:
        for chunk in chunks:
            for message in decoder.feed(chunk):
                assert 0 < len(message) <= 50
    except FrameTooLongError:
        pass


@pytest.mark.timeout(30)  # each takes about a second; work that grows with the square would take many minutes
@pytest.mark.parametrize(
    "chunks",
    [[b"\x0b", *[b"x"] * 1_000_000], [b"\x0b" * 4_000_000], [(b"\x0b" + b"x" * 3) * 1_000_000]],
    ids=["byte by byte", "frame starts alone", "frames that never end"],
)
def test_work_is_linear_in_the_bytes(chunks: Sequence[bytes]) -> None:
    decoder = Decoder()
    for chunk in chunks:
        assert decoder.feed(chunk) == ()
    assert decoder.partial
