"""PTB-XL in its own layout and as the part at hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import LEADS
from agent.core.labels import index_of
from training.data.readers.ptbxl import read, recognise, years
from training.data.recording import Recording, Rejected, Source

Write = Callable[..., np.ndarray]


@pytest.mark.data
def test_the_real_ones(data_dir: Path) -> None:
    folder = data_dir / "ptbxl500"
    assert recognise(folder)
    found = [p.load() for p in islice(read(Source("ptbxl500", "ptbxl", folder)), 20)]
    first = found[0]
    assert isinstance(first, Recording)
    assert (first.record, first.patient, first.age, first.sex) == ("00001_hr", "ptbxl/15709", 56.0, "F")
    assert (first.leads, first.signal.shape, first.rate) == (LEADS, (12, 5000), 500.0)
    assert first.report.startswith("sinusrhythmus")
    i, ii, iii = first.signal[:3]
    np.testing.assert_allclose(iii, ii - i, atol=0.011)  # Einthoven, within the rounding
    assert first.labels[index_of("Sinusal")] == first.labels[index_of("Low voltage")] == 1


@pytest.mark.parametrize("low", [False, True])
def test_the_full_layout(tmp_path: Path, write_record: Write, low: bool) -> None:
    folder = "records100" if low else "records500"
    ending = "lr" if low else "hr"
    expected = write_record(tmp_path / folder / "21000" / f"21837_{ending}", rate=100 if low else 500)
    (tmp_path / "ptbxl_database.csv").write_text(
        "ecg_id,patient_id,age,sex,site,report,scp_codes,heart_axis,infarction_stadium1,infarction_stadium2,filename_lr,filename_hr\n"
        "21837,17180.0,300.0,0,2.0,ekg,\"{'AFIB': 0.0}\",,,,records100/21000/21837_lr,records500/21000/21837_hr\n"
        "7,1.0,40,1,,,{},,,,records100/00000/00007_lr,records500/00000/00007_hr\n"
    )
    there, missing = (p.load() for p in read(Source("ptb-xl", "ptbxl", tmp_path)))
    assert isinstance(there, Recording)
    np.testing.assert_allclose(there.signal, expected, atol=1e-6)
    assert (there.record, there.patient, there.age, there.sex) == (f"21837_{ending}", "ptbxl/17180", 90.0, "M")
    assert there.labels[index_of("Afib")] == 1
    assert isinstance(missing, Rejected)
    assert (missing.record, missing.reason) == ("00007_hr", "unreadable")


def test_ages() -> None:
    assert [years(t) for t in ("56.0", "300.0", "", "-3")] == [56.0, 90.0, None, None]
