"""The dictionary's files: one TOML per language, compiled into phrases that are tried where their first letters stand.

How a phrase is written:

``linksschenkel-block*``
    ``-`` joins: together, with a hyphen or with a blank. ``*``: any further letters. A blank: blanks, hyphens, full
    stops, slashes or brackets. Capitals and accents do not matter, and ``ü`` is also ``ue``.
``(kompletter|vollst*)? linksschenkelblock``
    One of several. ``?`` after a bracket or a word: it may be absent.
``t ... negativ*``
    ``...``: up to five words of the same sentence.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from training.defaults import LANGUAGES
from training.labels.findings import FINDINGS
from training.labels.places import REGIONS
from training.labels.text import Folded, folded

CUES = ("negated", "uncertain", "historical", "old", "acute", "none")
"""What a cue does to a finding. "old" and "acute" bear on infarction and the like alone: an old bundle branch block is
there. "none" is a pseudo-cue, whose words must not be read as one of the others (NegEx)."""

SIDES = ("before", "after", "either", "both", "inside")
"""Where a cue stands: before its finding, after it, on either side; between two that it both bears on ("VT vs SVT"); or
only in a finding's gap ("T nicht negativ")."""

_GAP = r"(?:(?:[^\s.,;!?]+|(?:i{1,3}|av[rlf]|v?\d)[\dv,-]*,)\s+){0,5}?"
"""Words without a stop between them, but for the commas of a list of leads."""
_BLANK = r"[\s./_()-]+"
_JOIN = r"[\s.\-]*"
_TOKEN = re.compile(r"(?<!\w)\w")
_BRACKET = re.compile(r"\(([^()]*)\)(\??)")
_OPTIONAL = re.compile(r"(?<!\S)(\S+)\?(?!\S)")
_WORD = re.compile(r"(?<![a-z*])[a-z]{7,}(?![a-z*])")
_LONG_WORD = re.compile(r"[a-z]{7,}")


@dataclass(frozen=True, slots=True)
class Phrase:
    """One way to say one thing."""

    meaning: str
    """A finding, ``negated/before`` or another cue, or ``@inferior`` or another place."""
    written: str
    """As in the file, one alternative chosen."""
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Hit:
    """A phrase found in a folded report."""

    meaning: str
    phrase: str
    start: int
    end: int

    @property
    def is_cue(self) -> bool:
        """Does it bear on a finding, rather than name one or a place?"""
        return "/" in self.meaning

    @property
    def kind(self) -> str:
        """Of a cue: one of `CUES`."""
        return self.meaning.split("/")[0]

    @property
    def side(self) -> str:
        """Of a cue: one of `SIDES`."""
        return self.meaning.split("/")[1]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """One language's file, compiled."""

    language: str
    phrases: Mapping[str, tuple[Phrase, ...]]
    """By their first letters, up to three."""
    evidence: re.Pattern[str]
    """Words that tell this language from the others."""
    abbreviations: frozenset[str]
    """After which a full stop ends no sentence."""
    joins: frozenset[str]
    """Words that make one list of the findings on both sides."""
    light: re.Pattern[str]
    """Words that may stand in such a list beside its findings."""
    breaks: re.Pattern[str]
    """Words behind which a cue before them has no force."""
    spelling: tuple[str, ...]
    """Words that are put right where they are misspelt."""
    words: frozenset[str]
    """Words of the phrases: right as they are."""

    def hits(self, text: str) -> list[Hit]:
        """Every phrase of a folded text, overlapping ones too."""
        out: dict[tuple[int, int, str], Hit] = {}
        for token in _TOKEN.finditer(text):
            start = token.start()
            for length in (0, 1, 2, 3):
                for phrase in self.phrases.get(text[start : start + length], ()):
                    if found := phrase.pattern.match(text, start):
                        hit = Hit(phrase.meaning, phrase.written, start, found.end())
                        out.setdefault((start, found.end(), phrase.meaning), hit)
        return list(out.values())


def alternatives(phrase: str) -> Iterator[str]:
    """The phrase without brackets and question marks, once for every choice."""
    bracket = _BRACKET.search(phrase)
    if bracket:
        for choice in (*bracket[1].split("|"), *([""] if bracket[2] else [])):
            yield from alternatives(phrase[: bracket.start()] + choice + phrase[bracket.end() :])
        return
    word = _OPTIONAL.search(phrase)
    if word:
        for choice in (word[1], ""):
            yield from alternatives(phrase[: word.start()] + choice + phrase[word.end() :])
        return
    yield " ".join(word.strip("-") for word in phrase.split())


def pattern(phrase: str) -> re.Pattern[str]:
    """A phrase without alternatives as an expression for folded texts, to be matched at a word's beginning."""
    words = folded(phrase).split(" ")
    out: list[str] = []
    for i, word in enumerate(words):
        if word == "...":
            out.append(_GAP)
            continue
        out.append(re.escape(word).replace(r"\*", r"\w*").replace(r"\-", _JOIN))
        if i + 1 < len(words):
            out.append(r"\s+" if words[i + 1] == "..." else _BLANK)
    last = r"(?!\w)" if re.fullmatch(r"[\w*]", words[-1][-1]) else ""
    return re.compile("".join(out) + last)


def _words(written: list[str]) -> re.Pattern[str]:
    """Any one of the words; never matches where there are none."""
    choices = {re.escape(folded(word)).replace(r"\*", r"\w*").replace(r"\ ", r"\s+") for word in written}
    return re.compile(rf"(?<!\w)(?:{'|'.join(sorted(choices, reverse=True))})(?!\w)" if choices else r"(?!)")


def compiled(content: Mapping[str, Any], language: str) -> Lexicon:
    """A file's content compiled.

    Raises:
        ValueError: a finding, cue or place that there is not.
    """
    sections = [(name, written) for name, written in content["findings"].items()]
    for cue, sides in content["cues"].items():
        sections.extend((f"{cue}/{side}", written) for side, written in sides.items())
    sections.extend((f"@{region}", written) for region, written in content["places"].items())
    known = {*FINDINGS, *(f"{cue}/{side}" for cue in CUES for side in SIDES), *(f"@{region}" for region in REGIONS)}
    if strangers := sorted({meaning for meaning, _ in sections} - known):
        raise ValueError(
            f"{language}.toml names {', '.join(strangers)}, which is no finding, cue or place; see findings.py"
        )
    index: dict[str, list[Phrase]] = {}
    for meaning, phrases in sections:
        for written in dict.fromkeys(text for phrase in phrases for text in alternatives(phrase)):
            plain = folded(written)
            first = re.match(r"[a-z0-9]*", plain)
            key = first.group()[:3] if first else ""
            index.setdefault(key, []).append(Phrase(meaning, written, pattern(written)))
    return Lexicon(
        language=language,
        phrases={key: tuple(phrases) for key, phrases in index.items()},
        evidence=_words(content["evidence"]),
        abbreviations=frozenset(map(folded, content["abbreviations"])),
        joins=frozenset(map(folded, content["joins"])),
        light=_words(content["light"]),
        breaks=_words(content["breaks"]),
        spelling=tuple(map(folded, content["spelling"])),
        words=frozenset(
            word for phrases in index.values() for phrase in phrases for word in _WORD.findall(folded(phrase.written))
        ),
    )


@cache
def lexicon(language: str) -> Lexicon:
    """The language's dictionary.

    Raises:
        ValueError: there is none.
    """
    if language not in LANGUAGES:
        raise ValueError(f"there is no dictionary for {language!r}; take one of {', '.join(LANGUAGES)}")
    content = (resources.files("training.labels") / f"{language}.toml").read_text("utf-8")
    return compiled(tomllib.loads(content), language)


def languages_of(text: str) -> tuple[str, ...]:
    """Languages of a folded text by their words in it, the most frequent first; empty where there is no evidence.

    A second language needs two words, and a quarter of the first one's: one "low voltage" makes no German report mixed.
    """
    counts = {language: len(lexicon(language).evidence.findall(text)) for language in LANGUAGES}
    most = max(counts.values())
    if not most:
        return ()
    there = [language for language, n in counts.items() if n == most or n >= max(2, most / 4)]
    return tuple(sorted(there, key=lambda language: -counts[language]))


@lru_cache(maxsize=100_000)
def _corrected(word: str, language: str) -> str:
    """The word, or the one that it is a misspelling of: about one letter in eight, or one too many before it."""
    vocabulary = lexicon(language).spelling
    if word in lexicon(language).words or any(word.startswith(known) or known.startswith(word) for known in vocabulary):
        return word
    if word[1:] in vocabulary:  # a key struck before it
        return word[1:]
    alike = [known for known in vocabulary if known[0] == word[0] and abs(len(known) - len(word)) <= 1]
    near = difflib.get_close_matches(word, alike, n=1, cutoff=0.87)
    return near[0] if near else word


def corrected(report: Folded, language: str) -> Folded:
    """The report with misspelt words of the dictionary put right; places are kept."""
    text: list[str] = []
    origin: list[int] = []
    done = 0
    for found in _LONG_WORD.finditer(report.text):
        word = found.group()
        right = _corrected(word, language)
        if right == word:
            continue
        text.append(report.text[done : found.start()] + right)
        origin.extend(report.origin[done : found.start()])
        span = report.origin[found.start() : found.end()]
        origin.extend(span[min(i, len(span) - 1)] for i in range(len(right) - 1))
        origin.append(span[-1])
        done = found.end()
    if not done:
        return report
    text.append(report.text[done:])
    return Folded("".join(text), (*origin, *report.origin[done:]))
