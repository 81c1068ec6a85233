"""The table on disk: written from real recordings, read back by index."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from agent.core.ecg import LEADS, Lead, Window
from agent.core.filters import Preprocessing, prepare
from agent.core.labels import index_of
from agent.core.leads import LEAD_INDEX, derive
from agent.core.windowing import Windower, WindowingSettings
from agent.sources.replay import bed_of, wfdb_samples
from training.data.readers import cpsc2021
from training.data.recording import Recording
from training.data.table import WindowTable, prepare_all

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def cache(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    prepare_all(data_dir, folder, sources=["cinc2021_mix", "cpsc2021_af"])
    return folder


def test_a_batch_is_what_the_ward_would_feed_the_network(cache: Path, data_dir: Path) -> None:
    table = WindowTable.load(cache)
    i = int(np.flatnonzero((table.record == "data_8_2") & (table.start == 25.0))[0])
    x, mask = table.batch(np.array([i]))
    recording = next(r for r in cpsc2021(data_dir) if isinstance(r, Recording) and r.record == "data_8_2")
    cut = recording.signal[:, 25 * 200 : 35 * 200]
    live, _ = derive({Lead.I: cut[0], Lead.II: cut[1]}, cut.shape[1])
    expected = prepare(live[None], 200.0, Preprocessing())
    assert [lead for lead, there in zip(LEADS, mask[0], strict=True) if there] == list(LEADS[:6])
    np.testing.assert_allclose(x, expected, atol=0.5)  # network units of 4.8 µV: the rounding to half precision
    measured, only = table.batch(np.array([i]), derive=False)
    assert only.sum() == 2
    assert not measured[0, LEAD_INDEX[Lead.III]].any()
    assert table.labels[i, index_of("Afib")] == 1


def test_training_windows_are_the_line_s_own(cache: Path, data_dir: Path) -> None:
    """The same record replayed through the windower gives the same network input: training sees what serving does."""
    table = WindowTable.load(cache)
    windower = Windower(WindowingSettings())
    start = 1000.0 + crc32(bed_of("data_92_19").encode()) % 5  # on the grid of the record's bed
    blocks = islice(wfdb_samples(data_dir / "cpsc2021_af" / "data_92_19", start=start), 60)
    windows = [made for block in blocks for made in windower.push(block) if isinstance(made, Window)]
    assert len(windows) >= 9
    for window in windows:
        i = np.flatnonzero((table.record == "data_92_19") & (np.abs(table.start - (window.start - start)) < 1e-3))
        trained, mask = table.batch(i)
        live = prepare(window.samples[None], window.rate, Preprocessing())
        assert window.leads == tuple(lead for lead, there in zip(LEADS, mask[0], strict=True) if there)
        np.testing.assert_allclose(trained, live, atol=0.5)


def test_twelve_lead_windows_come_whole_and_in_any_order(cache: Path) -> None:
    table = WindowTable.load(cache)
    twelve = np.flatnonzero(table.lead_mask.sum(axis=1) == 12)[:5]
    x, mask = table.batch(twelve[::-1])
    assert mask.all()
    np.testing.assert_array_equal(x[0], np.asarray(table.rows[table.first_row[twelve[-1]] :][:12], np.float32))
    assert len(table) == len(table.labels) == len(table.start)


def test_folds_never_divide_a_patient_and_leave_the_demo_out(cache: Path) -> None:
    table = WindowTable.load(cache)
    folds = table.folds(5)
    for patient in np.unique(table.patient):
        assert len(np.unique(folds[table.patient == patient])) == 1
    assert (folds[table.patient == "cpsc2021_af/84"] == -1).all()
    assert set(np.unique(folds)) == {-1, 0, 1, 2, 3, 4}


def test_evidence_counts_leave_the_demo_out(cache: Path) -> None:
    evidence = json.loads((cache / "evidence.json").read_text("utf-8"))
    assert evidence["Afib"]["positive_patients_by_source"]["cpsc2021_af"] == 3
    assert evidence["Afib"]["held_out_positive_patients"] == 1
    assert evidence["Afib"]["continuous_negative_hours"] > 0
    rejected = json.loads((cache / "rejected.json").read_text("utf-8"))
    assert {entry["reason"] for entry in rejected} <= {"flat", "duplicate", "invalid", "too_short", "no_leads"}


def test_no_table_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare_all"):
        WindowTable.load(tmp_path)
