"""A dataset does not depend on how often its making was killed, and lists what it does not use."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from agent.core.ecg import LEADS
from agent.core.labels import index_of
from agent.core.preprocessing import Preprocessing
from agent.simulator.demonstration import DEMONSTRATION
from training.cli import app
from training.data import FORMATS, DatasetSettings, Recording, Source, WindowTable, prepare, store
from training.data.describe import describe
from training.data.recording import Pending
from training.data.store import TABLE
from training.labels import labels_of_report

Write = Callable[..., object]

SHARD_BYTES = 300_000
COMMAND = f"import training.data.store as store; store.SHARD_BYTES = {SHARD_BYTES}; from training.cli import app; app()"
"""The real command, with shards so small that there are many."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, write_record: Write) -> Path:
    """60 records: copies, a long one, one lead too few, a damaged and a flat one."""
    folder = tmp_path_factory.mktemp("archive")
    for i in range(60):
        write_record(folder / f"g{i // 20}" / f"r{i:03d}", seed=i if i != 40 else 3, seconds=31.0 if i == 25 else 10.0)
    (folder / "g0" / "r007.dat").write_bytes(b"cut short")
    (folder / "g0" / "r008.hea").write_text("no header\n")
    flat = np.frombuffer((folder / "g1" / "r030.dat").read_bytes(), "<i2").reshape(-1, 12).copy()
    flat[:, 8] = 5
    (folder / "g1" / "r030.dat").write_bytes(flat.tobytes())
    table = ["record,patient,age,sex,report,Afib,target_lvef"]
    table += [f"g{i // 20}/r{i:03d},{i // 2},{i + 20},F,text {i},{i % 2},{30 + i}" for i in range(60)]
    (folder / "records.csv").write_text("\n".join(table) + "\n")
    return folder


def words(dataset: Path, archive: Path) -> list[str]:
    return ["prepare", str(dataset), "--source", f"wfdb={archive}"]


def finish(dataset: Path, archive: Path) -> str:
    """What the command says that comes to its end."""
    result = CliRunner().invoke(app, words(dataset, archive), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def run(dataset: Path, archive: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words(dataset, archive)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def content(dataset: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(dataset.rglob("*")) if path.is_file()}


def test_killed_at_any_moment_it_ends_up_the_same(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs that are killed are processes of their own, those that come to their end are not."""
    monkeypatch.setattr(store, "SHARD_BYTES", SHARD_BYTES)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):  # the same key for pseudonyms
        folder.mkdir()
        (folder / "salt").write_text("ab" * 32)
    finish(whole, archive)
    expected = content(whole)
    assert len(expected) > 8, "several shards"

    kills = 0
    for shards in (1, 3, 6):
        process = run(killed, archive)
        while process.poll() is None and len(list(killed.glob("shards/*.npy"))) < shards:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            with pytest.raises(ValueError, match="not finished"):
                WindowTable.open(killed)
        assert process.stdout is not None
        process.stdout.close()
    assert kills >= 2
    finish(killed, archive)
    found = content(killed)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert "complete already" in finish(killed, archive)
    assert content(killed) == expected


def test_every_recording_comes_to_its_end(archive: Path, tmp_path: Path) -> None:
    outcome = prepare(tmp_path, [Source("mine", "wfdb", archive)], DatasetSettings(), progress=False)
    assert outcome == {"used": 56, "unreadable": 2, "flat": 1, "duplicate": 1}
    with sqlite3.connect(tmp_path / TABLE) as database:
        rejected = database.execute("SELECT record, reason, detail FROM rejected ORDER BY record").fetchall()
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert [(record, reason) for record, reason, _ in rejected] == [
        ("g0/r007", "unreadable"),
        ("g0/r008", "unreadable"),
        ("g1/r030", "flat"),
        ("g2/r040", "duplicate"),
    ]
    assert rejected[3][2] == "same signal as mine/g0/r003"
    assert tables == {"meta", "source", "record", "target", "window", "rejected"}, "nothing that only making it needs"

    table = WindowTable.open(tmp_path)
    assert len(table) == 60, "five windows of the long one"
    assert table.preprocessing == Preprocessing(gain=1.0)
    there = {record: i for i, record in enumerate(table.record)}
    two, three, forty_one = (there[f"g{i // 20}/r{i:03d}"] for i in (2, 3, 41))
    assert table.patient[two] == table.patient[three] == table.patient[forty_one], "40 and 41 are the person of 3"
    assert "p/" in table.patient[two]
    assert table.age[two] == 22
    assert table.sex[two] == "F"
    assert table.targets["lvef"][two] == 32
    assert table.labels[[two, three], index_of("Afib")].tolist() == [0, 1]
    assert table.labels[two, index_of("Sinusal")] == -1
    assert table.reports(np.array([three, two])) == ["text 3", "text 2"]
    assert table.start[table.record == "g1/r025"].tolist() == [0, 5, 10, 15, 20]
    assert b"no header" not in content(tmp_path)[TABLE]


def test_a_person_under_two_names_is_held_out_where_either_is(
    tmp_path: Path, write_record: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "a"
    for name, seed in (("1", 1), ("2", 1), ("3", 3)):
        write_record(archive / name, seed=seed)
    demo = DEMONSTRATION[0].patient
    monkeypatch.setattr(Source, "pseudonym", lambda _, identifier: identifier)
    (archive / "records.csv").write_text(f"record,patient\n1,first\n2,{demo}\n3,first\n")
    prepare(tmp_path / "d", [Source("a", "wfdb", archive)], DatasetSettings(), progress=False)
    table = WindowTable.open(tmp_path / "d")
    assert table.record.tolist() == ["1", "3"]
    assert table.held_out.all()


def test_reports_fill_only_what_the_source_leaves_unknown(tmp_path: Path, write_record: Write) -> None:
    archive = tmp_path / "a"
    for name, seed in (("1", 1), ("2", 2)):
        write_record(archive / name, seed=seed)
    (archive / "records.csv").write_text("record,report,Afib\n1,Vorhofflimmern. Linksschenkelblock.,0\n2,,\n")
    source = Source("a", "wfdb", archive)
    with_reports, without = tmp_path / "with", tmp_path / "without"
    prepare(with_reports, [source], DatasetSettings(labels_of_report=labels_of_report), progress=False)
    prepare(without, [source], DatasetSettings(), progress=False)
    af, lbbb = index_of("Afib"), index_of("Left bundle branch block")
    assert WindowTable.open(with_reports).labels[:, [af, lbbb]].tolist() == [[0, 1], [-1, -1]]
    assert WindowTable.open(without).labels[:, [af, lbbb]].tolist() == [[0, -1], [-1, -1]]


def test_nothing_usable_is_an_empty_dataset(tmp_path: Path, make_recording: Callable[..., Recording]) -> None:
    """A damaged record, and a continuous one whose leads are never whole for ten seconds."""
    (tmp_path / "a.hea").write_text("no header\n")
    broken = make_recording(np.tile(np.r_[np.nan, np.ones(999)], (2, 20)).astype(np.float32), leads=LEADS[:2])
    source = Source("a", "wfdb", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        pending = Pending("b", lambda: replace(broken, source="a", record="b", continuous=True))
        read = FORMATS["wfdb"].read
        both = replace(FORMATS["wfdb"], read=lambda source: chain(read(source), [pending]))
        patch.setitem(FORMATS, "wfdb", both)
        assert prepare(tmp_path / "d", [source], DatasetSettings(), progress=False) == {"unreadable": 1, "invalid": 1}
    table = WindowTable.open(tmp_path / "d")
    assert len(table) == 0
    assert table.batch(np.array([], np.int64))[0].shape == (0, 12, 2500)
    assert table.folds(5).shape == (0,)
    assert describe(tmp_path / "d")["sources"]["a"]["refused"] == {"invalid": 1, "unreadable": 1}


def test_a_mistake_in_the_owner_s_table_ends_the_run(tmp_path: Path, write_record: Write) -> None:
    write_record(tmp_path / "a" / "1")
    (tmp_path / "a" / "records.csv").write_text("record,Afib\n1,yes\n")
    with pytest.raises(ValueError, match="write 1, 0 or nothing"):
        prepare(tmp_path / "d", [Source("a", "wfdb", tmp_path / "a")], DatasetSettings(), progress=False)


def test_other_settings_or_sources_are_refused(archive: Path, tmp_path: Path) -> None:
    source = Source("mine", "wfdb", archive / "g2")
    short = DatasetSettings(Preprocessing(seconds=5.0, rate=100.0, gain=1.0), step=2.5)
    prepare(tmp_path, [source], short, progress=False)
    table = WindowTable.open(tmp_path)
    x, _ = table.batch(np.arange(3))
    assert x.shape == (3, 12, 500)
    assert table.start[:4].tolist() == [0, 2.5, 5, 0]
    with pytest.raises(ValueError, match="other sources or settings"):
        prepare(tmp_path, [source], DatasetSettings(), progress=False)
    with pytest.raises(ValueError, match="other sources or settings"):
        prepare(tmp_path, [Source("other", "wfdb", archive / "g2")], short, progress=False)


def test_what_cannot_be_prepared_is_one_sentence(tmp_path: Path) -> None:
    here = Source("a", "wfdb", tmp_path)
    for sources, settings, sentence in (
        ([here, here], DatasetSettings(), "two sources are called 'a'"),
        ([Source("a", "xyz", tmp_path)], DatasetSettings(), "there is no format 'xyz'"),
        ([here], DatasetSettings(step=0), "more than 0 s"),
        ([here], DatasetSettings(Preprocessing()), "gain 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            prepare(tmp_path / "d", sources, settings)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        prepare(tmp_path / "d", [Source("a", "wfdb", tmp_path / "none")], DatasetSettings())
