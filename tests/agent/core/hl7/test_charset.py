"""Declared and true character sets; that messages are read by them is tested with the messages."""

from __future__ import annotations

import pytest

from agent.core.hl7.charset import Text, safe_to_split


@pytest.mark.parametrize(
    ("text", "declared", "expected"),
    [
        (b"A", "", Text(b"A", "utf-8", "")),
        (b"A", "ascii", Text(b"A", "ascii", "")),
        ("ü".encode(), "UNICODE UTF-8", Text("ü".encode(), "utf-8", "")),
        (b"\xfc", "ISO-8859-1", Text(b"\xfc", "latin-1", "")),
        (b"\xfc", "iso 8859-2", Text(b"\xfc", "iso8859-2", "")),
        ("倈".encode("gb18030"), "GB 18030-2000", Text("倈".encode(), "utf-8", "")),
        ("山".encode("iso2022_jp"), "ISO IR87", Text("山".encode(), "utf-8", "")),
        (b"A", "EBCDIC", None),
    ],
)
def test_sets(text: bytes, declared: str, expected: Text | None) -> None:
    assert safe_to_split(text, declared) == expected


@pytest.mark.parametrize(
    ("text", "declared", "encoding", "fault"),
    [
        ("ü".encode(), "ASCII", "utf-8", "MSH-18 says ASCII, but the bytes are UTF-8"),
        (b"\xfc", "", "latin-1", "MSH-18 says nothing, but the bytes are not UTF-8; read as 8859/1"),
        (b"\xff\xff", "GB 18030-2000", "latin-1", "MSH-18 says GB 18030-2000, but the bytes are not"),
    ],
)
def test_a_false_declaration_is_told(text: bytes, declared: str, encoding: str, fault: str) -> None:
    assert safe_to_split(text, declared) == Text(text, encoding, fault)
