"""SNOMED codes as labels: absence counts only where a collection could say it."""

from __future__ import annotations

import pytest

from agent.core.labels import LABEL_NAMES, index_of
from training.data.codes.snomed import from_snomed
from training.data.recording import Labels


def said(labels: Labels) -> set[str]:
    return {name for name in LABEL_NAMES if labels[index_of(name)] == 1}


def at(labels: Labels, name: str) -> int:
    return int(labels[index_of(name)])


def test_absence_counts_only_where_the_collection_could_say_it() -> None:
    sinus = ["426783006"]
    assert at(from_snomed(sinus, "JS"), "Prolonged QT") == 0
    assert at(from_snomed(sinus, "A"), "Prolonged QT") == -1  # not one of the nine CPSC classes
    assert at(from_snomed(sinus, "A"), "Afib") == 0
    assert at(from_snomed(sinus, "Q"), "Afib") == -1
    assert at(from_snomed(["164889003"], "Q"), "Afib") == 1


def test_snomed_conduction_and_unknown_code() -> None:
    labels = from_snomed(["426177001", "713426002", "270492004", "999"], "E")
    assert at(labels, "Right bundle branch block") == -1
    assert {"Sinusal", "Bradycardia", "rSR' in V1-V2", "1st degree AV block"} <= said(labels)


def test_unknown_collection_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rule for records X"):
        from_snomed([], "X")
