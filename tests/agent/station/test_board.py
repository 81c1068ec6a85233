"""What the tiles keep and show, and what they must not."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.core.bundle.manifest import Manifest
from agent.core.census import Arrived, Departure, Left, Stay, Updated
from agent.core.ecg import Encounter, Lead, Priority
from agent.station.board import FRAME, Board
from agent.station.trace import RECORD

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


def test_alerts_open_renew_and_close_most_urgent_first(board: Board, make: SimpleNamespace) -> None:
    board.alert(make.alert())
    board.alert(make.alert(number=2))
    assert [(a["title"], a["priority"], a["acknowledged"]) for a in _tile(board)["alerts"]] == [
        ("Atrial fibrillation", "PM", [])
    ]
    board.delivered("hl7", "m1")
    board.delivered("mqtt", "m2")
    board.delivered("mqtt", "unknown")
    assert _tile(board)["alerts"][0]["acknowledged"] == ["hl7", "mqtt"]
    board.alert(make.alert(active=False, number=3))
    assert _tile(board)["alerts"] == []


def test_a_bed_with_an_open_alert_is_not_forgotten(board: Board, make: SimpleNamespace) -> None:
    board.samples(make.samples(), "mqtt")
    board.alert(make.alert(priority=Priority.HIGH))
    board.forget("st/icu/1")
    assert board.names() == ["st/icu/1"]
    roster = board.roster
    board.alert(make.alert(active=False))
    assert board.names() == []
    assert board.roster > roster
    board.forget("never/seen/1")


def test_a_forgotten_bed_goes_with_its_last_alert(board: Board, make: SimpleNamespace) -> None:
    board.samples(make.samples(), "mqtt")
    board.alert(make.alert())
    board.forget("st/icu/1")
    board.alert(make.alert(active=False))
    assert board.names() == []
    board.samples(make.samples(), "mqtt")
    board.alert(make.alert())
    board.forget("st/icu/1")
    board.samples(make.samples(start=1001.0), "mqtt")
    board.alert(make.alert(active=False))
    assert board.names() == ["st/icu/1"], "the monitor was switched on again"


def test_nothing_of_one_patient_is_shown_as_anothers(manifest: Manifest, make: SimpleNamespace) -> None:
    board = _board(manifest, show_patients=True)
    for bed in ("st/icu/1", "st/icu/2"):
        board.samples(make.samples(bed), "hl7", Stay(0, ADA))
        board.prediction(make.prediction(bed, [0.1, 0.9, 0.1, 0.1]))
    board.tick(1.0)
    board.encounter(Left("st/icu/1", 1, Departure.PATIENT_CHANGED))
    assert (_tile(board)["findings"], _tile(board)["patient"]) == ([], None)
    board.encounter(Arrived("st/icu/1", 1, BOB))
    board.tick(2.0)
    assert _tile(board)["patient"] == "OTHER"
    assert _tile(board, "st/icu/2")["findings"] and _tile(board, "st/icu/2")["patient"] == "CANARY, ADA"
    _, count = FRAME.unpack_from(board.history())
    assert count == 1, "the strip before the change is gone"
    board.encounter(Left("never/seen/1", 1, Departure.DISCHARGE))
    assert len(board.names()) == 2


def test_signal_of_another_encounter_wipes_also_where_nobody_told_of_it(
    manifest: Manifest, make: SimpleNamespace
) -> None:
    for other_device in ("m1", "m2"):
        board = _board(manifest, show_patients=True)
        board.samples(make.samples(), "hl7", Stay(0, ADA))
        board.prediction(make.prediction("st/icu/1", [0.1, 0.9, 0.1, 0.1]))
        board.samples(make.samples(start=1001.0, device=other_device), "hl7", Stay(1, BOB))
        assert (_tile(board)["findings"], _tile(board)["patient"]) == ([], "OTHER")


def test_what_more_is_known_of_a_patient_changes_his_name_and_nothing_else(
    manifest: Manifest, make: SimpleNamespace
) -> None:
    board = _board(manifest, show_patients=True)
    board.samples(make.samples(), "hl7", Stay(3, ADA))
    board.prediction(make.prediction("st/icu/1", [0.1, 0.9, 0.1, 0.1], generation=3))
    seen = board.revision
    board.encounter(Updated("st/icu/1", 3, dataclasses.replace(ADA, family_name="NEW")))
    assert (_tile(board)["findings"] != [], _tile(board)["patient"]) == (True, "NEW, ADA")
    assert len(board.tiles(seen, 0.0)) == 1


def test_the_lead_of_the_strip(board: Board, make: SimpleNamespace) -> None:
    board.samples(make.samples("a/b/1", leads=(Lead.V5, Lead.I)), "mqtt")
    board.samples(make.samples("a/b/2", leads=(Lead.V6, Lead.II)), "mqtt")
    assert _tile(board, "a/b/1")["lead"] == "I"
    assert _tile(board, "a/b/2")["lead"] == "II"


def test_a_second_device_takes_over_only_when_the_first_is_silent(board: Board, make: SimpleNamespace) -> None:
    board.samples(make.samples(received=0.0), "mqtt")
    board.samples(make.samples(received=1.0, device="m2", leads=(Lead.V1,)), "mqtt")
    assert _tile(board)["lead"] == "II"
    board.samples(make.samples(received=20.0, device="m2", leads=(Lead.V1,)), "mqtt")
    assert _tile(board)["lead"] == "V1"


def test_heart_rate_comes_and_goes_with_the_signal(board: Board, make: SimpleNamespace) -> None:
    t = np.arange(250) / 250.0
    beat = np.exp(-0.5 * ((t - 0.3) / 0.012) ** 2)
    for k in range(10):
        board.samples(make.samples(start=1000.0 + k, received=float(k), value=beat), "mqtt")
    assert _tile(board)["rate"] is None, "nobody looks, nothing is computed"
    board.tick(9.5)
    assert _tile(board)["rate"] == 60.0
    board.tick(30.0)
    assert _tile(board)["rate"] is None


def test_viewers_that_are_behind_lose_frames_and_learn_how_many(board: Board, make: SimpleNamespace) -> None:
    for k in range(40):
        board.samples(make.samples(start=1000.0 + k, received=float(k)), "mqtt")
        board.tick(float(k))
    frames, lost = board.frames(0)
    assert (len(frames), lost, board.next_frame) == (32, 8, 40)
    frames, lost = board.frames(38)
    assert (len(frames), lost) == (2, 0)
    magic, count = FRAME.unpack_from(frames[-1])
    assert (magic, count) == (b"ECG1", 1)
    assert RECORD.unpack_from(frames[-1], FRAME.size)[4] == 39 * 250
    assert board.frames(40) == ([], 0)


def test_only_changed_tiles_are_told(board: Board, make: SimpleNamespace) -> None:
    for bed in ("a/b/1", "a/b/2"):
        board.samples(make.samples(bed), "mqtt")
    seen = board.revision
    assert board.tiles(seen, 0.0) == []
    board.samples(make.samples("a/b/1", start=1001.0), "mqtt")
    assert board.tiles(seen, 0.0) == [], "a block of signal is no change of state"
    board.prediction(make.prediction("a/b/2", [0.5, 0.5, 0.5, 0.5]))
    assert [t["bed"] for t in board.tiles(seen, 0.0)] == ["a/b/2"]


def test_a_request_stands_until_a_later_window_is_answered(
    manifest: Manifest, further: Manifest, make: SimpleNamespace
) -> None:
    board = _board(manifest, further)
    assert not board.request("st/icu/1", "lvef", 100.0), "no such bed"
    board.samples(make.samples(), "mqtt")
    assert not board.request("st/icu/1", "deepecg-sl-test", 100.0), "the first model looks at everything"
    seen = board.revision
    assert board.request("st/icu/1", "lvef", 100.0)
    assert [t["models"][0]["requested"] for t in board.tiles(seen, 100.0)] == [True]
    board.prediction(make.prediction("st/icu/1", [0.2], 99.0, model="lvef/1.0"))
    assert _tile(board)["models"][0]["requested"], "that window came before"
    board.prediction(make.prediction("st/icu/1", [0.2], 104.0, model="lvef/1.0"))
    assert not _tile(board)["models"][0]["requested"]
    board.request("st/icu/1", "lvef", 110.0)
    board.encounter(Left("st/icu/1", 1, Departure.PATIENT_CHANGED))
    assert not _tile(board)["models"][0]["requested"], "it was asked of another patient"


def test_a_sender_that_invents_beds_or_rates_does_no_harm(board: Board, make: SimpleNamespace) -> None:
    board.samples(make.samples("a/b/fast", rate=1e6, seconds=1e-4), "mqtt")
    assert _tile(board, "a/b/fast")["lead"] is None
    block = make.samples("a/b/odd", value=np.inf)
    for start in (float("nan"), float("inf"), 1e300, -1e300, 5.0):
        board.samples(dataclasses.replace(block, start=start), "mqtt")
    board.tick(1.0)
    for i in range(3000):
        board.samples(dataclasses.replace(block, bed=f"x/y/{i}"), "mqtt")
    assert len(board.names()) == 2048
    board.alert(make.alert("real/bed/1"))
    assert _tile(board, "real/bed/1")["alerts"], "an alert is always shown"
