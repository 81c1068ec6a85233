"""Folding keeps every character's place; sentences end where a clinician would end them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.labels.text import fold, folded, sentence_ends


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("Überdrehter Linkstyp", "ueberdrehter linkstyp"),
        ("U\u0308berdreht", "ueberdreht"),
        ("größer", "groesser"),
        ("Péricardite aiguë", "pericardite aigue"),
        ("rSR’ – “V1”", 'rsr\' - "v1"'),
        ("a  b\n\nc     d\u00a0e", "a b\nc\nd e"),
        ("Å ej", "a ej"),
    ],
)
def test_folding(written: str, plain: str) -> None:
    assert fold(written).text == plain


@given(st.text(max_size=200))
def test_every_character_keeps_its_place(report: str) -> None:
    result = fold(report)
    assert len(result.origin) == len(result.text) + 1
    assert list(result.origin) == sorted(result.origin)
    assert result.origin[-1] == len(report)
    assert all(0 <= place < max(1, len(report)) for place in result.origin[:-1])


@given(st.text(alphabet="abzÄöüß éI1.", max_size=60))
def test_folding_twice_changes_nothing(report: str) -> None:
    assert fold(fold(report).text).text.strip() == folded(report)


def test_span_leads_back_to_the_report() -> None:
    report = "Große  Überraschung"
    result = fold(report)
    start = result.text.index("ueber")
    assert report[slice(*result.span(start, start + 5))] == "Über"


def cut(text: str, abbreviations: str = "") -> list[str]:
    begin, out = 0, []
    for end in sentence_ends(text, frozenset(abbreviations.split())):
        out.append(text[begin:end].strip())
        begin = end
    return out


def test_sentences() -> None:
    assert cut("sinus rhythm. normal ecg.") == ["sinus rhythm.", "normal ecg."]
    assert cut("av-block 1. grades. linkstyp") == ["av-block 1. grades.", "linkstyp"]
    assert cut("v.a. lvh. kein rsb", "v.a") == ["v.a. lvh.", "kein rsb"]
    assert cut("changes in i. q waves; low") == ["changes in i.", "q waves;", "low"]
    assert cut("qtc 4.46 s") == ["qtc 4.46 s"]
    assert cut("") == [""]


@given(st.text(max_size=80))
def test_sentences_cover_the_text(text: str) -> None:
    ends = sentence_ends(text, frozenset())
    assert ends == sorted(set(ends))
    assert ends[-1] == len(text)
