"""The files compile, phrases match as written, languages are told apart, misspellings put right."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import pytest

from training.defaults import LANGUAGES
from training.labels.findings import FINDINGS
from training.labels.lexicon import alternatives, compiled, corrected, languages_of, lexicon, pattern
from training.labels.text import fold, folded


def content(language: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("training.labels") / f"{language}.toml").read_text("utf-8"))


def test_alternatives() -> None:
    assert set(alternatives("(kompl|vollst*)? links-block")) == {
        "links-block",
        "kompl links-block",
        "vollst* links-block",
    }
    assert set(alternatives("(a|b) in? c")) == {"a in c", "a c", "b in c", "b c"}


@pytest.mark.parametrize(
    ("phrase", "text", "matches"),
    [
        ("links-schenkel-block*", "Linksschenkelblock", True),
        ("links-schenkel-block*", "links-schenkel block", True),
        ("links-schenkel-block*", "Linksschenkelblockbild", True),
        ("links-schenkel-block", "Linksschenkelblockbild", False),
        ("av block 1 grad*", "av-block 1. grades", True),
        ("av block", "av blocks", False),
        ("verlängert* qt", "verlaengerte QT", True),
        ("t ... negativ*", "T in V1, V2 und V3 negativ", True),
        ("t ... negativ*", "T normal, EKG negativ", False),
        ("t ... negativ*", "T normal. ST negativ", False),
        ("rsr'", "rSR’", True),
        ("sv1+rv5*", "SV1+RV5", True),
    ],
)
def test_a_phrase_matches_as_written(phrase: str, text: str, matches: bool) -> None:
    found = pattern(phrase).match(fold(text).text)
    assert bool(found) is matches


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_phrase_is_found_where_it_stands(language: str) -> None:
    """As its own words, whatever follows them: a phrase that cannot match would be a silent gap in the glossary."""
    lex = lexicon(language)
    for phrases in lex.phrases.values():
        for phrase in phrases:
            written = phrase.written.replace(" ... ", " wort ").replace("*", "").replace("-", "")
            hits = lex.hits(folded(f"x {written} x"))
            assert any(hit.meaning == phrase.meaning for hit in hits), phrase.written


@pytest.mark.parametrize("language", ["de", "en", "fr"])
def test_a_glossary_has_phrases_for_all_findings(language: str) -> None:
    missing = set(FINDINGS) - set(content(language)["findings"])
    assert missing <= {"no_report", "left_type"}, missing


def test_a_stranger_in_a_file_is_an_error() -> None:
    broken = content("sv")
    broken["findings"]["left_bundle_block"] = ["lbbb"]
    with pytest.raises(ValueError, match="names left_bundle_block, which is no finding"):
        compiled(broken, "sv")


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(ValueError, match="no dictionary for 'it'; take one of de, en, fr, sv"):
        lexicon("it")


@pytest.mark.parametrize(
    ("report", "languages"),
    [
        ("Sinusrhythmus, Linkstyp, kein Hinweis auf Ischämie", ("de",)),
        ("sinusrhythmus periphere low voltage", ("de",)),
        ("Sinus rhythm with left axis deviation", ("en",)),
        ("Rythme sinusal, bloc de branche gauche", ("fr",)),
        ("sinusrytm vänster el-axel normalt ekg", ("sv",)),
        ("Sinusrhythmus, kein Schenkelblock. The axis is normal, with low voltage in limb leads.", ("en", "de")),
        ("LBBB", ()),
        ("", ()),
    ],
)
def test_languages(report: str, languages: tuple[str, ...]) -> None:
    assert set(languages_of(fold(report).text)) == set(languages)


@pytest.mark.parametrize(
    ("language", "wrong", "right"),
    [
        ("de", "Voehofflimmern", "vorhofflimmern"),
        ("de", "Sinustychykardie", "sinustachykardie"),
        ("de", "Leistungsstörung", "leitungsstoerung"),
        ("en", "atrial fibrilation", "atrial fibrillation"),
        ("de", "Linksventrikelhypertrophie", "linksventrikelhypertrophie"),
        ("de", "Sinusrhythmus", "sinusrhythmus"),
    ],
)
def test_misspellings(language: str, wrong: str, right: str) -> None:
    assert corrected(fold(wrong), language).text == right


def test_a_corrected_word_keeps_its_place() -> None:
    report = "es: Voehofflimmern, LSB"
    result = corrected(fold(report), "de")
    start = result.text.index("vorhofflimmern")
    assert report[slice(*result.span(start, start + len("vorhofflimmern")))] == "Voehofflimmern"
    end = result.text.index("lsb")
    assert report[slice(*result.span(end, end + 3))] == "LSB"
