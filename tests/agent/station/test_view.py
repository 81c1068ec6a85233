"""What a viewer is told of a tile."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from agent.core.bundle.manifest import Manifest
from agent.core.census import Departure, Left, Stay, Updated
from agent.core.ecg import Encounter, Gap, GapReason, Lead
from agent.station.board import Board

ADA = Encounter(patient_ids=("1^^^H^MR",), family_name="CANARY", given_name="ADA", birth_date="19300101")
BOB = Encounter(patient_ids=("2^^^H^MR",), family_name="OTHER")


@pytest.fixture
def board(manifest: Manifest) -> Board:
    return _board(manifest)


def _board(manifest: Manifest, *further: Manifest, show_patients: bool = False) -> Board:
    return Board(
        manifest,
        further=further,
        lead=Lead.II,
        seconds=12.0,
        findings=3,
        show_patients=show_patients,
        synthetic=frozenset({"st/icu/9"}),
    )


def _tile(board: Board, bed: str = "st/icu/1", now: float = 0.0) -> dict[str, Any]:
    return next(tile for tile in board.tiles(-1, now) if tile["bed"] == bed)


def test_findings_are_those_with_evidence_in_plain_words(board: Board, make: SimpleNamespace) -> None:
    board.prediction(make.prediction("st/icu/1", [0.1, 0.91, 0.4, 0.99]))
    findings = _tile(board)["findings"]
    assert [f["label"] for f in findings] == ["Afib", "Right bundle branch block", "Sinusal"], "no Brugada: no evidence"
    assert findings[0]["text"] == "Atrial fibrillation"
    assert findings[0]["probability"] == pytest.approx(0.91)
    assert [f["threshold"] for f in findings] == [0.8, None, None]
    assert _tile(board)["provenance"] == {
        **dict.fromkeys(["I", "II"], "measured"),
        **dict.fromkeys(["III", "aVR", "aVL", "aVF"], "derived"),
        **dict.fromkeys(["V1", "V2", "V3", "V4", "V5", "V6"], "missing"),
    }


def test_state_is_json_and_the_mark_of_the_generator_is_there(board: Board, make: SimpleNamespace) -> None:
    for bed in ("st/icu/1", "st/icu/9"):
        board.samples(make.samples(bed, received=10.0), "hl7")
        board.prediction(make.prediction(bed, [0.9, 0.1, 0.1, 0.1]))
    board.alert(make.alert())
    board.gap(Gap("st/icu/1", "m1", 0.0, 1.0, GapReason.INVALID), 11.0)
    tiles = json.loads(json.dumps(board.tiles(-1, 12.5), allow_nan=False))
    assert [(t["bed"], t["synthetic"], t["transport"], t["lead"], t["age"]) for t in tiles] == [
        ("st/icu/1", False, "hl7", "II", 2.5),
        ("st/icu/9", True, "hl7", "II", 2.5),
    ]
    assert tiles[0]["gap"] == {"reason": "invalid", "age": 1.5}


@pytest.mark.parametrize("show", [False, True])
def test_names_only_where_asked_for(manifest: Manifest, make: SimpleNamespace, show: bool) -> None:
    board = _board(manifest, show_patients=show)
    board.samples(make.samples(), "hl7", Stay(0, ADA))
    board.encounter(Updated("st/icu/1", 0, ADA))
    assert ("CANARY" in json.dumps(board.tiles(-1, 0.0))) == show


def test_what_a_further_model_says_stands_beside_the_first(
    manifest: Manifest, further: Manifest, make: SimpleNamespace
) -> None:
    board = _board(manifest, further)
    board.prediction(make.prediction("st/icu/1", [0.1, 0.9, 0.1, 0.1], 100.0))
    assert _tile(board, now=105.0)["models"] == [
        {"model": "lvef", "findings": [], "time": None, "age": None, "requested": False}
    ]
    board.prediction(make.prediction("st/icu/1", [0.83], 100.0, model="lvef/1.0"))
    (opinion,) = _tile(board, now=160.0)["models"]
    (finding,) = opinion["findings"]
    assert (finding["label"], finding["probability"], finding["threshold"]) == ("LVEF <= 40", 0.83, 0.8)
    assert (opinion["age"], opinion["time"]) == (60.0, 1010.0)
    assert _tile(board)["findings"][0]["label"] == "Afib", "the first model's are as they were"
    board.prediction(make.prediction("st/icu/1", [0.5, 0.5], 200.0, model="lvef/1.0"))
    assert _tile(board)["models"][0]["findings"] == [], "of another shape: not misread"
    board.encounter(Left("st/icu/1", 1, Departure.PATIENT_CHANGED))
    assert _tile(board)["models"][0]["age"] is None, "it was another patient's"


def test_a_prediction_of_another_model_is_not_misread(board: Board, make: SimpleNamespace) -> None:
    board.prediction(make.prediction("a/b/1", [0.5, 0.5]))
    assert _tile(board, "a/b/1")["findings"] == []
