"""Reports as text to search in: folded to plain letters, with every character's place in the report kept.

Folding makes one spelling of many: capitals, ``ä`` = ``ae``, ``ß`` = ``ss``, ``é`` = ``e``, typographic quotes and
dashes, runs of blanks. A line break, or three blanks and more (what is left of one where lines were joined), becomes
``\\n``: a phrase may go on over it, a negation hardly does.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_UMLAUT = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "oe"}
_PLAIN = {"’": "'", "‘": "'", "´": "'", "`": "'", "′": "'", "″": '"', "“": '"', "”": '"', "„": '"'} | dict.fromkeys(
    "‐‑‒–—−", "-"
)
_DIAERESIS = "\u0308"


@dataclass(frozen=True, slots=True)
class Folded:
    """A report folded."""

    text: str
    origin: tuple[int, ...]
    """One more than characters in ``text``: where each began in the report, and the report's length."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the report from which ``text[start:end]`` came."""
        return self.origin[start], self.origin[end - 1] + 1 if end > start else self.origin[start]


def _letters(char: str) -> str:
    low = _PLAIN.get(char, char).casefold()
    if low in _UMLAUT:
        return _UMLAUT[low]
    plain = unicodedata.normalize("NFKD", low)
    return "".join(_UMLAUT.get(c, c) for c in plain if not unicodedata.combining(c)).casefold()


def fold(report: str) -> Folded:
    """The report folded; see the module."""
    out: list[str] = []
    origin: list[int] = []
    position = 0
    while position < len(report):
        char = report[position]
        if char.isspace():
            end = position
            while end < len(report) and report[end].isspace():
                end += 1
            run = report[position:end]
            out.append("\n" if "\n" in run or len(run) >= 3 else " ")
            origin.append(position)
            position = end
            continue
        decomposed = char == _DIAERESIS and out and out[-1] in "aou"
        letters = "e" if decomposed else _letters(char)
        out.extend(letters)
        origin.extend([position] * len(letters))
        position += 1
    return Folded("".join(out), (*origin, len(report)))


def folded(phrase: str) -> str:
    """A phrase of the dictionary, folded like a report."""
    return fold(phrase).text.strip()


_SENTENCE_END = re.compile(r"[;!?]+|\.+(?=\s|$)|(?<=\n)[*-]")
_WORD_BEFORE = re.compile(r"[\w']+$")
_ORDINAL_AFTER = re.compile(r"\.\s*(?:grad|gr\b|degr|deg\b)")


def sentence_ends(text: str, abbreviations: frozenset[str]) -> list[int]:
    """Where sentences of a folded text end, in order; the text's end is the last.

    A full stop ends none after an abbreviation, a single letter (but lead I) or an ordinal ("av-block 1. grades").
    """
    ends = []
    for found in _SENTENCE_END.finditer(text):
        if found.group().startswith("."):
            before = _WORD_BEFORE.search(text, max(0, found.start() - 30), found.start())
            word = before.group() if before else ""
            if word in abbreviations or (len(word) == 1 and word.isalpha() and word != "i"):
                continue
            if _ORDINAL_AFTER.match(text, found.start()):
                continue
        ends.append(found.end())
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return ends
