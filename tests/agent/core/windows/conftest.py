"""Makers of signal and of the blocks that carry it, and a windower that is fed with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pytest

from agent.core.census import Census, CensusEvent, Left
from agent.core.ecg import (
    Channel,
    ChannelKind,
    EncounterChange,
    FloatArray,
    Gap,
    Lead,
    Provenance,
    Samples,
    Window,
)
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower

SETTINGS = WindowingSettings()
MONITOR = (Lead.I, Lead.II, Lead.III)
M, D, X = Provenance.MEASURED, Provenance.DERIVED, Provenance.MISSING


BED = "h/icu/1"
T0 = 1_700_000_000.0 + crc32(BED.encode()) % 5
"""On the grid of BED's windows."""
OTHERS = [bed for k in range(2, 99) if crc32((bed := f"h/icu/{k}").encode()) % 5 == crc32(BED.encode()) % 5]
"""Beds whose windows are on the same grid."""


def channel(lead: Lead | None, rate: float, **more: object) -> Channel:
    return replace(Channel(ChannelKind.ECG, 0, str(lead), "mV", rate, lead), **more)  # type: ignore[arg-type]


def strip(seconds: float, rate: int, leads: Sequence[Lead] = MONITOR, seed: int = 0) -> dict[Lead, FloatArray]:
    rng = np.random.default_rng(seed)
    return {lead: rng.standard_normal(round(seconds * rate)).astype(np.float32) for lead in leads}


def block(
    signal: dict[Lead, FloatArray], rate: int, first: int, last: int, *, start: float | None = -1.0, **more: object
) -> Samples:
    at = T0 + first / rate if start == -1.0 else start
    s = Samples(
        bed=BED,
        device="m",
        channels=tuple(channel(lead, float(rate)) for lead in signal),
        values=tuple(v[first:last] for v in signal.values()),
        start=at,
        received=last / rate,
    )
    return replace(s, **more)  # type: ignore[arg-type]


def cut(signal: dict[Lead, FloatArray], rate: int, step: float = 1.0, **more: object) -> list[Samples]:
    n = len(next(iter(signal.values())))
    size = round(step * rate)
    return [block(signal, rate, a, min(a + size, n), **more) for a in range(0, n, size)]


def push(windower: Windower, blocks: Iterable[Samples]) -> tuple[list[Window], list[Gap]]:
    windows: list[Window] = []
    gaps: list[Gap] = []
    for b in blocks:
        for result in windower.push(b):
            (windows if isinstance(result, Window) else gaps).append(result)  # type: ignore[arg-type]
    return windows, gaps


def run(blocks: Iterable[Samples], s: WindowingSettings = SETTINGS) -> tuple[list[Window], list[Gap]]:
    return push(Windower(s), blocks)


def assert_same(a: list[Window], b: list[Window]) -> None:
    assert [w.start for w in a] == [w.start for w in b]
    for x, y in zip(a, b, strict=True):
        assert x.provenance == y.provenance
        assert x.paced == y.paced
        assert x.filter_labels == y.filter_labels
        assert np.array_equal(x.samples, y.samples)


class Ward:
    """A census before a windower, as in the line."""

    def __init__(self, settings: WindowingSettings = SETTINGS) -> None:
        self.census = Census(settings.max_beds, settings.idle)
        self.windower = Windower(settings)

    def push(self, blocks: Iterable[Samples]) -> tuple[list[Window], list[Gap]]:
        windows: list[Window] = []
        gaps: list[Gap] = []
        for b in blocks:
            if self.windower.refuses(b):
                continue
            gaps += self._leave(self.census.identify(b.bed, b.device, b.encounter, b.received))
            stay = self.census.stay(b.bed)
            for result in () if stay is None else self.windower.push(b, stay):
                (windows if isinstance(result, Window) else gaps).append(result)  # type: ignore[arg-type]
        return windows, gaps

    def adt(self, change: EncounterChange) -> list[Gap]:
        return self._leave(self.census.apply(change))

    def _leave(self, events: Iterable[CensusEvent]) -> list[Gap]:
        return [gap for event in events if isinstance(event, Left) for gap in self.windower.leave(event)]


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """``make.strip`` is a signal, ``make.cut`` its blocks, ``make.run`` what a windower makes of them."""
    return SimpleNamespace(
        BED=BED,
        T0=T0,
        OTHERS=OTHERS,
        channel=channel,
        strip=strip,
        block=block,
        cut=cut,
        push=push,
        run=run,
        assert_same=assert_same,
        Ward=Ward,
    )
