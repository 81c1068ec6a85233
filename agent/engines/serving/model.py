"""A model that is served: what it wants of a window, what is counted of it, and the canary beside its engine."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from agent.core.bundle.manifest import Manifest
from agent.core.ecg import LEADS, Prediction, Provenance, Window
from agent.core.leads import LEAD_INDEX
from agent.engines.base import EngineError
from agent.engines.select import Opened
from agent.engines.serving.cadence import Cadence
from agent.engines.serving.keeper import OpenEngine, Opener
from agent.engines.serving.queue import DropReason
from agent.engines.serving.settings import ModelSettings
from agent.engines.serving.worker import Answer
from agent.ops.metrics import Metrics


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model to serve."""

    manifest: Manifest
    opener: Opener
    """Its engine."""
    settings: ModelSettings | None = None
    """None: the first model, which gets every window."""

    @property
    def name(self) -> str:
        """By which it is known here: its bundle's name."""
        return self.manifest.name


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a model is served by at present."""

    model: str
    """Its bundle's name."""
    engine: str
    """Flavour and precision, as ``openvino-f32``; empty: it is not served (yet)."""
    note: str
    """Why a better engine does not serve, in one sentence."""
    problem: str
    """Why it is not served; empty: it is, or will be."""
    shadow: str
    """The canary; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the windows that a model's present engine was given."""

    answered: int = 0
    wrong: int = 0
    """Those that are finite and got an answer that is not."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One live window, computed by the engine that serves and by the canary."""

    served: Prediction
    shadow: Prediction
    """Of the same window: its bed, start, … are in either."""
    served_seconds: float
    """What the one took, filter and network: the window's share of its batch."""
    shadow_seconds: float
    """And the other."""


class Shadow:
    """A canary: an async iterator of comparisons, for one reader.

    Ends with `Batcher.unshadow` and with the batcher; raises `EngineError` when the canary has failed.
    """

    def __init__(self, engine: OpenEngine, keep: int) -> None:
        self.engine = engine
        self.wrong = 0
        """Windows that are finite and got an answer that is not."""
        self.stood_in = False
        """It has ended because the engine that served failed, and this one has taken its place."""
        self._found: asyncio.Queue[Comparison | None] = asyncio.Queue(keep + 1)  # and the end
        self._keep = keep
        self._problem = ""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Comparison:
        """The next comparison."""
        found = await self._found.get()
        if found is not None:
            return found
        self._found.put_nowait(None)
        if self._problem:
            raise EngineError(self._problem)
        raise StopAsyncIteration

    def add(self, comparison: Comparison) -> bool:
        """A comparison for the reader; False: there are too many that it has not read."""
        if self._found.qsize() >= self._keep:
            return False
        self._found.put_nowait(comparison)
        return True

    def end(self, problem: str = "") -> None:
        """No more will come."""
        self._problem = self._problem or problem
        with suppress(asyncio.QueueFull):  # it has been told already
            self._found.put_nowait(None)


class Served:
    """A model that is served, on the loop's side."""

    def __init__(self, model: Model, metrics: Metrics, answer_within: float) -> None:
        self.name = model.name
        self.manifest = model.manifest
        self.opener = model.opener
        self.answer_within = answer_within
        self.engine: OpenEngine | None = None
        """None: it has none (yet); nothing is given to it."""
        self.problem = ""
        self.shadow: Shadow | None = None
        self.tally = Tally()
        self.changing = asyncio.Lock()
        """Held while an engine is opened."""
        spec = model.manifest.input
        self.cadence = None if model.settings is None else Cadence(model.settings.every, spec.required_leads)
        """None: every window."""
        self._required = tuple(LEAD_INDEX[lead] for lead in spec.required_leads)
        self._seconds = spec.preprocessing.seconds
        self._metrics = metrics
        stages = [metrics.stages.labels(self.name, stage) for stage in ("queue", "filter", "inference", "total")]
        self._queue, self._filter, self._inference, self._total = stages
        self._windows = metrics.model_windows.labels(self.name)
        self._late = metrics.model_late.labels(self.name)

    def wants(self, window: Window) -> bool:
        """Whether it looks at this window, if it can."""
        return self.engine is not None and (self.cadence is None or self.cadence.is_due(window))

    def unfit(self, window: Window) -> DropReason | None:
        """Why it cannot look at it; None: it can."""
        if any(window.provenance[i] is Provenance.MISSING for i in self._required):
            return DropReason.LEADS
        if self.cadence is not None and not self.cadence.is_good(window):
            return DropReason.LEADS
        if window.rate % 1 or window.samples.shape != (len(LEADS), window.rate * self._seconds):
            return DropReason.SHAPE
        return None

    def given(self, window: Window) -> None:
        """The window waits for it."""
        if self.cadence is not None:
            self.cadence.given(window)

    def lost(self, window: Window, reason: DropReason) -> None:
        """A window that waited for it gets no answer."""
        if self.cadence is not None:
            self.cadence.answered(window, lost=True)
        self.count(reason)

    def count(self, reason: DropReason) -> None:
        """A window gets no answer."""
        self._metrics.model_dropped.labels(self.name, reason.value).inc()
        if self.cadence is None:
            self._metrics.windows_dropped.labels(reason=reason.value).inc()

    def answered(self, answer: Answer) -> tuple[Prediction, ...]:
        """Its predictions of a batch, all counted."""
        found: list[Prediction] = []
        if answer.engine is self.engine:
            sound = sum(prediction is not None for prediction in answer.predictions)
            self.tally = Tally(self.tally.answered + sound, self.tally.wrong + answer.wrong)
        self._filter.observe(answer.filtered)
        self._inference.observe(answer.inferred)
        for job, prediction in zip(answer.jobs, answer.predictions, strict=True):
            total = answer.ended - job.window.received
            self._queue.observe(answer.began - job.submitted)
            if prediction is None:
                self.lost(job.window, DropReason.NOT_FINITE)
                continue
            self._total.observe(total)
            self._windows.inc()
            if total > self.answer_within:
                self._late.inc()
            if self.cadence is None:
                self._metrics.prediction_latency.observe(total)
            else:
                self.cadence.answered(job.window, lost=False)
            found.append(prediction)
        if self.cadence is None:
            self._metrics.batch_size.observe(len(answer.jobs))
            self._metrics.inference.observe(answer.filtered + answer.inferred)
        return tuple(found)

    def compared(self, answer: Answer) -> None:
        """The same of a canary: its reader gets the comparisons."""
        if self.shadow is None or self.shadow.engine is not answer.engine:  # of one that no longer is
            for _ in answer.jobs:
                self.count_shadow(DropReason.UNREAD)
            return
        self.shadow.wrong += answer.wrong
        for job, prediction in zip(answer.jobs, answer.predictions, strict=True):
            served = job.reference
            if served is None or prediction is None:
                self.count_shadow(DropReason.NOT_FINITE)
                continue
            comparison = Comparison(served, prediction, job.seconds, answer.seconds)
            if self.shadow.add(comparison):
                self._metrics.shadow_windows.labels(self.name).inc()
            else:
                self.count_shadow(DropReason.UNREAD)

    def count_shadow(self, reason: DropReason) -> None:
        """A window is not compared."""
        self._metrics.shadow_dropped.labels(self.name, reason.value).inc()

    def is_served_by(self, engine: OpenEngine | None) -> None:
        """It has another engine, or none."""
        if self.engine is not None:
            self._metrics.model_engine.remove(self.name, self.engine.name)
        self.engine = engine
        self.tally = Tally()
        if engine is not None:
            self.problem = ""
            self._metrics.model_engine.labels(self.name, engine.name).set(1)
            skipped = len(engine.backend.skipped) if isinstance(engine.backend, Opened) else 0
            self._metrics.engine_fallbacks.labels(self.name).set(skipped)

    def state(self) -> ModelState:
        """For people."""
        engine = self.engine
        return ModelState(
            model=self.name,
            engine="" if engine is None else engine.name,
            note="" if engine is None else engine.note,
            problem=self.problem,
            shadow="" if self.shadow is None else self.shadow.engine.name,
        )
