"""AHA statements and their modifiers as labels."""

from __future__ import annotations

import pytest

from agent.core.labels import LABEL_NAMES, index_of
from training.data.codes.aha import from_aha
from training.data.recording import Labels


def said(labels: Labels) -> set[str]:
    return {name for name in LABEL_NAMES if labels[index_of(name)] == 1}


def at(labels: Labels, name: str) -> int:
    return int(labels[index_of(name)])


def test_a_normal_ecg() -> None:
    labels = from_aha("1")
    assert said(labels) == {"Sinusal", "Regular", "Monomorph"}
    assert at(labels, "Afib") == at(labels, "Right bundle branch block") == 0
    assert at(labels, "Acute pericarditis") == at(labels, "Brugada") == -1, "secondary statements are not used"


def test_several_statements_with_modifiers() -> None:
    labels = from_aha("22;60+310;106")
    assert said(labels) == {"Sinusal", "Bradycardia", "Premature ventricular complex", "Right bundle branch block"}
    assert at(labels, "Regular") == -1
    assert at(from_aha("21;60+341"), "Regularly irregular") == 1
    assert at(from_aha("21;30+342"), "Regularly irregular") == 1


@pytest.mark.parametrize(("code", "brady"), [("50", -1), ("50+346", 0), ("50+347", 1)])
def test_the_ventricular_response_says_whether_it_is_slow(code: str, brady: int) -> None:
    labels = from_aha(code)
    assert {"Afib", "Irregularly irregular"} <= said(labels)
    assert at(labels, "Bradycardia") == brady
    assert at(labels, "Sinusal") == at(labels, "Regular") == 0


@pytest.mark.parametrize(("code", "acute"), [("161+330", 1), ("161+334", 1), ("161+332", 0), ("161", -1), ("1", 0)])
def test_the_age_of_an_infarction(code: str, acute: int) -> None:
    assert at(from_aha(f"20;{code}"), "Acute MI") == acute


@pytest.mark.parametrize("modifier", [301, 302, 312])
def test_what_is_only_considered_is_left_open(modifier: int) -> None:
    assert at(from_aha(f"20;142+{modifier}"), "Left ventricular hypertrophy") == -1
    assert at(from_aha("20;142+315"), "Left ventricular hypertrophy") == 1, "probable"
    assert at(from_aha("20"), "Left ventricular hypertrophy") == 0


def test_anything_else_is_an_error() -> None:
    for text in ("", "AFIB", "22;;60", "22,60"):
        with pytest.raises(ValueError, match="no list of AHA statements"):
            from_aha(text)
