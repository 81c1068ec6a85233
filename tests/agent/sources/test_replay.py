"""Recorded ECG as a bed would send it: real records, made ones, and what is wrong with a path."""

from __future__ import annotations

import asyncio
import builtins
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from agent.core.ecg import ChannelKind, Event, Lead, Samples
from agent.ops.metrics import Metrics
from agent.sources.replay import (
    ReplayError,
    ReplaySource,
    bed_of,
    channel_from_name,
    read_record,
    records_under,
    samples_from_recording,
)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Three and a half seconds of two leads and a pleth, one sample invalid."""
    rng = np.random.default_rng(0)
    signal = rng.uniform(-1, 1, (875, 3))
    signal[10, 0] = np.nan
    wfdb.wrsamp(
        "made", 250, ["mV", "mV", "NU"], ["MLII", "V", "PLETH"], signal, fmt=["16"] * 3, write_dir=str(tmp_path)
    )
    return tmp_path / "made"


def test_blocks_of_one_second_and_the_rest(record: Path) -> None:
    whole = read_record(record)
    blocks = list(samples_from_recording(whole, bed_of(whole.name), start=1000.0))
    assert [len(block.values[0]) for block in blocks] == [250, 250, 250, 125]
    assert [block.start for block in blocks] == [1000.0, 1001.0, 1002.0, 1003.0]
    assert [block.sequence for block in blocks] == [0, 1, 2, 3]
    for i in range(3):
        np.testing.assert_array_equal(np.concatenate([block.values[i] for block in blocks]), whole.values[i])
    assert np.isnan(blocks[0].values[0][10])
    assert {(block.bed, block.device, block.transport) for block in blocks} == {
        ("replay/wfdb/made", "replay", "replay")
    }


def test_a_record_of_whole_seconds_has_no_empty_block(tmp_path: Path) -> None:
    wfdb.wrsamp("two", 100, ["mV"], ["II"], np.zeros((200, 1)), fmt=["16"], write_dir=str(tmp_path))
    blocks = samples_from_recording(read_record(tmp_path / "two.hea"), "a/b/c")
    assert [len(block.values[0]) for block in blocks] == [100, 100]


@pytest.mark.parametrize(
    ("name", "unit", "kind", "lead", "code", "ucum", "factor"),
    [
        ("MLII", "mV", ChannelKind.ECG, Lead.II, 131330, "mV", 1.0),
        ("AVR", "uV", ChannelKind.ECG, Lead.AVR, 131390, "mV", 1e-3),
        ("V6", "mV", ChannelKind.ECG, Lead.V6, 131336, "mV", 1.0),
        ("V", "mV", ChannelKind.ECG, None, 131395, "mV", 1.0),
        ("MCL", "mV", ChannelKind.ECG, None, 131403, "mV", 1.0),
        ("ECG1", "mV", ChannelKind.ECG, None, 131328, "mV", 1.0),
        ("II", "NU", ChannelKind.OTHER, None, 0, "1", 1.0),
        ("ABP", "mmHg", ChannelKind.ABP, None, 150036, "mm[Hg]", 1.0),
        ("PLETH", "NU", ChannelKind.PLETH, None, 150452, "1", 1.0),
        ("RESP", "NU", ChannelKind.RESP, None, 151780, "1", 1.0),
        ("CO2", "kPa", ChannelKind.OTHER, None, 0, "mm[Hg]", 7.50062),
        ("O2", "vol%", ChannelKind.OTHER, None, 0, "vol%", 1.0),
        ("Lead II", "millivolts", ChannelKind.ECG, Lead.II, 131330, "mV", 1.0),
        ("DII", "µV", ChannelKind.ECG, Lead.II, 131330, "mV", 1e-3),
        ("PLETH", "furlongs", ChannelKind.PLETH, None, 150452, "furlongs", 1.0),
    ],
)
def test_channel_names(
    name: str, unit: str, kind: ChannelKind, lead: Lead | None, code: int, ucum: str, factor: float
) -> None:
    channel, found = channel_from_name(name, unit, 250.0)
    assert (channel.kind, channel.lead, channel.code, channel.unit, found) == (kind, lead, code, ucum, factor)
    assert (channel.label, channel.rate) == (name, 250.0)


def test_a_lead_in_an_unknown_unit_is_refused_by_name() -> None:
    with pytest.raises(ReplayError, match="Channel II is in furlongs"):
        channel_from_name("II", "furlongs", 250.0)


async def test_a_full_queue_holds_the_reader_back(record: Path) -> None:
    metrics, queue = Metrics(), asyncio.Queue[Event](1)
    task = asyncio.create_task(ReplaySource(record, metrics).run(queue))
    async with asyncio.timeout(10):
        while not queue.full():
            await asyncio.sleep(0.001)
    for _ in range(10):  # nothing but the full queue keeps the reader from going on
        await asyncio.sleep(0)
    assert queue.qsize() == 1
    assert not task.done()
    got = [await queue.get() for _ in range(4)]
    await asyncio.wait_for(task, 5)
    assert [block.sequence for block in got if isinstance(block, Samples)] == [0, 1, 2, 3]
    assert queue.empty()
    assert metrics.registry.get_sample_value("deepecg_messages_total", {"transport": "replay"}) == 4


async def test_speed_is_kept(record: Path) -> None:
    queue = asyncio.Queue[Event]()
    began = time.monotonic()
    await ReplaySource(record, Metrics(), speed=10.0).run(queue)
    assert time.monotonic() - began >= 0.39  # the fourth block is complete after four tenths
    blocks = [queue.get_nowait() for _ in range(4)]
    received = [block.received for block in blocks]
    assert received == sorted(received)
    assert received[0] - began >= 0.09


async def test_a_folder_plays_beds_side_by_side(record: Path) -> None:
    wfdb.wrsamp("other", 100, ["mV"], ["II"], np.zeros((200, 1)), fmt=["16"], write_dir=str(record.parent))
    queue = asyncio.Queue[Event]()
    await ReplaySource(record.parent, Metrics(), speed=50.0).run(queue)
    beds = [block.bed for block in [queue.get_nowait() for _ in range(6)] if isinstance(block, Samples)]
    assert beds[:2] == ["replay/wfdb/made", "replay/wfdb/other"]
    assert beds.count("replay/wfdb/made") == 4


def test_wrong_paths_say_what_to_do(tmp_path: Path, record: Path) -> None:
    with pytest.raises(ReplayError, match="no WFDB header nothing"):
        read_record(tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ReplayError, match="no WFDB headers"):
        records_under(empty)
    broken = tmp_path / "broken.hea"
    broken.write_text("broken 1 250 100\nmissing.dat 16 200 12 0 0 0 0 II\n")
    with pytest.raises(ReplayError, match="broken cannot be read"):
        read_record(broken)
    with pytest.raises(ReplayError, match="backwards"):
        ReplaySource(record, Metrics(), speed=-1)


def test_without_wfdb_one_clear_sentence(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("wfdb"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ReplayError, match=r"pip install 'deepecg-bedside\[recordings\]'"):
        read_record(record)


@pytest.mark.data
def test_real_records(data_dir: Path) -> None:
    first = next(samples_from_recording(read_record(data_dir / "mitdb" / "100"), "a/b/c"))
    assert [channel.lead for channel in first.channels] == [Lead.II, Lead.V5]
    assert [len(values) for values in first.values] == [360, 360]
    assert 0.3 < float(np.ptp(first.values[0])) < 3.0
    alarm = next(samples_from_recording(read_record(data_dir / "cinc2015_alarms" / "a103l"), "a/b/c"))
    assert [(channel.kind, channel.lead) for channel in alarm.channels] == [
        (ChannelKind.ECG, Lead.II),
        (ChannelKind.ECG, None),
        (ChannelKind.PLETH, None),
    ]
