"""The table of a dataset: written from real recordings, read back by index."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from agent.core.ecg import LEADS, Lead, Window
from agent.core.labels import index_of
from agent.core.leads import LEAD_INDEX, derive
from agent.core.preprocessing import Preprocessing, prepare
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower
from agent.sources.replay import bed_of, read_record, samples_from_recording
from training.data import DatasetSettings, Source, WindowTable, evidence_counts
from training.data.prepare import prepare as prepare_dataset
from training.data.prepare import recordings
from training.data.recording import Recording

MakeTable = Callable[..., WindowTable]
MV = Preprocessing(gain=1.0)
STEP = 5.1e-4
"""mV: half of a stored step, and float32."""


@pytest.fixture(scope="module")
def dataset(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    names = {"cinc2021_mix": "cinc2021", "cpsc2021_af": "cpsc2021"}
    prepare_dataset(
        folder, [Source(name, f, data_dir / name) for name, f in names.items()], DatasetSettings(), progress=False
    )
    return folder


@pytest.mark.data
def test_a_batch_is_what_the_ward_would_feed_the_network(dataset: Path, data_dir: Path) -> None:
    table = WindowTable.open(dataset)
    i = int(np.flatnonzero((table.record == "data_8_2") & (table.start == 25.0))[0])
    x, mask = table.batch(np.array([i]))
    read = recordings(Source("cpsc2021_af", "cpsc2021", data_dir / "cpsc2021_af"))
    recording = next(r for r in read if isinstance(r, Recording) and r.record == "data_8_2")
    cut = recording.signal[:, 25 * 200 : 35 * 200]
    live, _ = derive({Lead.I: cut[0], Lead.II: cut[1]}, cut.shape[1])
    expected = prepare(live[None], 200.0, Preprocessing())
    assert table.preprocessing == Preprocessing(gain=1.0)
    assert [lead for lead, there in zip(LEADS, mask[0], strict=True) if there] == list(LEADS[:6])
    np.testing.assert_allclose(x * Preprocessing().gain, expected, atol=2 * STEP / 0.0048)
    measured, only = table.batch(np.array([i]), derive=False)
    assert only.sum() == 2
    assert not measured[0, LEAD_INDEX[Lead.III]].any()
    assert table.labels[i, index_of("Afib")] == 1


@pytest.mark.data
def test_training_windows_are_the_line_s_own(dataset: Path, data_dir: Path) -> None:
    """The same record replayed through the windower gives the same network input: training sees what serving does."""
    table = WindowTable.open(dataset)
    windower = Windower(WindowingSettings())
    bed = bed_of("data_92_19")
    start = 1000.0 + crc32(bed.encode()) % 5  # on the grid of the record's bed
    recording = read_record(data_dir / "cpsc2021_af" / "data_92_19")
    blocks = islice(samples_from_recording(recording, bed, start=start), 60)
    windows = [made for block in blocks for made in windower.push(block) if isinstance(made, Window)]
    assert len(windows) >= 9
    for window in windows:
        i = np.flatnonzero((table.record == "data_92_19") & (np.abs(table.start - (window.start - start)) < 1e-3))
        trained, mask = table.batch(i)
        live = prepare(window.samples[None], window.rate, MV)
        assert window.leads == tuple(lead for lead, there in zip(LEADS, mask[0], strict=True) if there)
        np.testing.assert_allclose(trained, live, atol=2 * STEP)


@pytest.mark.data
def test_folds_never_divide_a_patient_and_leave_the_demo_out(dataset: Path) -> None:
    table = WindowTable.open(dataset)
    folds = table.folds(5)
    for patient in np.unique(table.patient):
        assert len(np.unique(folds[table.patient == patient])) == 1
    assert (folds[table.patient == "cpsc2021_af/84"] == -1).all()
    assert set(np.unique(folds)) == {-1, 0, 1, 2, 3, 4}


@pytest.mark.data
def test_columns_come_from_the_sources(dataset: Path) -> None:
    table = WindowTable.open(dataset)
    assert table.sources == ("cinc2021_mix", "cpsc2021_af")
    assert not any(licence.share_alike for licence in table.licence)
    georgia = int(np.flatnonzero(table.record == "E00001")[0])
    assert (table.sex[georgia], table.site[georgia], table.source[georgia]) == ("F", "E", 0)
    assert np.isnan(table.age[georgia])
    assert np.nanmedian(table.age) > 40
    assert len(table) == len(table.labels) == len(table.start) == len(table.recording)
    assert len(np.unique(table.recording)) < len(table)


@pytest.mark.data
def test_evidence_counts_leave_the_demo_out(dataset: Path) -> None:
    evidence = evidence_counts(WindowTable.open(dataset))
    assert evidence["Afib"]["positive_patients_by_source"]["cpsc2021_af"] == 3
    assert evidence["Afib"]["held_out_positive_patients"] == 1
    assert evidence["Afib"]["continuous_negative_hours"] > 0


@pytest.mark.data
def test_pandas_reads_one_row_for_each_window(dataset: Path) -> None:
    import pandas as pd

    with sqlite3.connect(dataset / "table.sqlite") as database:
        frame = pd.read_sql("SELECT * FROM windows ORDER BY id", database)
    table = WindowTable.open(dataset)
    assert frame["record"].tolist() == table.record.tolist()
    assert np.frombuffer(b"".join(frame["labels"]), np.int8).reshape(-1, 77).tolist() == table.labels.tolist()
    assert {"age", "sex", "report", "noise", "einthoven", "clipped", "targets"} <= set(frame)


def test_a_batch_in_any_order_is_the_windows_one_by_one(tmp_path: Path, make_table: MakeTable) -> None:
    """Twelve leads, two, and one, over three shards, each window of its own height."""
    rng = np.random.default_rng(0)
    n, mask = 30, np.zeros((30, 12), bool)
    mask[::3], mask[1::3, [0, 1]], mask[2::3, 6] = True, True, True
    signals = np.where(mask[:, :, None], rng.normal(0, 1, (n, 12, 500)), 0).astype(np.float32)
    whole = make_table(signals, mask, np.full((n, 77), -1, np.int8), ["p"] * n)
    shard = np.arange(n) // 10
    (tmp_path / "shards").mkdir()
    first = whole.first_row.copy()
    for k in range(3):
        end = first[10 * k + 10] if k < 2 else None
        np.save(tmp_path / "shards" / f"{k:05d}.npy", whole.rows[0][first[10 * k] : end])
        first[10 * k : 10 * k + 10] -= first[10 * k]
    from dataclasses import replace

    from training.data.table import Shards

    shards = pickle.loads(pickle.dumps(Shards(tmp_path / "shards")))
    shards._OPEN = 2  # one fewer than there are
    table = replace(whole, rows=shards, shard=shard.astype(np.int32), first_row=first)
    index = rng.permutation(np.r_[np.arange(n), np.arange(n)])
    x, there = table.batch(index, derive=False)
    np.testing.assert_allclose(x, signals[index], atol=STEP)
    assert np.array_equal(there, mask[index])
    derived, more = table.batch(index)
    two = mask[index].sum(axis=1) == 2
    np.testing.assert_allclose(derived[two, 2], x[two, 1] - x[two, 0], atol=1e-6)
    assert more[two].sum(axis=1).tolist() == [6] * two.sum()
    assert np.array_equal(derived[~two], x[~two])


def test_reports_of_a_table_in_memory(make_table: MakeTable) -> None:
    mask = np.ones((2, 12), bool)
    table = make_table(np.zeros((2, 12, 500), np.float32), mask, np.zeros((2, 77), np.int8), ["a", "b"])
    assert table.reports(np.array([1, 0])) == ["", ""]
    told = make_table(
        np.zeros((2, 12, 500), np.float32), mask, np.zeros((2, 77), np.int8), ["a", "a"], reports=("one", "two")
    )
    assert told.reports(np.array([1, 0, 1])) == ["two", "one", "two"]


def test_no_table_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="deepecg-train prepare"):
        WindowTable.open(tmp_path)
