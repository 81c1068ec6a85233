"""A hospital's own table beside its recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.labels import index_of
from training.data.beside import Beside
from training.data.recording import Recording, Source

Make = Callable[..., Recording]


def source(folder: Path, text: str) -> Source:
    (folder / "records.csv").write_text(text)
    return Source("mine", "wfdb", folder, b"key")


def test_it_adds_what_is_known_and_leaves_the_rest(tmp_path: Path, make_recording: Make) -> None:
    here = source(
        tmp_path,
        "record,patient,age,sex,report,Afib,rSR' in V1-V2,target_lvef\n"
        "x,4711,61,f,Sinusrhythmus,0,1.0,35.5\ny,,,,,,,\n",
    )
    beside = Beside(here)
    x = beside.complete(make_recording(record="x", age=20.0, site="north"), "x")
    assert (x.patient, x.age, x.sex, x.site) == (here.pseudonym("4711"), 61, "F", "north")
    assert (x.report, x.targets) == ("Sinusrhythmus", {"lvef": 35.5})
    assert x.labels[[index_of("Afib"), index_of("rSR' in V1-V2"), index_of("Sinusal")]].tolist() == [0, 1, -1]
    for name in ("y", "z"):
        same = beside.complete(make_recording(record=name, age=20.0, sex="M"), name)
        assert (same.patient, same.age, same.sex, same.targets) == (name, 20.0, "M", {})
        assert (same.labels == -1).all()


def test_without_a_table_nothing_changes(tmp_path: Path, make_recording: Make) -> None:
    recording = make_recording()
    assert Beside(Source("mine", "wfdb", tmp_path)).complete(recording, "x") is recording


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("record,LVEF\nx,3\n", "call another task's truth target_LVEF"),
        ("name,Afib\nx,1\n", "no column record"),
        ("record,Afib\nx,yes\n", "gives 'yes' for 'Afib'; write 1, 0 or nothing"),
        ("record,target_lvef\nx,low\n", "gives 'low' for 'target_lvef'; write a number"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, make_recording: Make, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Beside(source(tmp_path, text)).complete(make_recording(record="x"), "x")
