"""SCP statements as labels: what is there, what is not, what nobody said."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from agent.core.labels import LABEL_NAMES, index_of
from training.data.codes.scp import SCP, SCP_INFARCTION, from_scp
from training.data.recording import Labels


def said(labels: Labels) -> set[str]:
    return {name for name in LABEL_NAMES if labels[index_of(name)] == 1}


def at(labels: Labels, name: str) -> int:
    return int(labels[index_of(name)])


@pytest.mark.data
def test_every_scp_code_in_the_map_exists(data_dir: Path) -> None:
    with (data_dir / "ptbxl500" / "scp_statements.csv").open(newline="", encoding="utf-8") as file:
        known = {row[0] for row in csv.reader(file)}
    assert set(SCP) | SCP_INFARCTION <= known


def test_normal_sinus_rhythm() -> None:
    labels = from_scp({"NORM": 100.0, "SR": 0.0})
    assert said(labels) == {"Sinusal", "Regular", "Monomorph"}
    assert at(labels, "Afib") == at(labels, "Irregularly irregular") == at(labels, "Bradycardia") == 0
    # SCP cannot say where the ST segment is raised, nor is the axis column filled.
    assert at(labels, "ST elevation (inferior - II, III, aVF)") == at(labels, "Left axis deviation") == -1


def test_atrial_fibrillation_is_not_sinus_and_not_regular() -> None:
    labels = from_scp({"AFIB": 0.0, "LVH": 100.0})
    assert said(labels) == {"Afib", "Irregularly irregular", "Left ventricular hypertrophy"}
    assert at(labels, "Sinusal") == at(labels, "Regular") == 0
    assert at(labels, "Atrial flutter") == -1  # often one report, "fibrillation or flutter"
    assert at(labels, "Bradycardia") == -1  # SBRAD is a sinus statement


def test_two_rhythms_leave_sinus_open_but_keep_fibrillation() -> None:
    labels = from_scp({"SR": 0.0, "AFIB": 0.0})
    assert (at(labels, "Afib"), at(labels, "Sinusal"), at(labels, "Regular")) == (1, -1, 0)


def test_no_rhythm_statement_says_nothing_about_rhythm() -> None:
    labels = from_scp({"LVH": 100.0})
    assert at(labels, "Sinusal") == at(labels, "Afib") == at(labels, "Regular") == -1
    assert at(labels, "Right bundle branch block") == 0


def test_ectopy_and_sinus_arrhythmia_leave_regularity_open() -> None:
    for code in ("PVC", "PAC", "SARRH"):
        assert at(from_scp({"SR": 0.0, code: 100.0}), "Regular") == -1
    assert at(from_scp({"SR": 0.0, "PVC": 100.0}), "Monomorph") == -1


def test_a_considered_diagnosis_is_left_open() -> None:
    assert at(from_scp({"SR": 0.0, "CLBBB": 35.0}), "Left bundle branch block") == -1
    assert at(from_scp({"SR": 0.0, "CLBBB": 50.0}), "Left bundle branch block") == 1
    assert at(from_scp({"SR": 0.0, "ILBBB": 100.0}), "Left bundle branch block") == -1


def test_pacing_hides_what_lies_beneath() -> None:
    labels = from_scp({"PACE": 0.0})
    assert said(labels) == {"Ventricular paced"}
    for name in ("Sinusal", "Afib", "Left bundle branch block", "Left axis deviation", "Prolonged QT"):
        assert at(labels, name) == -1


@pytest.mark.parametrize(
    ("axis", "left", "right"), [("", -1, -1), ("MID", 0, 0), ("ALAD", 1, 0), ("LAD", -1, -1), ("ARAD", 0, 1)]
)
def test_axis_column(axis: str, left: int, right: int) -> None:
    labels = from_scp({"SR": 0.0, "NORM": 100.0}, axis)
    assert (at(labels, "Left axis deviation"), at(labels, "Right axis deviation")) == (left, right)


@pytest.mark.parametrize(("stage", "acute"), [("Stadium I", 1), ("Stadium III", 0), ("unknown", -1), ("", -1)])
def test_stage_of_an_infarction(stage: str, acute: int) -> None:
    assert at(from_scp({"SR": 0.0, "IMI": 100.0}, stages=[stage, ""]), "Acute MI") == acute
    assert at(from_scp({"SR": 0.0, "NORM": 100.0}), "Acute MI") == 0
