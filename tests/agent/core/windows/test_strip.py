"""What a window holds, and when it is cut."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agent.core.census import Stay
from agent.core.ecg import (
    Encounter,
    Gap,
    GapReason,
    Lead,
    Provenance,
    Window,
)
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower

SETTINGS = WindowingSettings()
MONITOR = (Lead.I, Lead.II, Lead.III)
M, D, X = Provenance.MEASURED, Provenance.DERIVED, Provenance.MISSING


@pytest.mark.parametrize("rate", [100, 125, 240, 250, 360, 500, 1000])
def test_windows_hold_the_device_s_own_samples_on_the_absolute_grid(make: SimpleNamespace, rate: int) -> None:
    signal = make.strip(23, rate)
    windows, gaps = make.run(make.cut(signal, rate))
    assert [w.start - make.T0 for w in windows] == [0, 5, 10]
    assert not gaps
    for w in windows:
        first = round((w.start - make.T0) * rate)
        assert w.rate == rate
        assert w.end == w.start + 10
        assert w.samples.shape == (12, 10 * rate)
        assert w.samples.dtype == np.float32
        for row, lead in enumerate(MONITOR):
            assert np.array_equal(w.samples[row], signal[lead][first : first + 10 * rate])
        assert w.provenance == (M, M, M, D, D, D, X, X, X, X, X, X)
        assert not w.samples[6:].any()
        assert w.received == w.end - make.T0


def test_a_window_starts_on_a_multiple_of_the_stride_whenever_the_feed_began(make: SimpleNamespace) -> None:
    signal = make.strip(30, 250)
    windows, _ = make.run(
        make.block(signal, 250, a, a + 250, start=make.T0 + 3.256 + a / 250) for a in range(0, 7500, 250)
    )
    assert [w.start - make.T0 for w in windows] == [5, 10, 15, 20]
    assert np.array_equal(windows[0].samples[1], signal[Lead.II][436 : 436 + 2500])


def test_filter_labels_paced_encounter_and_computed_leads_are_carried(make: SimpleNamespace) -> None:
    signal = make.strip(10, 250)
    channels = (
        make.channel(Lead.I, 250.0, filter_label="0.5-40 Hz"),
        make.channel(Lead.II, 250.0),
        make.channel(Lead.III, 250.0, derived=True),
    )
    who = Encounter(patient_ids=("1",))
    blocks = [replace(b, channels=channels) for b in make.cut(signal, 250)]
    blocks[3] = replace(blocks[3], paced=True)
    windower = Windower(SETTINGS)
    (w,) = [item for b in blocks for item in windower.push(b, Stay(7, who))]
    assert isinstance(w, Window)
    assert w.filter_labels == ("0.5-40 Hz",)
    assert w.paced is True
    assert (w.generation, w.encounter) == (7, who)
    assert w.provenance[:4] == (M, M, D, D)


def test_the_pacemaker_status_is_remembered_when_its_block_is_gone(make: SimpleNamespace) -> None:
    blocks = make.cut(make.strip(40, 250), 250)
    blocks[0] = replace(blocks[0], paced=True)
    windows, _ = make.run(blocks)
    assert [w.paced for w in windows] == [True] * 7


def test_a_lead_that_lags_is_waited_for_and_then_missing(make: SimpleNamespace) -> None:
    signal = make.strip(20, 250, (Lead.I, Lead.II, Lead.V1))
    limb = {lead: signal[lead] for lead in (Lead.I, Lead.II)}
    chest = {Lead.V1: signal[Lead.V1]}
    blocks = []
    for second in range(20):
        blocks.append(make.block(limb, 250, 250 * second, 250 * second + 250))
        if second < 8:
            blocks.append(make.block(chest, 250, 250 * second, 250 * second + 250))
    windower = Windower(SETTINGS)
    until_12, _ = make.push(windower, [b for b in blocks if (b.start or 0) < make.T0 + 12])
    assert not until_12
    after, gaps = make.push(windower, [b for b in blocks if (b.start or 0) >= make.T0 + 12])
    assert [w.start - make.T0 for w in after] == [0, 5, 10]
    assert not gaps
    for w in after:
        assert w.provenance[6] is X
        assert not w.samples[6].any()
    # The wait counts as latency: a window is complete with the last sample that is in it.
    assert [w.received for w in after] == [10.0, 15.0, 20.0]


def test_one_invalid_sample_takes_its_lead_out_of_the_window(make: SimpleNamespace) -> None:
    signal = make.strip(20, 250)
    signal[Lead.I][600] = np.nan
    windows, gaps = make.run(make.cut(signal, 250))
    assert not gaps
    assert windows[0].provenance[:6] == (X, M, M, X, X, X)  # nothing is derived without I
    assert not windows[0].samples[0].any()
    assert all(np.isfinite(w.samples).all() for w in windows)
    assert windows[1].provenance[:6] == (M, M, M, D, D, D)


def test_a_window_of_invalid_leads_is_a_gap(make: SimpleNamespace) -> None:
    signal = make.strip(20, 250)
    for values in signal.values():
        values[600:900] = np.nan
    windows, gaps = make.run(make.cut(signal, 250))
    assert [w.start - make.T0 for w in windows] == [5, 10]
    assert gaps == [Gap("h/icu/1", "m", make.T0, make.T0 + 10, GapReason.INVALID)]


def test_an_infinite_value_is_no_sample(make: SimpleNamespace) -> None:
    signal = make.strip(10, 250)
    signal[Lead.III][5] = np.inf
    (w,), _ = make.run(make.cut(signal, 250))
    assert w.provenance[2] is D  # from I and II, as if it had not come
    assert np.isfinite(w.samples).all()


def test_the_windows_of_a_ward_end_spread_over_the_stride(make: SimpleNamespace) -> None:
    w = Windower(WindowingSettings())
    starts = set()
    for k in range(40):
        windows, _ = make.push(w, [replace(b, bed=f"h/icu/{k}") for b in make.cut(make.strip(16, 250), 250)])
        starts.add(windows[0].start % 5)
    assert starts == {0.0, 1.0, 2.0, 3.0, 4.0}
