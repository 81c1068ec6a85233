"""Which leads of a message are used."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agent.core.ecg import (
    Channel,
    ChannelKind,
    Gap,
    GapReason,
    Lead,
    Provenance,
    Samples,
)
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower

SETTINGS = WindowingSettings()
MONITOR = (Lead.I, Lead.II, Lead.III)
M, D, X = Provenance.MEASURED, Provenance.DERIVED, Provenance.MISSING


def test_a_lead_at_another_rate_is_left_out_and_counted(make: SimpleNamespace) -> None:
    signal = make.strip(20, 500, (Lead.I, Lead.II, Lead.V1))
    w = Windower(SETTINGS)
    blocks = []
    for b in make.cut(signal, 500):
        channels = (*b.channels[:2], make.channel(Lead.V1, 250.0))
        blocks.append(replace(b, channels=channels, values=(*b.values[:2], b.values[2][::2])))
    windows, gaps = make.push(w, blocks)
    assert [x.provenance[6] for x in windows] == [X, X, X]
    assert all(x.rate == 500 for x in windows)
    assert not gaps
    assert w.counts["rate_mismatch"] == 20


@pytest.mark.parametrize(
    ("told", "used"), [(249.8, 250.0), (250.3, 250.0), (62.5, None), (2000.0, None), (100.7, None)]
)
def test_the_rate_is_taken_as_whole_hertz_where_it_is_nearly_so(
    make: SimpleNamespace, told: float, used: float | None
) -> None:
    blocks = [
        replace(b, channels=tuple(replace(c, rate=told) for c in b.channels))
        for b in make.cut(make.strip(20, 250), 250)
    ]
    windows, gaps = make.run(blocks)
    assert {w.rate for w in windows} == ({used} if used else set())
    assert {g.reason for g in gaps} == (set() if used else {GapReason.NO_LEADS})


def test_messages_without_a_usable_lead_are_gaps_and_other_channels_are_nothing(make: SimpleNamespace) -> None:
    pleth = Channel(ChannelKind.PLETH, 150452, "Pleth", "1", 125.0)
    values = (np.zeros(125, np.float32),)
    w = Windower(SETTINGS)
    assert w.push(Samples("h/icu/1", "m", (pleth,), values, make.T0, 0.0)) == ()
    assert w.beds == ()
    unspecified = (make.channel(None, 125.0),)
    assert w.push(Samples("h/icu/1", "m", unspecified, values, make.T0, 0.0)) == (
        Gap("h/icu/1", "m", make.T0, make.T0 + 1, GapReason.NO_LEADS),
    )
