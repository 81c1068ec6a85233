"""The real collections, read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import LEADS, Lead
from agent.core.labels import index_of
from training.data.readers import LICENCES, READERS, _challenge_header
from training.data.recording import Recording, Rejected

pytestmark = pytest.mark.data


def usable(found: Iterator[Recording | Rejected], n: int) -> list[Recording]:
    return [r for r in islice(found, n) if isinstance(r, Recording)]


def test_mitdb(data_dir: Path) -> None:
    records = {r.record: r for r in usable(READERS["mitdb"](data_dir), 48)}
    assert len(records) == 48
    assert len({r.patient for r in records.values()}) == 47
    assert records["201"].patient == records["202"].patient
    first = records["100"]
    assert (first.leads, first.rate, first.age, first.sex) == ((Lead.II, Lead.V5), 360.0, 69.0, "M")
    assert first.signal.shape == (2, 650000)
    assert 0.5 < float(np.max(first.signal[0])) < 3.0  # mV
    assert records["114"].leads == (Lead.V5, Lead.II)  # the one record with its channels the other way round
    assert all(r.continuous and r.annotations is not None for r in records.values())


def test_cpsc2021(data_dir: Path) -> None:
    records = usable(READERS["cpsc2021_af"](data_dir), 18)
    assert len(records) == 18
    assert {r.patient for r in records} == {f"cpsc2021_af/{k}" for k in (101, 21, 35, 84, 8, 92)}
    assert all(r.leads == (Lead.I, Lead.II) for r in records)
    persistent = next(r for r in records if r.record == "data_84_1")
    assert persistent.annotations is not None
    assert persistent.annotations.spans[0].rhythm == "AFIB"


def test_ptbxl(data_dir: Path) -> None:
    records = usable(READERS["ptbxl500"](data_dir), 20)
    assert len(records) == 20
    first = records[0]
    assert (first.record, first.patient, first.age, first.sex) == ("00001_hr", "ptbxl/15709", 56.0, "F")
    assert (first.leads, first.signal.shape, first.rate) == (LEADS, (12, 5000), 500.0)
    i, ii, iii = first.signal[:3]
    np.testing.assert_allclose(iii, ii - i, atol=0.011)  # Einthoven, within the rounding
    assert first.labels[index_of("Sinusal")] == first.labels[index_of("Low voltage")] == 1


def test_challenge_records_agree_with_ptbxl(data_dir: Path) -> None:
    challenge = {r.record: r for r in usable(READERS["cinc2021_mix"](data_dir), 239)}
    assert len(challenge) == 239
    original = usable(READERS["ptbxl500"](data_dir), 1)[0]
    np.testing.assert_allclose(challenge["HR00001"].signal, original.signal, atol=1e-3)
    assert challenge["HR00001"].patient == original.patient
    assert challenge["HR00599"].patient == "ptbxl/4389"
    # wfdb rejects this header's date.
    georgia = challenge["E00001"]
    assert (georgia.leads, georgia.rate, georgia.age, georgia.sex) == (LEADS, 500.0, None, "F")
    assert georgia.labels[index_of("Sinusal")] == 1


def test_intensive_care_records(data_dir: Path) -> None:
    first = usable(READERS["cinc2015_alarms"](data_dir), 1)[0]
    assert first.leads == (Lead.II,)
    assert any("PLETH" in note for note in first.notes)
    assert any("channel V " in note for note in first.notes)
    assert (first.labels == -1).all()


def test_challenge_header_units() -> None:
    text = "X1 2 500 10\nX1.mat 16+24 1000/mv 16 0 1 2 0 I\nX1.mat 16+24 4.88(-3)/uV 16 0 1 2 0 II\n#Age: 5\n#Dx: 1,2\n"
    rate, names, gains, baselines, comments = _challenge_header(text)
    assert (rate, names, baselines, comments["Dx"]) == (500.0, ["I", "II"], [0.0, -3.0], "1,2")
    assert gains == pytest.approx([1000.0, 4880.0])
    with pytest.raises(ValueError, match="units per mV"):
        _challenge_header("X1 1 500 10\nX1.mat 16+24 1000/mmHg 16 0 1 2 0 I\n")


def test_a_folder_without_records_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "mitdb").mkdir()
    with pytest.raises(FileNotFoundError, match="ECG_DATA"):
        next(READERS["mitdb"](tmp_path))


def test_every_source_has_a_licence_that_lets_weights_go_on() -> None:
    assert LICENCES.keys() == READERS.keys()
    assert not any("SA" in licence.split("(")[0] for licence in LICENCES.values())
