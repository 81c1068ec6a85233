"""The two annotated collections of long two-lead recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import Lead
from training.data.readers.rhythms import cpsc2021, mitdb, recognise_cpsc2021, recognise_mitdb
from training.data.recording import Recording, Source

pytestmark = pytest.mark.data


def test_mitdb(data_dir: Path) -> None:
    folder = data_dir / "mitdb"
    assert recognise_mitdb(folder)
    assert not recognise_cpsc2021(folder)
    pending = {p.record: p for p in mitdb(Source("mitdb", "mitdb", folder))}
    assert len(pending) == 48
    records = {name: pending[name].load() for name in ("100", "114", "201", "202")}
    assert all(isinstance(r, Recording) and r.continuous and r.annotations is not None for r in records.values())
    first, turned, tape, same = (r for r in records.values() if isinstance(r, Recording))
    assert (first.leads, first.rate, first.age, first.sex) == ((Lead.II, Lead.V5), 360.0, 69.0, "M")
    assert first.signal.shape == (2, 650000)
    assert 0.5 < float(np.max(first.signal[0])) < 3.0  # mV
    assert turned.leads == (Lead.V5, Lead.II)  # the one record with its channels the other way round
    assert tape.patient == same.patient == "mitdb/201"


def test_cpsc2021(data_dir: Path) -> None:
    folder = data_dir / "cpsc2021_af"
    assert recognise_cpsc2021(folder)
    assert not recognise_mitdb(folder)
    records = [p.load() for p in cpsc2021(Source("cpsc2021_af", "cpsc2021", folder))]
    read = {r.record: r for r in records if isinstance(r, Recording)}
    assert len(read) == 18
    assert {r.patient for r in read.values()} == {f"cpsc2021_af/{k}" for k in (101, 21, 35, 84, 8, 92)}
    assert all(r.leads == (Lead.I, Lead.II) for r in read.values())
    persistent = read["data_84_1"].annotations
    assert persistent is not None
    assert persistent.spans[0].rhythm == "AFIB"
