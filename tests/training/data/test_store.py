"""The store: shards that end with a recording, one transaction each, and a salt that only its owner reads."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import Lead
from agent.core.preprocessing import Preprocessing
from training.data import store as store_module
from training.data.recording import Licence, Recording, Rejected, Source
from training.data.store import Store, salt_of
from training.data.windows import prepare_windows

Make = Callable[..., Recording]
P = Preprocessing(rate=100.0, gain=1.0)


def begin(folder: Path) -> Store:
    return Store(folder, 1000, {"a": 1}, {Source("made", "wfdb", folder): Licence("none")})


def put(store: Store, recording: Recording, number: int) -> None:
    store.add(recording)
    for window in prepare_windows(recording, P):
        store.add_window(window)
    store.done(0, number)


@pytest.fixture
def two_leads(make_recording: Make) -> Callable[..., Recording]:
    def make(seconds: int, name: str) -> Recording:
        signal = np.random.default_rng(seconds).normal(0, 1, (2, 250 * seconds)).astype(np.float32)
        return make_recording(signal, leads=(Lead.I, Lead.II), rate=250.0, record=name, source="made", continuous=True)

    return make


def test_a_shard_ends_with_a_recording_and_is_committed_with_it(
    tmp_path: Path, two_leads: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SHARD_BYTES", 10_000)  # five rows of 1000 samples
    with begin(tmp_path) as store:
        put(store, two_leads(10, "one"), 1)  # two rows: nothing is written yet
        assert not list(tmp_path.glob("shards/*"))
        put(store, two_leads(20, "two"), 2)  # eight rows: a shard is filled within it, and the rest ends with it
        store.reject(Rejected("made", "three", "flat"))
        store.done(0, 3)
        put(store, two_leads(10, "four"), 4)
    sizes = [np.load(path).shape[0] for path in sorted(tmp_path.glob("shards/*.npy"))]
    assert sizes == [6, 2]
    with begin(tmp_path) as store:
        assert (store.source, store.taken, store.complete) == (0, 2, False), "what was not whole is done again"
    with sqlite3.connect(tmp_path / "table.sqlite") as database:
        assert database.execute("SELECT record FROM record").fetchall() == [("one",), ("two",)]
        places = database.execute("SELECT shard, first_row FROM window").fetchall()
        assert database.execute("SELECT count(*) FROM rejected").fetchone() == (0,)
    assert places == [(0, 0), (0, 2), (0, 4), (1, 0)]


def test_it_goes_on_only_with_the_same_sources(tmp_path: Path) -> None:
    with begin(tmp_path):
        pass
    source = Source("made", "wfdb", tmp_path)
    with pytest.raises(ValueError, match="other sources or settings"):
        Store(tmp_path, 1000, {"a": 2}, {source: Licence("none")})
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="other folders"):
        Store(tmp_path, 1000, {"a": 1}, {Source("made", "wfdb", tmp_path / "b"): Licence("none")})


def test_two_runs_never_write_one_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **given: connect(path, timeout=0.05, **given))
    with begin(tmp_path), pytest.raises(ValueError, match="being written by another run"):
        begin(tmp_path)
    with begin(tmp_path):
        pass


def test_a_finished_table_is_a_plain_file(tmp_path: Path) -> None:
    with begin(tmp_path) as store:
        store.finish(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "table.sqlite"]
    with begin(tmp_path) as store:
        assert store.complete
        store.tidy()


def test_the_salt_is_made_once_and_is_its_owner_s(tmp_path: Path) -> None:
    salt = salt_of(tmp_path / "d")
    assert len(salt) == 32
    assert salt_of(tmp_path / "d") == salt != salt_of(tmp_path / "e")
    assert stat.S_IMODE((tmp_path / "d" / "salt").stat().st_mode) == 0o600
