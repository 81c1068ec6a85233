"""Intensive-care recordings before an alarm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import Lead
from agent.core.labels import index_of
from training.data.codes.vocabulary import BRADY, VT
from training.data.readers.alarms import Alarm, alarm_labels, read, recognise
from training.data.recording import Annotations, Recording, Source
from training.data.windows import window_labels


@pytest.mark.data
def test_the_real_ones(data_dir: Path) -> None:
    folder = data_dir / "cinc2015_alarms"
    assert recognise(folder)
    first = next(read(Source("cinc2015_alarms", "cinc2015", folder))).load()
    assert isinstance(first, Recording)
    assert (first.leads, first.continuous) == ((Lead.II,), True)
    assert any("PLETH" in note for note in first.notes)
    assert any("channel V " in note for note in first.notes)
    assert (window_labels(first, 170.0, 10.0) == -1).all(), "a false alarm of asystole says nothing"


@pytest.mark.data
def test_the_challenge_s_own_list_says_the_same(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "cinc2015_alarms"
    for part in folder.glob("v102s.*"):
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "ALARMS").write_text("v102s,Ventricular_Tachycardia,1\n")
    (pending,) = read(Source("cinc2015_alarms", "cinc2015", tmp_path))
    recording = pending.load()
    assert isinstance(recording, Recording)
    assert window_labels(recording, 170.0, 10.0)[index_of(VT)] == 1
    assert (window_labels(recording, 165.0, 10.0) == -1).all()


@pytest.mark.parametrize(
    ("kind", "is_true", "label", "value"),
    [
        ("Ventricular_Tachycardia", True, VT, 1),
        ("Ventricular_Tachycardia", False, VT, 0),
        ("Bradycardia", True, BRADY, 1),
        ("Bradycardia", False, BRADY, -1),
        ("Tachycardia", True, BRADY, 0),
        ("Tachycardia", False, BRADY, -1),
        ("Ventricular_Flutter_Fib", False, VT, -1),
        ("Asystole", True, VT, -1),
    ],
)
def test_only_the_seconds_before_the_alarm_and_only_its_own_label_are_known(
    kind: str, is_true: bool, label: str, value: int
) -> None:
    nothing = Annotations((), np.empty(0), (), lambda *_: np.empty(0, np.int8))
    at_the_alarm = alarm_labels(Alarm(kind, is_true), 300.0, nothing, 290.0, 10.0)
    assert at_the_alarm[index_of(label)] == value
    assert (np.delete(at_the_alarm, index_of(label)) == -1).all()
    for start, seconds in ((285.0, 10.0), (295.0, 10.0), (295.0, 5.0)):
        assert (alarm_labels(Alarm(kind, is_true), 300.0, nothing, start, seconds) == -1).all()
