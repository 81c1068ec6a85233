"""The published preprocessing against tensors of the public code, and against the defects that it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.core.ecg import LEADS, Lead
from agent.core.leads import derive
from agent.core.preprocessing import Preprocessing, prepare
from agent.simulator.ecg import Rhythm, synthesize
from training.importers import reference_preprocessing as reference
from training.importers.reference_preprocessing import Cohort, process

FIXTURES = ("preproc_nopeak", "preproc_batch6_dummy", "preproc_single_dummy")
Signals = NDArray[np.float64]


def tensors(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """about.json, and the arrays by name; signals as (B, 12, T)."""
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    for name in ("input", "step2_scaled", "output"):
        arrays[name] = arrays[name].transpose(0, 2, 1)
    return json.loads((folder / "about.json").read_text("utf-8")), arrays


def bands(found: Any) -> list[list[list[float]]]:
    return [[list(band) for band in lead] for lead in found]


@pytest.mark.parametrize("name", FIXTURES)
def test_every_step_is_that_of_the_public_code(fixtures_dir: Path, name: str) -> None:
    about, arrays = tensors(fixtures_dir / name)
    signals = arrays["input"]
    np.testing.assert_array_equal(reference.FREQUENCIES, arrays["freqs"])
    np.testing.assert_allclose(reference.mean_spectrum(signals[:, 0]), arrays["step1_mean_spectrum_leadI"], rtol=1e-6)
    factor = reference.scale_of(signals)
    assert factor == pytest.approx(about["factor"], rel=1e-6)
    scaled = signals * factor
    np.testing.assert_allclose(scaled, arrays["step2_scaled"], rtol=1e-5, atol=1e-9)

    spectra = reference.mean_spectrum(scaled)
    np.testing.assert_allclose(spectra, arrays["step3_mean_spectrum_per_lead"], rtol=1e-5, atol=1e-6)
    ranges = reference.peak_ranges(spectra[0])
    assert [list(r) for r in ranges] == about["peak_ranges_hz"]  # to the bin
    for i, spectrum in enumerate(spectra):
        median, smooth = reference.trend(spectrum)
        np.testing.assert_allclose(median, arrays["step3_medfilt_per_lead"][i], rtol=1e-5)
        np.testing.assert_allclose(smooth, arrays["step3_lowess_per_lead"][i], rtol=1e-5)
    if ranges:
        found = [reference.crossings(spectrum, ranges) for spectrum in spectra]
        assert bands(found) == about["crossings_hz_per_lead"]
        assert bands(map(reference.widened, found)) == about["widened_hz_per_lead"]

    made = Cohort.fit(signals).apply(signals)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, arrays["output"], rtol=0, atol=1e-5)  # the fixture asks for 1e-4 mV


# --- what the fixtures do not reach: several peaks, harmonics, ranges that come twice


def ranges_by_the_description(spectrum: NDArray[np.float32]) -> tuple[tuple[float, float], ...]:
    """Step 3 word by word, one bin of one window at a time."""
    f = reference.FREQUENCIES[reference.FREQUENCIES >= 20]
    s = spectrum[reference.FREQUENCIES >= 20]
    flagged: list[int] = []
    known: set[float] = set()
    for first in range(len(s) - 50 + 1):
        window = s[first : first + 50]
        mean, deviation = window.mean(), window.std()
        for j in range(50):
            near = any(abs(f[first + j] - n * k) <= 1e-8 + 0.05 * n * k for k in known for n in (2, 3, 4))
            if window[j] > mean + (3.25 if near else 5) * deviation:
                flagged.append(first + j)
                known.add(float(f[first + j]))
    regions: list[list[int]] = []
    for before, bin_ in zip([None, *flagged], flagged, strict=False):
        if before is not None and f[bin_] - f[before] <= 1:
            regions[-1].append(bin_)
        else:
            regions.append([bin_])
    return tuple((float(f[region[0]]), float(f[region[-1]])) for region in regions)


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.tuples(st.integers(210, 1240), st.sampled_from([1, 2, 5]), st.floats(1, 60)), max_size=5),
    st.integers(0, 2**31),
)
def test_ranges_are_those_of_the_description(peaks: list[tuple[int, int, float]], seed: int) -> None:
    spectrum = np.random.default_rng(seed).uniform(0.5, 1.5, 2500).astype(np.float32)
    for bin_, width, height in peaks:
        spectrum[bin_ : bin_ + width] += height
    assert reference.peak_ranges(spectrum) == ranges_by_the_description(spectrum)


def test_harmonics_have_a_lower_bar_and_only_after_their_peak() -> None:
    base = np.random.default_rng(0).uniform(0.9, 1.1, 2500).astype(np.float32)
    weak = base.copy()
    weak[900] = 1.1 + 3.2 * base[875:925].std()  # 90 Hz: between the two bars
    assert reference.peak_ranges(weak) == ()
    both = weak.copy()
    both[300] = 10  # 30 Hz, of which 90 is the third multiple
    found = set(reference.peak_ranges(both))
    assert (30.0, 30.0) in found
    assert any(abs(low - 90) < 0.01 for low, _ in found)
    after = weak.copy()
    after[1200] = 10  # 120 Hz comes after 90, and 90 is no multiple of it
    assert {round(low) for low, _ in reference.peak_ranges(after)} == {120}


@settings(deadline=None, max_examples=6)
@given(st.lists(st.integers(310, 1240), min_size=1, max_size=4), st.integers(0, 2**31))
def test_crossings_are_those_of_the_description(middles: list[int], seed: int) -> None:
    """From the middle outwards, bin by bin, until the spectrum changes sides of its trend."""
    spectrum = np.random.default_rng(seed).uniform(0.5, 1.5, 2500).astype(np.float32)
    spectrum[middles] += 20
    ranges = tuple((float(reference.FREQUENCIES[m - 2]), float(reference.FREQUENCIES[m + 2])) for m in middles)
    f, s = reference.FREQUENCIES[300:1250], spectrum[300:1250]
    _, smooth = reference.trend(spectrum)

    def crosses(i: int) -> bool:
        return bool((s[i - 1] - smooth[i - 1]) * (s[i] - smooth[i]) < 0)

    for (start, end), found in zip(ranges, reference.crossings(spectrum, ranges), strict=True):
        middle = min(range(950), key=lambda i: abs(f[i] - (start + end) / 2))
        low = next((f[i] for i in range(middle, 0, -1) if crosses(i)), start)
        high = next((f[i] for i in range(middle, 949) if crosses(i + 1)), end)
        assert found == (low, high)


def test_a_band_becomes_a_line_and_its_phase_stays() -> None:
    x = np.random.default_rng(1).normal(size=(3, 2500))
    kept = x.copy()
    made = reference.flatten(x, ((49.0, 51.0), (70.0, 60.0)))
    before, after = np.fft.fft(x), np.fft.fft(made)
    line = np.abs(after[:, 490:511])
    np.testing.assert_allclose(np.diff(line, 2), 0, atol=1e-3)
    np.testing.assert_allclose(line[:, [0, -1]], np.abs(before[:, [490, 510]]), atol=1e-3)
    np.testing.assert_allclose(np.angle(after[:, 490:511]), np.angle(before[:, 490:511]), atol=1e-3)
    outside = np.setdiff1d(np.arange(1251), np.arange(490, 511))  # a band with its ends exchanged does nothing
    np.testing.assert_allclose(after[:, outside], before[:, outside], atol=1e-3)
    assert np.array_equal(x, kept)


# --- the reference's defects


def batch(count: int, hum: float = 0.0) -> Signals:
    """Synthetic records in ADC counts; ``hum`` mV of 60 Hz in every lead."""
    t = np.arange(2500) / 250
    rows = [synthesize(Rhythm.SINUS, seconds=10, rate=250, seed=seed) for seed in range(count)]
    return (np.stack(rows).astype(np.float64) + hum * np.sin(2 * np.pi * 60 * t)) / 0.0048


@pytest.mark.parametrize("hum", [False, True])
def test_the_input_is_left_as_it_was(hum: bool) -> None:
    signals = batch(3, 0.2) if hum else np.random.default_rng(3).normal(size=(3, 12, 2500))
    kept = signals.copy()
    cohort = Cohort.fit(signals)
    made = cohort.apply(signals)
    process({"a": signals[0]})
    assert np.array_equal(signals, kept), "the public code scales its input in place"
    assert not np.shares_memory(made, signals)
    assert any(cohort.bands) == hum


def test_one_record_depends_on_its_batch_here_and_nowhere_else() -> None:
    """The documented trait of the published pipeline, and the two modes that do not have it."""
    quiet, loud = batch(4, 0.1), batch(4) * 5
    alone = process({"x": quiet[0]}).signals[0]
    together = process({"x": quiet[0], **{str(i): signal for i, signal in enumerate(loud)}}).signals[0]
    assert np.abs(alone).max() > 1.5 * np.abs(together).max()

    cohort = Cohort.fit(quiet, monitor="one")
    everyone = np.concatenate([quiet[:1], loud])
    np.testing.assert_array_equal(cohort.apply(quiet[:1])[0], cohort.apply(everyone)[0])
    p = Preprocessing()
    as_floats = (everyone * 0.0048).astype(np.float32)
    np.testing.assert_array_equal(prepare(as_floats[:1], 250, p)[0], prepare(as_floats, 250, p)[0])


@pytest.mark.parametrize("name", FIXTURES)
def test_a_cohort_applied_to_its_own_batch_is_the_batch_mode(fixtures_dir: Path, name: str) -> None:
    _, arrays = tensors(fixtures_dir / name)
    signals = arrays["input"]
    made = process({f"r{i}": signal for i, signal in enumerate(signals)}, monitor="fixture")
    again = Cohort.model_validate_json(made.cohort.model_dump_json())
    assert again == made.cohort
    assert (again.monitor, again.records) == ("fixture", len(signals))
    np.testing.assert_array_equal(again.apply(signals), made.signals)
    np.testing.assert_array_equal(np.stack([again.apply(one[None])[0] for one in signals]), made.signals)


def test_a_record_without_some_samples_is_refused_by_name_and_the_others_are_as_without_it() -> None:
    signals = batch(3, 0.1)
    spoilt = signals[1].copy()
    spoilt[4, 100] = np.nan
    endless = signals[1].copy()
    endless[0, 0] = np.inf
    short = signals[1][:, :2000]
    made = process({"a": signals[0], "bad": spoilt, "inf": endless, "short": short, "c": signals[2]})
    assert made.names == ("a", "c")
    assert made.refused["bad"] == "bad lacks samples in aVL: the published pipeline takes none such"
    assert "inf lacks samples in I:" in made.refused["inf"]
    assert "2000 samples" in made.refused["short"]
    assert np.isfinite(made.signals).all()
    np.testing.assert_array_equal(made.signals, process({"a": signals[0], "c": signals[2]}).signals)


def test_what_cannot_be_processed_is_told() -> None:
    signals = batch(2)
    spoilt = signals.copy()
    spoilt[1, 0, 0] = np.nan
    for call in (Cohort.fit, Cohort.fit(signals).apply):
        with pytest.raises(ValueError, match="record 1 of the batch lacks samples"):
            call(spoilt)
        with pytest.raises(ValueError, match=r"give \(records, 12, 2500\)"):
            call(signals[0])
    with pytest.raises(ValueError, match="lead I is silent"):
        Cohort.fit(np.zeros((2, 12, 2500)))
    with pytest.raises(ValueError, match="no record of the batch can be used: x has"):
        process({"x": signals[0][:, :10]})
    with pytest.raises(ValueError, match="it is empty"):
        process({})
    with pytest.raises(ValueError, match="give twelve leads"):
        process({"x": signals[0][:3]})
    with pytest.raises(ValueError, match="2501 samples instead of 2500"):
        process({"x": np.zeros((12, 5001))})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Cohort.model_validate({"records": 0, "factor": 1.0, "bands": [[]] * 12})


def test_samples_are_taken_out_without_a_filter() -> None:
    """As the public code does it: 100 Hz at 500 samples a second comes out unchanged, 200 Hz as 50 Hz."""
    t = np.arange(5000) / 500
    signal = np.tile(np.sin(2 * np.pi * 200 * t), (12, 1))
    made = reference.load(signal, "x")
    np.testing.assert_array_equal(made, signal[:, ::2])
    assert np.abs(np.fft.rfft(made[0])).argmax() == 500
    np.testing.assert_array_equal(reference.load(signal.T, "x"), made)
    assert not np.shares_memory(reference.load(signal[:, :2500], "x"), signal)


def test_limb_leads_are_computed_by_the_same_formulas() -> None:
    rng = np.random.default_rng(2)
    i, ii = rng.normal(size=(2, 50)).astype(np.float32)
    found, _ = derive({Lead.I: i, Lead.II: ii}, 50)
    wanted = {Lead.III: ii - i, Lead.AVR: -(i + ii) / 2, Lead.AVL: i - ii / 2, Lead.AVF: ii - i / 2}
    for lead, values in wanted.items():
        np.testing.assert_allclose(found[LEADS.index(lead)], values, atol=1e-6)
