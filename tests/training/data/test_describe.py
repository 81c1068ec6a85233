"""The counts of a dataset, against a count by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.ecg import LEADS
from training.data import DatasetSettings, Source, prepare
from training.data.describe import describe, text

Write = Callable[..., object]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, write_record: Write) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for i in range(4):
        write_record(folder / str(i), seed=i, leads=LEADS if i else LEADS[:2], seconds=20.0 if i == 1 else 10.0)
    write_record(folder / "copy", seed=2)
    rows = ["record,patient,age,sex,Afib,target_lqts", "0,a,39.9,M,0,", "1,b,40,F,1,1", "2,b,75,F,1,0", "3,c,,,0,0"]
    (folder / "records.csv").write_text("\n".join(rows) + "\n")
    prepare(folder / "d", [Source("mine", "wfdb", folder)], DatasetSettings(), progress=False)
    return folder / "d"


def test_the_counts(dataset: Path) -> None:
    found = describe(dataset)
    assert (found["windows"], found["recordings"], found["patients"]) == (6, 4, 3)
    assert found["sources"]["mine"]["refused"] == {"duplicate": 1}
    assert found["labels"] == {
        "Afib": {"positive_patients": 1, "negative_patients": 2, "positive_windows": 4, "negative_windows": 2}
    }
    assert found["sex"] == {"F": 1, "M": 1, "unknown": 1}
    assert found["age"] == {"18-39": 1, "40-59": 1, "75+": 1, "unknown": 1}
    assert found["leads"] == {"all twelve": 5, "I II": 1}
    assert found["targets"] == {"lqts": {"0": 2, "1": 1}}


def test_the_tables_say_the_same(dataset: Path) -> None:
    said = text(describe(dataset))
    assert "6 windows of 4 recordings of 3 patients" in said
    assert "duplicate 1" in said
    assert "  all twelve: 5" in said
    assert "Afib" in said
    assert "Afib" not in text(describe(dataset), brief=True)
