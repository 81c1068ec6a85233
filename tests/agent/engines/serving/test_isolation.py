"""No window's answer depends on any other: beds, models, patients, rates and drops in any order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.bundle.manifest import Manifest
from agent.core.ecg import FloatArray, Lead, Prediction, Provenance, Window
from agent.engines.backends.openvino import OpenVinoEngine
from agent.engines.base import Backend
from agent.engines.bundles.bundle import Bundle
from agent.engines.serving.batcher import Batcher
from agent.engines.serving.model import Model
from agent.engines.serving.queue import DropReason
from agent.engines.serving.settings import ModelSettings, ServingSettings
from agent.engines.settings import EngineSettings
from agent.ops.metrics import Metrics, totals

WindowMaker = Callable[..., Window]
PATIENT = ServingSettings(answer_within=60.0, expire_after=60.0)
RATES = (100.0, 250.0, 500.0)
CHEST_OFF = (Provenance.MEASURED,) * 6 + (Provenance.MISSING,) * 6
ALL = (Provenance.MEASURED,) * 12


@dataclass(frozen=True)
class Look:
    """A bed's next window."""

    bed: int
    rate: int
    pause: float
    chest: bool


@dataclass(frozen=True)
class Arrive:
    """Another patient in a bed."""

    bed: int


@dataclass(frozen=True)
class Ask:
    """Somebody wants another look."""

    bed: int


Step = Look | Arrive | Ask
LOOK = st.builds(Look, st.integers(0, 3), st.integers(0, 2), st.sampled_from((0.0, 0.0, 0.0, 0.004)), st.booleans())
STEPS = st.lists(
    st.one_of(LOOK, LOOK, LOOK, LOOK, st.builds(Arrive, st.integers(0, 3)), st.builds(Ask, st.integers(0, 3))),
    min_size=1,
    max_size=30,
)
Key = tuple[str, str, int, float]


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[Backend]:
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        yield engine


def manifests(bundle: Bundle) -> list[Manifest]:
    """Three models of one network: one takes all leads, one is deaf to all but two, one filters otherwise."""
    m, spec = bundle.manifest, bundle.manifest.input
    two = spec.model_copy(update={"accepted_leads": (Lead.I, Lead.II), "required_leads": (Lead.II,)})
    other = spec.model_copy(
        update={
            "required_leads": (Lead.II, Lead.V1),
            "preprocessing": spec.preprocessing.model_copy(update={"highpass": 5.0}),
        }
    )
    return [
        m,
        m.model_copy(update={"name": "two", "input": two}),
        m.model_copy(update={"name": "once", "input": other}),
    ]


async def run(
    models: Sequence[Model], steps: Sequence[Step], make_window: WindowMaker, engine: EngineSettings
) -> tuple[dict[Key, FloatArray], int]:
    """The answers by model, bed, patient and start; and windows that were lost."""
    found: list[Prediction] = []
    metrics = Metrics()
    generation, start = [0] * 4, [0] * 4
    async with Batcher(models, engine, PATIENT, metrics) as batcher:

        async def read() -> None:
            async for predictions in batcher:
                found.extend(predictions)

        reader = asyncio.create_task(read())
        while not all(state.engine for state in batcher.states()):
            await asyncio.sleep(0.001)
        for step in steps:
            match step:
                case Look(bed, rate, pause, chest):
                    start[bed] += 5
                    samples = windows(make_window, bed, start[bed], RATES[rate], chest)
                    batcher.submit(replace(samples, generation=generation[bed], received=time.monotonic()))
                    await asyncio.sleep(pause)
                case Arrive(bed):
                    generation[bed] += 1
                case Ask(bed):
                    for model in models[1:]:
                        batcher.request(f"bed {bed}", model.name)
        await asyncio.wait_for(batcher.drain(), 60)
        reader.cancel()
    answers = {(p.model, p.window.bed, p.window.generation, p.window.start): p.probabilities for p in found}
    assert len(answers) == len(found), "a window was answered twice"
    return answers, totals(metrics.windows_dropped).get(DropReason.OVERLOAD, 0)


def windows(make_window: WindowMaker, bed: int, start: int, rate: float, chest: bool) -> Window:
    window = make_window(bed=f"bed {bed}", seed=1000 * bed + start, rate=rate)
    samples = window.samples if chest else window.samples * np.repeat([1, 0], 6)[:, np.newaxis].astype(np.float32)
    return replace(window, start=float(start), samples=samples, provenance=ALL if chest else CHEST_OFF)


@dataclass(frozen=True)
class Compared:
    """A ward's answers, held against those that each bed gets when it is alone, one window at a time, none lost."""

    answers: int
    lost: int
    differ: tuple[Key, ...]


def compare(
    bundle: Bundle,
    backend: Callable[[], Backend],
    steps: Sequence[Step],
    make_window: WindowMaker,
    **engine: Any,
) -> Compared:
    first, two, once = manifests(bundle)

    def models(often: bool) -> list[Model]:
        every = ModelSettings(bundle="x", every=1e-9 if often else 12.0)
        last = every if often else ModelSettings(bundle="x", once=True)
        return [
            Model(first, lambda: nullcontext(backend())),
            Model(two, lambda: nullcontext(backend()), every),
            Model(once, lambda: nullcontext(backend()), last),
        ]

    together, lost = asyncio.run(run(models(False), steps, make_window, EngineSettings(**engine)))
    alone: dict[Key, FloatArray] = {}
    for bed in range(4):
        mine = [step for step in steps if step.bed == bed]
        slowly = [replace(step, pause=0.0) if isinstance(step, Look) else step for step in mine]
        spacious = EngineSettings(queue_per_bed=64, max_batch=1)
        alone |= asyncio.run(run(models(True), slowly, make_window, spacious))[0]
    assert together.keys() <= alone.keys()
    for name in ("two", "once"):
        patients = [key[:3] for key in together if key[0].startswith(name)]
        asked = sum(isinstance(step, Ask) for step in steps)
        assert name == "two" or len(patients) <= len(set(patients)) + asked
    differ = tuple(key for key, found in together.items() if not np.array_equal(found, alone[key]))
    return Compared(len(together), lost, differ)


@given(STEPS, st.integers(1, 3), st.sampled_from((1, 3, 8)), st.sampled_from((2, 1024)))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_answer_is_the_one_that_the_bed_gets_alone(
    bundle: Bundle,
    engine: Backend,
    make_window: WindowMaker,
    steps: list[Step],
    per_bed: int,
    max_batch: int,
    queue: int,
) -> None:
    settings = {"queue_per_bed": per_bed, "max_batch": max_batch, "queue": queue}
    assert compare(bundle, lambda: engine, steps, make_window, **settings).differ == ()


BUSY: list[Step] = [
    *(Look(bed, rate, 0.0, chest=True) for rate in (0, 1) for bed in range(4)),
    Arrive(1),
    *(Look(bed, 1, 0.0, chest=bed != 2) for bed in (0, 1, 2, 3, 1)),
    Ask(1),
    *(Look(bed, 2, 0.004, chest=True) for bed in (1, 0, 3, 2, 1)),
    *(Look(3, 1, 0.0, chest=True) for _ in range(12)),
]


def test_a_busy_ward_loses_windows_and_mixes_none(bundle: Bundle, engine: Backend, make_window: WindowMaker) -> None:
    found = compare(bundle, lambda: engine, BUSY, make_window, queue_per_bed=1, max_batch=4)
    assert found.differ == ()
    assert found.answers > 15
    assert found.lost > 5


class Remembers:
    """A network with a memory: a little of each answer is in the next one, as of a state that is never reset."""

    name = "openvino-f32"

    def __init__(self, engine: Backend) -> None:
        self.engine = engine
        self.last = np.zeros(3, np.float32)

    def infer(self, x: FloatArray) -> FloatArray:
        out = self.engine.infer(x)
        for i in range(len(out)):
            out[i] += 0.01 * self.last
            self.last = out[i].copy()
        return out

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        raise AssertionError((windows, rate))


class Compares(Remembers):
    """One that looks at its batch as a whole, as a normalisation in training mode does."""

    def infer(self, x: FloatArray) -> FloatArray:
        out = self.engine.infer(x)
        mean: FloatArray = out.mean(axis=0, keepdims=True)
        return out - 0.5 * (mean - out[:1])


class Aliases(Remembers):
    """One that gives out its own buffer, which the next batch overwrites."""

    def __init__(self, engine: Backend) -> None:
        super().__init__(engine)
        self.buffer = np.empty((64, 3), np.float32)

    def infer(self, x: FloatArray) -> FloatArray:
        self.buffer[: len(x)] = self.engine.infer(x)
        return self.buffer[: len(x)]


@pytest.mark.parametrize("leak", [Remembers, Compares, Aliases])
def test_a_network_with_a_memory_is_caught(
    bundle: Bundle, engine: Backend, make_window: WindowMaker, leak: type[Remembers]
) -> None:
    """The comparison above is one that can find something."""
    spacious = {"queue_per_bed": 64, "max_batch": 8}
    assert compare(bundle, lambda: engine, BUSY, make_window, **spacious).differ == ()
    assert len(compare(bundle, lambda: leak(engine), BUSY, make_window, **spacious).differ) > 5
