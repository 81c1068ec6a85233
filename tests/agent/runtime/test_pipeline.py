"""The line with its real parts, in one process: order, encounters, generations, and what is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.core.alerting.models import ModelsAlerting
from agent.core.alerting.settings import AlertingSettings
from agent.core.census import Census, Stay
from agent.core.ecg import (
    LEADS,
    Alert,
    Channel,
    ChannelKind,
    Encounter,
    EncounterChange,
    EncounterEvent,
    FloatArray,
    Phase,
    Prediction,
    Samples,
    SourceAlarm,
)
from agent.core.mqtt.block import code_of_lead
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower
from agent.engines.bundles.bundle import Bundle, default_bundle, open_bundle
from agent.engines.select import open_backend
from agent.engines.serving.batcher import Batcher
from agent.engines.serving.model import Model
from agent.engines.serving.settings import ServingSettings
from agent.engines.settings import EngineSettings
from agent.ops.metrics import Metrics, totals
from agent.runtime.pipeline import Line
from agent.simulator.ecg import Rhythm, synthesize
from agent.sinks.outbox import Outbox
from agent.station.server import Station, StationInfo
from agent.station.settings import StationSettings

RATE = 250
START = 1_700_000_001.0  # on the grid of the bed a/b/1
ONE = Encounter(patient_ids=("one",))
OTHER = Encounter(patient_ids=("other",))
CHANNELS = tuple(Channel(ChannelKind.ECG, code_of_lead(x.value), x.value, "mV", RATE, x) for x in LEADS)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(default_bundle())


@pytest.fixture(scope="module")
def fibrillation() -> FloatArray:
    return synthesize(Rhythm.AFIB, seconds=60, rate=RATE, seed=3)


@asynccontextmanager
async def line_of(
    bundle: Bundle,
    folder: Path,
    page: Callable[[Bundle, Metrics], Station] | None = None,
    max_beds: int = 2048,
    opened: Sequence[Alert] = (),
) -> AsyncIterator[tuple[Line, asyncio.Task[None]]]:
    metrics = Metrics()
    settings = EngineSettings(queue_per_bed=64)
    batcher = Batcher(
        [Model(bundle.manifest, partial(open_backend, bundle, settings))], settings, ServingSettings(), metrics
    )
    async with Outbox(folder / "outbox.sqlite", ("hl7",)) as outbox, batcher:
        alerting = ModelsAlerting([bundle.manifest], AlertingSettings(), opened)
        station = page and page(bundle, metrics)
        line = Line(Census(max_beds), Windower(WindowingSettings()), alerting, batcher, outbox, metrics, station)
        decide = asyncio.create_task(line.decide())
        try:
            yield line, decide
        finally:
            decide.cancel()


def blocks(
    ecg: FloatArray, first: int, last: int, encounter: Encounter | None = None, bed: str = "a/b/1"
) -> Iterator[Samples]:
    for k in range(first, last):
        values = tuple(ecg[:, k * RATE : (k + 1) * RATE])
        yield Samples(bed, "m", CHANNELS, values, START + k, time.monotonic(), k, encounter=encounter)


def who(line: Line, bed: str) -> Encounter | None:
    stay = line.census.stay(bed)
    return None if stay is None else stay.encounter


async def alerts_of(line: Line) -> tuple[Alert, ...]:
    await line.batcher.drain()
    return await line.outbox.pending("hl7", 1000)


async def test_an_alert_is_committed_with_its_patient_and_counted(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray
) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        for block in blocks(fibrillation, 0, 60, ONE):
            await line.take(block)
        alerts = [a for a in await alerts_of(line) if a.label == "Afib"]
        assert [a.phase for a in alerts] == [Phase.START]
        assert alerts[0].encounter == ONE
        assert totals(line.metrics.alerts)["Afib/start"] == 1
        assert line.metrics.alert_latency.summary()["count"] >= 1
        assert totals(line.metrics.windows) == {"": 11}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (EncounterChange(EncounterEvent.DISCHARGE, "a/b/1", ONE, 0.0), "discharge"),
        (EncounterChange(EncounterEvent.TRANSFER, "a/b/2", ONE, 0.0, prior_bed="a/b/1"), "transfer"),
        (EncounterChange(EncounterEvent.ADMIT, "a/b/1", OTHER, 0.0), "patient_changed"),
    ],
)
async def test_a_patient_who_leaves_takes_the_alert_along(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray, change: EncounterChange, reason: str
) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        for block in blocks(fibrillation, 0, 60, ONE):
            await line.take(block)
        await alerts_of(line)
        await line.take(change)
        assert line.alerting.open_alerts("a/b/1") == ()
        for alert in await alerts_of(line):
            await line.outbox.delivered("hl7", alert.message_id)
        ends = {a.label: a for a in await alerts_of(line)}
        assert ends["Afib"].phase is Phase.END
        assert ends["Afib"].reason == reason
        assert ends["Afib"].encounter == ONE


async def test_a_late_discharge_leaves_the_next_patient_alone(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray
) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        for block in blocks(fibrillation, 0, 9, OTHER):
            await line.take(block)
        await line.take(EncounterChange(EncounterEvent.DISCHARGE, "a/b/1", ONE, 0.0))
        for block in blocks(fibrillation, 9, 10, OTHER):
            await line.take(block)
        assert totals(line.metrics.windows) == {"": 1}
        assert who(line, "a/b/1") == OTHER


async def test_a_transfer_that_names_no_bed_left_finds_it(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray
) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        for block in blocks(fibrillation, 0, 9, ONE):
            await line.take(block)
        await line.take(EncounterChange(EncounterEvent.TRANSFER, "a/b/2", ONE, 0.0))
        for block in blocks(fibrillation, 9, 18):
            await line.take(block)
        assert totals(line.metrics.windows) == {}
        assert [who(line, bed) for bed in ("a/b/1", "a/b/2")] == [None, ONE]


async def test_a_transfer_empties_no_bed_that_its_sender_may_not_speak_for(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray
) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        for block in blocks(fibrillation, 0, 9, ONE):
            await line.take(block)
        await line.take(EncounterChange(EncounterEvent.TRANSFER, "x/y/2", ONE, 0.0, sender_beds=("x/*",)))
        for block in blocks(fibrillation, 9, 10):
            await line.take(block)
        assert totals(line.metrics.windows) == {"": 1}
        assert [who(line, bed) for bed in ("a/b/1", "x/y/2")] == [ONE, ONE]


async def test_a_late_block_of_the_patient_before_touches_nobody(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray
) -> None:
    async with line_of(bundle, tmp_path, Recorder) as (line, _):
        *first, late = blocks(fibrillation, 0, 9, ONE)
        for block in [*first, *blocks(fibrillation, 9, 12, OTHER), first[-1], late]:
            await line.take(block)
        assert who(line, "a/b/1") == OTHER
        assert isinstance(line.station, Recorder)
        assert [stay.encounter for stay in line.station.stays] == [ONE] * 8 + [OTHER] * 3, "nor is it shown"
        await line.tick()
        assert totals(line.metrics.windowing) == {"earlier_patient": 2}
        assert totals(line.metrics.gaps) == {"encounter": 1}


async def test_a_bed_that_the_census_has_no_room_for_is_neither_shown_nor_analysed(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray
) -> None:
    async with line_of(bundle, tmp_path, Recorder, max_beds=1) as (line, _):
        for bed in ("a/b/1", "a/b/2"):
            for block in blocks(fibrillation, 0, 10, bed=bed):
                await line.take(block)
        assert totals(line.metrics.windows) == {"": 1}
        assert isinstance(line.station, Recorder)
        assert len(line.station.stays) == 10
        await line.tick()
        assert totals(line.metrics.windowing) == {"too_many_beds": 10}


async def test_whose_alerts_were_open_lies_there_after_a_restart(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray
) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        for block in blocks(fibrillation, 0, 60, ONE):
            await line.take(block)
        await alerts_of(line)
        opened = line.alerting.open_alerts()
    assert [a.label for a in opened] == ["Afib"]
    async with line_of(bundle, tmp_path, Recorder, opened=opened) as (line, _):
        await line.restore()
        assert who(line, "a/b/1") == ONE
        for block in blocks(fibrillation, 60, 61, OTHER):
            await line.take(block)
        assert line.alerting.open_alerts() == ()
        for alert in await alerts_of(line):
            await line.outbox.delivered("hl7", alert.message_id)
        assert [(a.phase, a.reason) for a in await alerts_of(line)] == [(Phase.END, "patient_changed")]


async def test_no_window_holds_two_patients(bundle: Bundle, tmp_path: Path, fibrillation: FloatArray) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        for block in blocks(fibrillation, 0, 9, ONE):
            await line.take(block)
        await line.take(EncounterChange(EncounterEvent.DISCHARGE, "a/b/1", ONE, 0.0))
        for block in blocks(fibrillation, 9, 18, OTHER):
            await line.take(block)
        assert totals(line.metrics.windows) == {}  # nine seconds of each: no ten of either


async def test_a_prediction_of_the_patient_before_is_discarded(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray
) -> None:
    async with line_of(bundle, tmp_path) as (line, decide):
        decide.cancel()  # hold the predictions back, as a slow engine would
        await asyncio.sleep(0)
        for block in blocks(fibrillation, 0, 60, ONE):
            await line.take(block)
        await line.take(EncounterChange(EncounterEvent.DISCHARGE, "a/b/1", ONE, 0.0))
        found: list[Prediction] = []
        wall = time.time()
        while len(found) < 11:
            found += await anext(line.batcher)
        alerts = [a for p in found for a in line.alerting.on_prediction(p, wall, line.census.stay("a/b/1"))]
        assert alerts == []
        assert line.alerting.take_suppressed() == {"generation": 11}


async def test_the_monitors_own_alarms_are_kept_and_judged_by_nobody_yet(bundle: Bundle, tmp_path: Path) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        alarm = SourceAlarm("a/b/1", "m", 199684, "ASYSTOLE", Phase.START, True, None, START, time.monotonic())
        await line.take(alarm)
        assert line.alerting.source_alarms("a/b/1") == (alarm,)
        assert await alerts_of(line) == ()
        assert totals(line.metrics.source_alarms) == {"": 1}


async def test_events_keep_their_order_through_the_queue(
    bundle: Bundle, tmp_path: Path, fibrillation: FloatArray
) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        queue: asyncio.Queue[Samples | EncounterChange | SourceAlarm] = asyncio.Queue()
        for block in blocks(fibrillation, 0, 12, ONE):
            queue.put_nowait(block)
        queue.put_nowait(EncounterChange(EncounterEvent.DISCHARGE, "a/b/1", ONE, 0.0))
        for block in blocks(fibrillation, 12, 21):
            queue.put_nowait(block)
        feed = asyncio.create_task(line.feed(queue))
        await asyncio.wait_for(queue.join(), 20)
        feed.cancel()
        assert totals(line.metrics.windows) == {"": 1}
        assert who(line, "a/b/1") is None


class Recorder(Station):
    """The page, which also writes down what it is shown."""

    def __init__(self, bundle: Bundle, metrics: Metrics) -> None:
        super().__init__(StationSettings(port=0), metrics, StationInfo(bundle.manifest, "0"))
        self.seen: list[Prediction] = []
        self.stays: list[Stay] = []

    def samples(self, samples: Samples, transport: str = "", stay: Stay = Stay()) -> None:  # noqa: B008  (frozen)
        super().samples(samples, transport, stay)
        self.stays.append(stay)

    def prediction(self, prediction: Prediction) -> None:
        super().prediction(prediction)
        self.seen.append(prediction)


WARD = {f"a/b/{i}": rhythm for i, rhythm in enumerate([Rhythm.AFIB, Rhythm.SINUS, Rhythm.AFIB, Rhythm.BRADYCARDIA] * 2)}


async def ward_run(bundle: Bundle, folder: Path, exchange_every: int | None) -> tuple[list[Prediction], set[str], int]:
    """Four minutes of a ward as fast as they can be computed; its predictions, alerts and exchanges of the engine.

    ``exchange_every``: seconds of the ward's time. What decides is the signal, so that every machine does the same.
    """
    signals = {bed: synthesize(rhythm, 240, RATE, seed=i) for i, (bed, rhythm) in enumerate(WARD.items())}
    model = bundle.manifest.name
    async with line_of(bundle, folder, Recorder) as (line, _):
        assert isinstance(line.station, Recorder)
        exchanges = 0
        for second in range(240):
            if exchange_every is not None and second % exchange_every == 0:
                await line.batcher.shadow(model, partial(open_backend, bundle, EngineSettings()))
            for bed, signal in signals.items():
                for block in blocks(signal, second, second + 1, bed=bed):
                    await line.take(block)
            waiting = sum(totals(line.metrics.windows).values()) - len(line.station.seen)
            if (
                exchange_every is not None
                and second % exchange_every >= 10
                and waiting
                and line.batcher.states()[0].shadow
            ):
                line.batcher.exchange(model)  # windows wait: the next batch is the other engine's
                line.batcher.unshadow(model)
                exchanges += 1
            await line.batcher.drain(waiting=16)
        await line.batcher.drain()
        assert totals(line.metrics.windows_dropped) == {}
        assert sum(totals(line.metrics.windows).values()) == sum(totals(line.metrics.model_windows).values())
        alerts = await line.outbox.pending("hl7", 1000)
        messages = [f"{a.bed} {a.label} {a.phase.value} {a.time} {a.reason}" for a in alerts]
        assert len(messages) == len(set(messages)), "an alert was doubled"
        return line.station.seen, set(messages), exchanges


async def test_exchanged_engines_lose_no_window_and_double_no_alert(bundle: Bundle, tmp_path: Path) -> None:
    """Engines promoted under load, as a rollout does it, against the same without; minutes of it: bench_swap.py."""
    (tmp_path / "still").mkdir()
    calm, alerts, _ = await ward_run(bundle, tmp_path / "still", None)
    exchanged, alerts_exchanged, exchanges = await ward_run(bundle, tmp_path, 40)
    assert exchanges == 6
    assert alerts_exchanged == alerts
    assert len({message.split()[0] for message in alerts}) >= 4, "four beds fibrillate"
    answers = {(p.window.bed, p.window.start): p for p in calm}
    assert len(exchanged) == len(calm) == len(answers)
    for bed in WARD:
        starts = [p.window.start for p in exchanged if p.window.bed == bed]
        assert starts == sorted(set(starts))
    for p in exchanged:  # in whatever company it was computed
        np.testing.assert_array_equal(p.probabilities, answers[p.window.bed, p.window.start].probabilities)


async def test_a_look_that_was_asked_for_on_the_page_reaches_the_model(bundle: Bundle, tmp_path: Path) -> None:
    async with line_of(bundle, tmp_path, Recorder) as (line, _):
        asked: list[tuple[str, str]] = []
        line.batcher.request = lambda bed, model: asked.append((bed, model))  # type: ignore[method-assign]
        assert line.station is not None
        line.station._requests["a/b/1", "lvef"] = None
        await line.tick()
        await line.tick()
        assert asked == [("a/b/1", "lvef")]


async def test_silence_ends_an_alert(bundle: Bundle, tmp_path: Path, fibrillation: FloatArray) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        for block in blocks(fibrillation, 0, 60):
            await line.take(block)
        await alerts_of(line)
        ended = line.alerting.on_tick(time.monotonic() + 31, time.time() + 31)
        assert [(a.label, a.reason) for a in ended if a.phase is Phase.END and a.label == "Afib"] == [
            ("Afib", "feed_lost")
        ]
        await line.tick()
        await line.close()
        assert line.alerting.open_alerts() == ()


async def test_a_wall_clock_that_is_set_reaches_the_windows(bundle: Bundle, tmp_path: Path) -> None:
    async with line_of(bundle, tmp_path) as (line, _):
        with capture_logs() as logs:
            await line.tick()
            await line.tick()
        assert abs(line.windower.wall_offset - (time.time() - time.monotonic())) < 1.0
        assert [entry["event"] for entry in logs].count("wall_clock_set") == 1, "the offset was 0, and then right"
