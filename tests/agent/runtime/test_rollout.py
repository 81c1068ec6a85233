"""New engines on live beds, for real: compiled here, tried, promoted, watched, kept or sent away, over restarts too."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.config import Config
from agent.core.ecg import FloatArray, Prediction, Provenance, Window
from agent.engines.base import Backend, EngineError
from agent.engines.bundles.bundle import Bundle, open_bundle
from agent.engines.bundles.files import write_atomic
from agent.engines.local.rebuild import rebuild
from agent.engines.local.record import (
    RECORD,
    REQUEST,
    Record,
    Stage,
    Wanted,
    choose,
    read_record,
    read_request,
    update_record,
)
from agent.engines.machine import this_machine
from agent.engines.select import Opened, open_backend
from agent.ops.metrics import Metrics, totals
from agent.runtime import rollout as module
from agent.runtime.build import Parts, open_parts
from agent.runtime.rollout import Rollout
from agent.station.server import Station, StationInfo
from agent.station.settings import StationSettings

Publisher: TypeAlias = Any
QUICK = {"poll": 0.02, "shadow_seconds": 0.0, "watch_seconds": 0.0, "windows": 20, "slower": 1e6}
"""How long a trial lasts is counted in windows alone, and no machine is too slow for it."""


class Page(Station):
    """The page, which also writes down what it is told of trials."""

    def __init__(self, parts: Parts, metrics: Metrics) -> None:
        super().__init__(StationSettings(port=0), metrics, StationInfo(parts.manifest, "0"))
        self.words: list[str] = []

    def trial(self, model: str, words: str) -> None:
        super().trial(model, words)
        self.words.append(words)


@dataclass
class Ward:
    """An agent's line and rollout under load: three beds, as fast as their windows are answered."""

    parts: Parts
    rollout: Rollout
    metrics: Metrics
    page: Page
    found: list[Prediction] = field(default_factory=list)
    sent: int = 0

    @property
    def bundle(self) -> Bundle:
        return self.parts.bundles[0][0]

    @property
    def serving(self) -> str:
        return self.parts.batcher.engine

    async def read(self) -> None:
        async for predictions in self.parts.batcher:
            self.found += predictions

    async def load(self) -> None:
        windows = self.bundle.golden_windows
        while True:
            for bed in range(3):
                start = 5.0 * self.sent
                samples = windows[(self.sent + bed) % len(windows)]
                leads = (Provenance.MEASURED,) * 12
                self.parts.batcher.submit(
                    Window(f"a/b/{bed}", "m", 0, start, start + 10, 250.0, samples, leads, time.monotonic())
                )
            self.sent += 1
            # Something waits most of the time, and now and then nothing does: an engine on trial gets what is left.
            await self.parts.batcher.drain(waiting=0 if self.sent % 3 == 0 else 6)
            await asyncio.sleep(0)

    def nothing_is_lost(self) -> None:
        """Each window was answered once and in its bed's order, and none dropped."""
        assert totals(self.metrics.windows_dropped) == {}
        for bed in range(3):
            starts = [p.window.start for p in self.found if p.window.bed == f"a/b/{bed}"]
            assert starts == [5.0 * i for i in range(self.sent)]


async def until(found: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not found():
            await asyncio.sleep(0.01)


async def counted(ward: Ward, outcome: str) -> None:
    """Wait until a trial has ended so: written down, counted and shown."""
    await until(lambda: f"ward/{outcome}" in totals(ward.metrics.trials))


@asynccontextmanager
async def running(config: Config, *, planned: bool = True) -> AsyncIterator[Ward]:
    """``planned``: the agent comes to a planned end."""
    metrics = Metrics()
    async with open_parts(config, metrics, (), config.agent.state_dir, remember=True) as parts:
        page = Page(parts, metrics)
        ward = Ward(parts, parts.rollout(config, metrics, page), metrics, page)
        reader, load, rollout = (asyncio.create_task(w) for w in (ward.read(), ward.load(), ward.rollout.run()))
        test = asyncio.current_task()
        assert test is not None
        rollout.add_done_callback(lambda ended: None if ended.cancelled() else test.cancel())  # it has died: why, below
        try:
            yield ward
        finally:
            load.cancel()
            rollout.cancel()
            (ended,) = await asyncio.gather(rollout, return_exceptions=True)
            await parts.batcher.drain()
            reader.cancel()
            if planned:
                ward.rollout.stopped()
        assert isinstance(ended, asyncio.CancelledError), ended


@pytest.fixture
def config(publisher: Publisher, tmp_path: Path) -> Callable[..., Config]:
    folder = publisher.write()

    def make(**rollout: Any) -> Config:
        return Config.model_validate(
            {
                "agent": {"state_dir": tmp_path / "state"},
                "engine": {"bundle": folder, "trusted_keys": [publisher.public], "queue_per_bed": 64, "max_wait": 0.0},
                "serving": {"answer_within": 1e4, "expire_after": 1e4},  # no machine is too busy for a trial
                "rollout": QUICK | rollout,
            }
        )

    return make


def compile_requested(config: Config) -> str:
    """What `deepecg-agent rebuild --requested` does; the engine's name."""
    state = config.agent.state_dir
    request = read_request(state)
    assert request is not None
    bundle = open_bundle(config.engine.bundle or Path(), config.engine.trust())
    (wanted,) = request.wanted
    done = rebuild(bundle, wanted.flavour, wanted.precision, state, config.engine, this_machine())
    (state / REQUEST).unlink()
    return done.engine.path.name


def compile_by_hand(config: Config) -> str:
    bundle = open_bundle(config.engine.bundle or Path(), config.engine.trust())
    return rebuild(bundle, "openvino", "int8w", config.agent.state_dir, config.engine, this_machine()).engine.path.name


class Faulty:
    """A real engine, until it is told otherwise. On silence, by which its speed is first tried, it is without fault."""

    def __init__(self, inner: Backend, fault: str) -> None:
        self.inner = inner
        self.name = inner.name
        self.fault = fault

    def infer(self, x: FloatArray) -> FloatArray:
        out = self.inner.infer(x)
        if not x.any():
            return out
        match self.fault:
            case "disagrees":
                return 1 - out
            case "not finite":
                out[0, 0] = np.nan
            case "raises":
                raise RuntimeError("the device fell off the bus")
            case "slow":
                time.sleep(0.05 * len(x))
        return out

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        raise AssertionError((windows, rate))


@dataclass
class Canaries:
    """What rollouts have opened: the first is the first engine on trial, and has this fault."""

    fault: str = ""
    engines: list[Faulty] = field(default_factory=list)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Canaries:
    opened = Canaries()

    @contextmanager
    def opener(*arguments: Any, **named: Any) -> Iterator[Opened]:
        with open_backend(*arguments, **named) as found:
            opened.engines.append(Faulty(found.backend, "" if opened.engines else opened.fault))
            yield replace(found, backend=opened.engines[-1])

    monkeypatch.setattr(module, "open_backend", opener)
    return opened


def record_of(config: Config) -> Record:
    return read_record(config.agent.state_dir)


def stage(config: Config) -> Stage | None:
    tried = list(record_of(config).tried.values())
    return tried[-1].stage if tried else None


async def test_an_engine_that_does_not_fit_is_compiled_tried_promoted_and_kept(
    config: Callable[..., Config], sample: Callable[..., float]
) -> None:
    """From the first start to the one after: the whole way, with real engines."""
    settings = config()
    state = settings.agent.state_dir
    with capture_logs() as logs:
        async with running(settings) as ward:
            assert ward.serving == "openvino-f32"
            assert "no_such_feature" in ward.parts.batcher.states()[0].note
            await until((state / REQUEST).exists)
            await until(lambda: "openvino-int8w was asked for" in (ward.page.words or [""])[-1])
            wanted = sample(ward.metrics, "deepecg_rebuild_wanted", model="ward")
            assert wanted == 1
            name = await asyncio.to_thread(compile_requested, settings)
            await until(lambda: ward.serving == "openvino-int8w")
            await counted(ward, "kept")
            await until(lambda: ward.parts.batcher.states()[0].shadow == "")
            await until(lambda: sample(ward.metrics, "deepecg_rebuild_wanted", model="ward") == 0)
    ward.nothing_is_lost()
    assert not (state / REQUEST).exists(), "nothing more is asked for"
    engines = [p.engine for p in ward.found]
    assert engines == sorted(engines), "f32 until the change, int8w after it"
    assert set(engines) == {"openvino-f32", "openvino-int8w"}
    record = record_of(settings)
    assert record.serving[ward.bundle.sha256].engine == name
    assert record.tried[name].figures["windows"] >= 20
    assert totals(ward.metrics.trials) == {"ward/promoted": 1, "ward/kept": 1}
    said = [entry["stage"] for entry in logs if entry["event"] == "engine_trial"]
    assert said == ["shadow", "watch", "kept"]
    assert any(f"{name} is on trial beside it since" in words for words in ward.page.words)
    assert any("the one before it stands by" in words for words in ward.page.words)

    async with running(settings) as ward:
        assert ward.serving == "openvino-int8w"
        assert ward.parts.batcher.states()[0].note == ""
        await until(lambda: f"{name}, compiled on this machine" in (ward.page.words or [""])[-1])
        assert not (state / REQUEST).exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("disagrees", "of the last 16 windows differ by more than"),
        ("not finite", "not finite"),
        ("raises", "the device fell off the bus"),
        ("slow", "a window takes"),
    ],
)
async def test_an_engine_that_does_not_hold_is_rejected(
    config: Callable[..., Config], faulty: Canaries, fault: str, words: str
) -> None:
    settings = config(**({"slower": 1.5} if fault == "slow" else {}))
    name = compile_by_hand(settings)
    faulty.fault = fault
    async with running(settings) as ward:
        await counted(ward, "rejected")
        assert ward.serving == "openvino-f32"
        await until(lambda: ward.parts.batcher.states()[0].shadow == "")
        await until(lambda: f"{name} was rejected at" in (ward.page.words or [""])[-1])
        await asyncio.sleep(0.1)  # five looks
        assert len(faulty.engines) == 1, "it is not tried again"
        assert not (settings.agent.state_dir / REQUEST).exists(), "nor compiled again"
    ward.nothing_is_lost()
    assert words in record_of(settings).tried[name].reason
    assert {p.engine for p in ward.found} == {"openvino-f32"}
    assert totals(ward.metrics.trials) == {"ward/rejected": 1}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("disagrees", "(of the last 16 windows differ by more than|probability_p999 is)"),
        ("not finite", "not finite"),
        ("raises", r"has failed while serving \(the device fell off the bus\)"),
        ("slow", "(a window takes|windows could be compared: it leaves the engine before it no time)"),
    ],
)
async def test_an_engine_that_fails_after_it_was_promoted_is_rolled_back_and_no_window_lost(
    config: Callable[..., Config], faulty: Canaries, fault: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STARVED", 0.5 if fault == "slow" else 300.0)
    settings = config(watch_seconds=60.0)
    name = compile_by_hand(settings)
    async with running(settings) as ward:
        await until(lambda: stage(settings) is Stage.WATCH)
        assert ward.serving == "openvino-int8w"
        if fault == "slow":  # only now, so that it is promoted on any machine
            object.__setattr__(settings.rollout, "slower", 1.5)
        faulty.engines[0].fault = fault
        await counted(ward, "rolled_back")
        assert ward.serving == "openvino-f32"
        last = len(ward.found)
        await until(lambda: len(ward.found) > last + 50)
        assert {p.engine for p in ward.found[last + 20 :]} == {"openvino-f32"}
        assert ward.parts.batcher.states()[0].shadow == ""
    ward.nothing_is_lost()
    record = record_of(settings)
    assert re.search(words, record.tried[name].reason)
    assert record.serving == {}
    assert totals(ward.metrics.trials) == {"ward/promoted": 1, "ward/rolled_back": 1}
    assert all(np.isfinite(p.probabilities).all() for p in ward.found)
    async with running(settings) as ward:
        assert ward.serving == "openvino-f32"


async def test_an_engine_that_does_not_open_is_rejected(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def broken(*_: Any, **__: Any) -> Iterator[Opened]:
        raise EngineError("the GPU's driver is too old; install a newer one.")
        yield

    settings = config()
    compile_by_hand(settings)
    monkeypatch.setattr(module, "open_backend", broken)
    async with running(settings) as ward:
        await until(lambda: stage(settings) is Stage.REJECTED)
    ward.nothing_is_lost()
    assert "driver is too old" in next(iter(record_of(settings).tried.values())).reason


async def test_a_restart_in_the_middle_goes_on_and_a_crash_does_not(config: Callable[..., Config]) -> None:
    settings = config(watch_seconds=60.0)
    name = compile_by_hand(settings)
    async with running(settings) as ward:
        await until(lambda: stage(settings) is Stage.WATCH)
        assert not record_of(settings).serving[ward.bundle.sha256].ended
    assert record_of(settings).serving[ward.bundle.sha256].ended

    async with running(settings, planned=False) as ward:
        assert ward.serving == "openvino-int8w"
        await until(lambda: ward.parts.batcher.states()[0].shadow == "openvino-f32")
        await until(lambda: not record_of(settings).serving[ward.bundle.sha256].ended)
    ward.nothing_is_lost()

    async with running(settings) as ward:
        assert ward.serving == "openvino-f32"
        assert "came to no planned end" in ward.parts.batcher.states()[0].note
        await until(lambda: stage(settings) is Stage.ROLLED_BACK)
        await until(lambda: f"{name} was rolled back" in (ward.page.words or [""])[-1])
    assert record_of(settings).serving == {}


@pytest.mark.parametrize("planned", [True, False])
async def test_a_trial_begins_anew_after_a_restart_and_not_after_a_crash(
    config: Callable[..., Config], planned: bool
) -> None:
    """An engine that hangs ends the process, and would again and again."""
    settings = config(shadow_seconds=60.0)
    name = compile_by_hand(settings)
    async with running(settings, planned=planned) as ward:
        await until(lambda: ward.parts.batcher.states()[0].shadow == "openvino-int8w")
        assert stage(settings) is Stage.SHADOW
    assert stage(settings) is (None if planned else Stage.SHADOW)
    async with running(config()) as ward:
        await until(lambda: stage(settings) is (Stage.KEPT if planned else Stage.REJECTED))
    ward.nothing_is_lost()
    assert ("no planned end" in record_of(settings).tried[name].reason) is not planned


async def test_a_restart_in_the_middle_comes_to_its_end(config: Callable[..., Config]) -> None:
    settings = config(watch_seconds=60.0)
    compile_by_hand(settings)
    async with running(settings):
        await until(lambda: stage(settings) is Stage.WATCH)
    async with running(config()) as ward:
        await until(lambda: stage(settings) is Stage.KEPT)
        assert ward.serving == "openvino-int8w"
    ward.nothing_is_lost()


async def test_what_was_promoted_and_fits_no_more_is_asked_for_again(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config()
    compile_by_hand(settings)
    async with running(settings):
        await until(lambda: stage(settings) is Stage.KEPT)
    here = this_machine()
    updated = here.model_copy(update={"libraries": {**here.libraries, "openvino": "2099.1"}})
    monkeypatch.setattr("agent.runtime.build.this_machine", lambda: updated)
    async with running(settings) as ward:
        assert ward.serving == "openvino-f32"
        assert "openvino is 2099.1 instead of" in ward.parts.batcher.states()[0].note
        await until((settings.agent.state_dir / REQUEST).exists)
    request = read_request(settings.agent.state_dir)
    assert request is not None
    assert [(w.flavour, w.precision) for w in request.wanted] == [("openvino", "int8w")]


async def test_what_failed_to_compile_is_said_and_not_asked_for_again(config: Callable[..., Config]) -> None:
    settings = config()
    bundle = open_bundle(settings.engine.bundle or Path(), settings.engine.trust())
    strict = replace(
        bundle,
        manifest=bundle.manifest.model_copy(
            update={"limits": bundle.manifest.limits.model_copy(update={"probability_max": 1e-9})}
        ),
    )
    with pytest.raises(ValueError, match="fails the gate"):
        rebuild(strict, "openvino", "int8w", settings.agent.state_dir, settings.engine, this_machine())
    async with running(settings) as ward:
        await until(lambda: ward.page.words)
        assert "openvino-int8w could not be compiled here" in ward.page.words[-1]
        assert "fails the gate" in ward.page.words[-1]
        await asyncio.sleep(0.1)  # five looks
        assert len(ward.page.words) == 1, "nothing has changed"
    assert not (settings.agent.state_dir / REQUEST).exists()


async def test_an_engine_for_a_gpu_is_not_asked_for_where_there_is_none(
    publisher: Publisher, config: Callable[..., Config]
) -> None:
    settings = config()
    f32 = {
        "flavour": "openvino",
        "precision": "f32",
        "library": "openvino",
        "files": ["model.xml", "model.bin"],
        "parity": {"windows": 5, "probability_max": 1e-6},
    }
    torch_cuda = f32 | {"flavour": "torch-cuda", "target": {"kind": "gpu"}}
    folder = publisher.write("gpu", engines=[torch_cuda, f32])
    engine = settings.engine.model_copy(update={"bundle": folder})
    settings = settings.model_copy(update={"engine": engine})
    async with running(settings) as ward:
        await until(lambda: ward.page.words)
        assert "torch-cuda-f32 cannot be compiled for this machine" in ward.page.words[-1]
    assert not (settings.agent.state_dir / REQUEST).exists()


async def test_a_person_may_have_an_engine_tried_again(config: Callable[..., Config], faulty: Canaries) -> None:
    settings = config()
    name = compile_by_hand(settings)
    faulty.fault = "disagrees"
    async with running(settings):
        await until(lambda: stage(settings) is Stage.REJECTED)
        update_record(settings.agent.state_dir, lambda record: record.with_canary(name, None))
        await until(lambda: stage(settings) is Stage.KEPT)


async def test_a_disk_that_is_full_stops_no_trial(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config()
    compile_by_hand(settings)

    def full(path: Path, content: bytes) -> None:
        if path.name == RECORD:
            raise OSError(28, "No space left on device")
        write_atomic(path, content)

    monkeypatch.setattr("agent.engines.local.record.write_atomic", full)
    with capture_logs() as logs:
        async with running(settings) as ward:
            await until(lambda: ward.serving == "openvino-int8w")
    ward.nothing_is_lost()
    assert any(entry["event"] == "engines_record_not_written" for entry in logs)


async def test_where_nothing_works_what_was_compiled_here_serves(
    publisher: Publisher, config: Callable[..., Config]
) -> None:
    settings = config()
    f32 = {
        "flavour": "openvino",
        "precision": "int8w",
        "library": "openvino",
        "files": ["model.xml", "model.bin"],
        "target": {"kind": "cpu", "cpu_features": ["no_such_feature"]},
        "parity": {"windows": 5, "probability_max": 1e-6},
    }
    folder = publisher.write("none", engines=[f32])
    engine = settings.engine.model_copy(update={"bundle": folder})
    settings = settings.model_copy(update={"engine": engine})
    with pytest.raises(Exception, match="Others were asked for"):
        async with running(settings):
            pass
    name = compile_requested(settings)
    async with running(settings) as ward:
        assert ward.serving == "openvino-int8w"
        await asyncio.sleep(0.2)
    ward.nothing_is_lost()
    assert record_of(settings).tried == {}
    bundle = ward.bundle
    assert [b.path.name for b in choose(settings.agent.state_dir, bundle, this_machine()).last] == [name]


def test_a_request_names_what_is_wanted() -> None:
    assert set(Wanted.model_fields) == {"parent", "model", "flavour", "precision", "reason"}
