"""Delimiters, line ends, escapes, character sets and times."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.hl7 import message as module
from agent.core.hl7.message import (
    Delimiters,
    HL7Error,
    Message,
    dtm,
    epoch,
    escape,
    first_parts,
    from_component_form,
    parse,
    unescape,
    write,
)
from agent.core.hl7.segments import MSA, MSH, OBX, PID

BODY = "MSH|^~\\&|APP|FAC|||20260101||ORU^R01|1|P|2.6{}\rPID|1||77^^^H^MR||Doe^Jo\rPV1|1|I|ICU^2^23\r"


def message(charset: str = "", encoding: str = "utf-8", name: str = "Müller") -> Message:
    header = "|" * 6 + charset if charset else ""
    return parse(BODY.format(header).replace("Doe", name).encode(encoding))


def family(parsed: Message) -> str:
    return parsed.component(parsed.segments[1], 5)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\r\r\n"])
def test_line_ends(end: str) -> None:
    parsed = parse(BODY.format("").replace("\r", end).encode())
    assert [s.name for s in parsed.segments] == [b"MSH", b"PID", b"PV1"]
    assert parsed.component(parsed.segments[2], 3, 3) == "23"


def test_a_line_feed_inside_a_field_does_not_end_a_segment_that_cr_ends() -> None:
    parsed = parse(b"MSH|^~\\&|A|F|||||ORU^R01|1|P|2.6\rNTE|1||two\nlines\rPID|1\r")
    assert [s.name for s in parsed.segments] == [b"MSH", b"NTE", b"PID"]
    assert parsed.component(parsed.segments[1], 3) == "two\nlines"


@given(st.permutations("|^~\\&#$%!*@;:").map("".join))
def test_any_delimiters(marks: str) -> None:
    f, c, r, e, s = marks[:5]
    text = f"MSH{f}{c}{r}{e}{s}{f}APP{f}FAC\rPID{f}1{f}{f}77{c}{c}{c}H{s}oid{r}88{f}{f}A{e}F{e}B{c}Jo\r"
    parsed = parse(text.encode())
    pid = parsed.segments[1]
    assert parsed.component(parsed.msh, 3) == "APP"
    assert [parsed.text(x.split(c.encode())[0]) for x in pid.repetitions(3)] == ["77", "88"]
    assert parsed.component(pid, 3, 4, 2) == "oid"
    assert parsed.component(pid, 5) == f"A{f}B"


def test_short_encoding_characters_are_completed() -> None:
    assert parse(b"MSH|^~|APP|FAC|||\r").delimiters == Delimiters()
    assert parse(b"MSH|^~\\&#|APP|FAC|||\r").delimiters.truncation == b"#"


@pytest.mark.parametrize(
    "data",
    [b"", b"MSH", b"MSH|^~\\", b"PID|1||77", b"MSH|^^\\&|A|B", b"MSHA^~\\&A", b"MSH\r^~\\&\rA", b"MSH|a~\\&|A|B|"],
)
def test_what_has_no_usable_header_is_refused(data: bytes) -> None:
    with pytest.raises(HL7Error):
        parse(data)


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        ("", "utf-8"),
        ("UNICODE UTF-8", "utf-8"),
        ("UNICODE", "utf-8"),
        ("8859/1", "latin-1"),
        ("ISO-8859-1", "latin-1"),
        ("8859/15", "iso8859-15"),
        ("8859/2", "iso8859-2"),
    ],
)
def test_character_sets(charset: str, encoding: str) -> None:
    parsed = message(charset, encoding)
    assert family(parsed) == "Müller"
    assert not parsed.charset_fault


def test_multi_byte_sets_whose_bytes_look_like_delimiters() -> None:
    # GB 18030 writes 倈 as 82 7C: the second byte is a field separator.
    name = "倈王"
    assert b"|" in name.encode("gb18030")
    assert family(message("GB 18030-2000", "gb18030", name)) == name


@pytest.mark.parametrize(("charset", "encoding"), [("", "latin-1"), ("UNICODE UTF-8", "latin-1"), ("ASCII", "utf-8")])
def test_a_wrong_declaration_is_told_and_the_text_still_read(charset: str, encoding: str) -> None:
    parsed = message(charset, encoding)
    assert family(parsed) == "Müller"
    assert parsed.charset_fault


def test_an_unknown_character_set_is_refused() -> None:
    with pytest.raises(HL7Error) as caught:
        message("EBCDIC")
    assert (caught.value.code, caught.value.reject, caught.value.location) == (103, True, "MSH^1^18")


def test_what_is_not_escaped_keeps_its_escape_characters() -> None:
    assert unescape(r"WARD\user\1") == r"WARD\user\1"
    assert unescape(r"a\b\F\c\X4\d") == r"a\b|c\X4\d"
    assert unescape(r"\.sp+1\a\C2842\b\Zx\c") == "abc"


def test_a_value_is_split_before_its_escapes_are_resolved() -> None:
    parsed = parse(b"MSH|^~\\&|A|F|||\rPV1|1|I|A\\T\\B^C\\S\\D^1|||x\r")
    segment = parsed.segments[1]
    assert [parsed.component(segment, 3, n) for n in (1, 2, 3)] == ["A&B", "C^D", "1"]
    assert parsed.component(segment, 3, 1, 2) == ""
    assert parsed.component_form(segment.raw(3)) == r"A\T\B^C\S\D^1"
    assert first_parts(r"A\T\B^C\S\D&x^1") == ("A&B", "C^D", "1")


parts = st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=3), min_size=1, max_size=4)


@given(parts, st.permutations("|^~\\&#$%!*@;:").map("".join))
def test_what_is_written_is_read_in_any_delimiters(texts: list[list[str]], marks: str) -> None:
    texts = [[text.encode("utf-8", "replace").decode() for text in part] for part in texts]
    form = "^".join("&".join(escape(text).decode() for text in part) for part in texts)
    delimiters = Delimiters(*(mark.encode() for mark in marks[:6]))
    data = write([(MSH, {MSH.VERSION: b"2.7"}), (PID, {PID.NAME: from_component_form(form, delimiters)})], delimiters)
    parsed = parse(data)
    assert parsed.delimiters == delimiters
    pid = parsed.segments[1]
    read = [[parsed.component(pid, PID.NAME, i, k) for k in (1, 2, 3)] for i in (1, 2, 3, 4)]
    null = '""'  # HL7's null: a text of two quotation marks cannot be told from it
    assert read == [[*(t if t != null else "" for t in part), "", "", ""][:3] for part in [*texts, [], [], [], []][:4]]


def test_a_segment_ends_with_its_last_field() -> None:
    row = write(
        [(MSH, {MSH.TYPE: b"ADT^A01"}), (OBX, {OBX.SUB_ID: b"1.1", OBX.VALUE: None}), (MSA, {MSA.CONTROL_ID: b""})]
    )
    assert row == b"MSH|^~\\&|||||||ADT^A01\rOBX||||1.1\rMSA||\r"


def test_an_unknown_character_set_may_be_passed_over() -> None:
    parsed = parse(BODY.format("||||||EBCDIC").encode(), any_charset=True)
    assert family(parsed) == "Doe"
    assert "not known" in parsed.charset_fault


def test_escapes() -> None:
    d = Delimiters()
    assert unescape(r"a\F\b\S\c\T\d\R\e\E\f", d) == r"a|b^c&d~e\f"
    assert unescape(r"\X4142\\.br\\H\x\N\ ", d) == "AB\nx "
    assert unescape(r"open \ end", d) == r"open \ end"


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_what_is_escaped_comes_back(text: str) -> None:
    d = Delimiters()
    escaped = escape(text, d)
    assert not set(b"|^&~\r\n\x0b\x1c") & set(escaped)
    assert unescape(escaped.decode(), d) == text


def test_the_null_value_is_empty() -> None:
    parsed = parse(b'MSH|^~\\&|A|B|||\rPID|1||""||""^x\r')
    assert parsed.component(parsed.segments[1], 3) == ""
    assert family(parsed) == ""


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"20231114221320.250+0000", 1_700_000_000.25),
        (b"20231114221320250+0000", 1_700_000_000.25),
        (b"20231114181320.25-0400", 1_700_000_000.25),
        (b"20231114181320.25-400", 1_700_000_000.25),
        (b"20231114221320", 1_700_000_000.0),
        (b"202311142213", 1_699_999_980.0),
        (b"20231114", 1_699_920_000.0),
        (b"20231114221260+0000", 1_699_999_980.0),
        (b"", None),
        (b'""', None),
    ],
)
def test_times(raw: bytes, expected: float | None) -> None:
    assert epoch(raw, UTC) == expected


def test_the_configured_zone_holds_where_none_is_named() -> None:
    paris = ZoneInfo("Europe/Paris")
    assert epoch(b"20231114231320", paris) == 1_700_000_000.0
    assert epoch(b"20231114221320+0000", paris) == 1_700_000_000.0


@pytest.mark.parametrize(
    "raw", [b"yesterday", b"2023111422132", b"20231314", b"20231114221320+9900", b"0000", b"1" * 40]
)
def test_what_is_no_time(raw: bytes) -> None:
    with pytest.raises(ValueError):
        epoch(raw, UTC)


@given(st.integers(0, 4_000_000_000_000))
def test_times_survive_the_round_trip(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert epoch(dtm(seconds), UTC) == pytest.approx(seconds, abs=1e-6)
    assert datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d").encode() == dtm(seconds)[:8]


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_the_named_error(data: bytes) -> None:
    for candidate in (data, b"MSH|^~\\&|" + data, b"MSH" + data):
        try:
            parsed = parse(candidate)
        except HL7Error:
            continue
        for segment in parsed.segments:
            for field in range(len(segment.fields)):
                parsed.component(segment, field, 2, 2)


def test_the_modules_own_example() -> None:
    assert doctest.testmod(module) == doctest.TestResults(failed=0, attempted=3)
