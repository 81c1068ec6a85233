"""Character sets of HL7 messages: MSH-18 (HL7 table 0211), and what the bytes really are."""

from __future__ import annotations

from typing import Final, NamedTuple

_SINGLE_BYTE: Final = {
    "ASCII": "ascii",
    "ISO IR6": "ascii",
    "8859/1": "latin-1",
    "8859/2": "iso8859-2",
    "8859/3": "iso8859-3",
    "8859/4": "iso8859-4",
    "8859/5": "iso8859-5",
    "8859/6": "iso8859-6",
    "8859/7": "iso8859-7",
    "8859/8": "iso8859-8",
    "8859/9": "iso8859-9",
    "8859/15": "iso8859-15",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "UNICODE": "utf-8",
}
# The sets whose second byte may look like a delimiter are turned into UTF-8 before any split.
_MULTI_BYTE: Final = {
    "GB 18030-2000": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc-kr",
    "ISO IR149": "euc-kr",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_2",
}


class Text(NamedTuple):
    """A message's bytes in a set that is safe to split."""

    data: bytes
    encoding: str
    """Python's name of the set that ``data`` is in."""
    fault: str
    """Why the declared set was not the true one; empty where it was."""


def safe_to_split(data: bytes, declared: str) -> Text | None:
    """The message in UTF-8 or a single-byte set; None where ``declared`` (MSH-18) names a set that is not known here.

    Nothing declared means ASCII by table 0211, but monitors send names in UTF-8 or Latin-1 without saying so.
    """
    name = declared.upper().replace("ISO-8859-", "8859/").replace("ISO8859-", "8859/").replace("ISO 8859-", "8859/")
    if name in _MULTI_BYTE:
        try:
            return Text(data.decode(_MULTI_BYTE[name]).encode(), "utf-8", "")
        except UnicodeDecodeError:
            return Text(data, "latin-1", f"MSH-18 says {name}, but the bytes are not")
    if name and name not in _SINGLE_BYTE:
        return None
    encoding = _SINGLE_BYTE[name] if name else "utf-8"
    if data.isascii():
        return Text(data, encoding, "")
    for candidate in dict.fromkeys((encoding, "utf-8")):
        try:
            data.decode(candidate)
        except UnicodeDecodeError:
            continue
        return Text(data, candidate, "" if candidate == encoding else f"MSH-18 says {name}, but the bytes are UTF-8")
    return Text(data, "latin-1", f"MSH-18 says {name or 'nothing'}, but the bytes are not UTF-8; read as 8859/1")
