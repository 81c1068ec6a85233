"""Six columns: each that is false denies its own label and nothing else."""

from __future__ import annotations

from agent.core.labels import LABEL_NAMES, index_of
from training.data.codes.code15 import CODE15, from_code15
from training.data.recording import Labels


def said(labels: Labels) -> set[str]:
    return {name for name in LABEL_NAMES if labels[index_of(name)] == 1}


def at(labels: Labels, name: str) -> int:
    return int(labels[index_of(name)])


def columns(*there: str) -> dict[str, bool]:
    return {name: name in there for name in CODE15}


def test_none_of_the_six() -> None:
    labels = from_code15(columns())
    assert said(labels) == set()
    denied = {name for name in LABEL_NAMES if at(labels, name) == 0}
    assert denied == {
        "Afib",
        "1st degree AV block",
        "Bradycardia",
        "Left bundle branch block",
        "Right bundle branch block",
    }


def test_fibrillation_with_a_bundle_branch_block() -> None:
    labels = from_code15(columns("AF", "LBBB"))
    assert said(labels) == {"Afib", "Irregularly irregular", "Left bundle branch block"}
    assert at(labels, "Sinusal") == 0
    assert at(labels, "Bradycardia") == -1, "SB is a sinus statement"


def test_sinus_bradycardia_and_tachycardia() -> None:
    assert {"Sinusal", "Bradycardia", "Regular"} <= said(from_code15(columns("SB")))
    fast = from_code15(columns("ST"))
    assert (at(fast, "Sinusal"), at(fast, "Bradycardia"), at(fast, "Afib")) == (1, 0, 0)
