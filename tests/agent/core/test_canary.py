"""The judge of two engines: what it lets pass, what it does not, and when."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.core.bundle.limits import ParityLimits
from agent.core.bundle.manifest import AlertRule, Evidence, Label, Manifest
from agent.core.canary import Canary, Decision, RolloutSettings, Spread
from agent.core.ecg import Prediction, Provenance, Window
from agent.engines.bundles.bundle import default_bundle, open_manifest

SHIPPED = open_manifest(default_bundle()).manifest
EVIDENCE = Evidence(auroc=0.9, lower=0.9, upper=0.9, positive_patients=20, negative_patients=20)
RULE = AlertRule(
    threshold=0.8,
    release=0.5,
    open_after=2,
    close_after=2,
    priority="PM",
    false_alerts_per_bed_day=0.0,
    false_alerts_upper=1.0,
    negative_hours=10.0,
)
LABELS = (
    Label(name="Afib", severity="pathological", evidence=EVIDENCE, rule=RULE),
    Label(name="Sinusal", severity="normal", evidence=EVIDENCE, threshold=0.5),
)
LIMITS = ParityLimits(probability_max=0.1, probability_p999=0.03, flips_share=0.05)
MANIFEST: Manifest = SHIPPED.model_copy(update={"labels": LABELS, "limits": LIMITS})
SETTINGS = RolloutSettings(windows=20, shadow_seconds=10.0)


def canary(manifest: Manifest = MANIFEST, settings: RolloutSettings = SETTINGS, seconds: float = 10.0) -> Canary:
    return Canary(manifest, settings, seconds=seconds, answer_within=2.0, began=100.0)


def answer(p: Sequence[float], n: int, bed: str = "a/b/1") -> Prediction:
    samples = np.zeros((12, 10), np.float32)
    window = Window(bed, "m", 0, 5.0 * n, 5.0 * n + 10, 1.0, samples, (Provenance.MEASURED,) * 12, 5.0 * n)
    return Prediction(window, MANIFEST.model_id, "x", np.array(p, np.float32), 0.0)


def compare(
    judge: Canary,
    old: Sequence[Sequence[float]],
    new: Sequence[Sequence[float]],
    times: tuple[float, float] = (0.01,) * 2,
) -> None:
    for n, (was, is_) in enumerate(zip(old, new, strict=True)):
        judge.add(answer(was, n), answer(is_, n), *times)


def reason(judge: Canary, now: float = 0.0) -> str:
    judgement = judge.judgement(now)
    assert judgement.decision is Decision.BROKEN
    return judgement.reason


def test_it_waits_for_its_time_and_for_a_round() -> None:
    judge = canary()
    compare(judge, [[0.1, 0.9]] * 19, [[0.1, 0.9]] * 19)
    assert judge.judgement(1000.0).decision is Decision.WAIT, "one window is missing"
    judge.add(answer([0.1, 0.9], 19), answer([0.1, 0.9], 19), 0.01, 0.01)
    assert judge.judgement(109.9).decision is Decision.WAIT
    assert judge.judgement(110.0).decision is Decision.HOLDS
    figures = judge.figures()
    assert (figures.windows, figures.flips, figures.alerts_differ, figures.shift_p999) == (20, 0, 0, 0.0)
    assert figures.median_old == figures.median_new == pytest.approx(0.01, rel=0.03)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.029), st.integers(1, 60))
@settings(max_examples=50)
def test_what_differs_by_less_than_the_limits_holds_and_by_more_does_not(seed: int, shift: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    old = rng.uniform(0.1, 0.4, (60, 2))  # on no threshold's other side
    signs = rng.choice([-1, 1], old.shape)
    few = canary(settings=RolloutSettings(windows=size))
    compare(few, old.tolist(), (old + 0.97 * shift * signs).tolist())
    assert few.judgement(1e6).decision is Decision.HOLDS
    assert few.figures().windows == 60
    many = canary(settings=RolloutSettings(windows=size))
    compare(many, old.tolist(), (old + (shift + 0.0315) * signs).tolist())
    assert "probability_p999" in reason(many)


def test_flips_at_the_thresholds_are_counted_by_label() -> None:
    old, new = [[0.1, 0.51]] * 20, [[0.1, 0.51]] * 18 + [[0.1, 0.49]] * 2
    judge = canary()
    compare(judge, old, new)
    assert "flips_share is 0.1, above 0.05, over windows 1 to 20" in reason(judge)
    judge = canary()
    compare(judge, old, [*new[:19], old[0]])
    assert judge.judgement(1e6).decision is Decision.HOLDS, "a single window breaks nothing"


def test_an_engine_gone_mad_is_found_at_once_however_good_it_was() -> None:
    judge = canary(settings=RolloutSettings(windows=1000))
    compare(judge, [[0.1, 0.9]] * 900, [[0.1, 0.9]] * 900)
    bad = 0
    while judge.judgement(0.0).decision is Decision.WAIT:
        judge.add(answer([0.1, 0.9], 900 + bad), answer([0.1, 0.3], 900 + bad), 0.01, 0.01)
        bad += 1
    assert bad == 9
    assert "of the last 16 windows differ by more than 0.1" in reason(judge)


@pytest.mark.parametrize("shift", [0.99, 0.995, 1.0])
def test_an_engine_that_says_the_contrary_is_broken(shift: float) -> None:
    """Its quantiles are rounded, and a share above one is none: the judge has to say so, not to fail."""
    judge = canary(settings=RolloutSettings(windows=5))
    compare(judge, [[0.0, 1.0]] * 5, [[shift, 1.0 - shift]] * 5)
    assert f"probability_p999 is {shift:.3g}" in reason(judge) or "probability_p999 is 1" in reason(judge)


def test_a_rare_outlier_is_no_reason() -> None:
    judge = canary(settings=RolloutSettings(windows=2000))
    old = [[0.1, 0.2]] * 2000
    compare(judge, old, [[0.1, 0.4], *old[1:]])  # one of 4000 answers
    assert judge.judgement(1e6).decision is Decision.HOLDS


def test_an_answer_that_is_not_finite_ends_it() -> None:
    judge = canary()
    judge.not_finite(0)
    assert judge.judgement(0.0).decision is Decision.WAIT
    judge.not_finite(1)
    assert reason(judge) == "1 window got an answer that is not finite"
    compare(judge, [[0.1, 0.9]] * 40, [[0.1, 0.9]] * 40)
    assert reason(judge, 1e6).startswith("1 window"), "what is broken stays broken"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (0.01, 0.0149, ""),
        (0.01, 0.018, "a window takes 18.. ms in the median, and took 10.. ms before"),
        (0.0001, 0.001, ""),
        (1.9, 2.1, "above answer_within"),
        (0.01, 0.0001, ""),
    ],
)
def test_latency(old: float, new: float, words: str) -> None:
    judge = canary()
    compare(judge, [[0.1, 0.9]] * 20, [[0.1, 0.9]] * 20, (old, new))
    if words:
        assert re.search(words, reason(judge)), reason(judge)
    else:
        assert judge.judgement(1e6).decision is Decision.HOLDS


def test_a_slow_tail_counts_too() -> None:
    judge = canary(settings=RolloutSettings(windows=100))
    for n in range(100):
        judge.add(answer([0.1, 0.9], n), answer([0.1, 0.9], n), 0.01, 0.01 if n % 30 else 0.5)
    assert "99th percentile" in reason(judge)


UP, DOWN = [0.81, 0.2], [0.1, 0.2]


def test_an_alert_that_opens_a_window_later_is_the_same_alert() -> None:
    loose = MANIFEST.model_copy(update={"limits": ParityLimits(probability_max=1, probability_p999=1, flips_share=1)})
    judge = canary(loose)
    compare(
        judge,
        [*[UP] * 5, *[DOWN] * 15],
        [DOWN, *[UP] * 6, *[DOWN] * 13],
    )
    figures = judge.figures()
    assert (figures.alerts_old, figures.alerts_new, figures.alerts_differ) == (1, 1, 0)
    assert judge.judgement(1e6).decision is Decision.HOLDS


@pytest.mark.parametrize("who", [0, 1])
def test_an_alert_of_one_engine_alone_differs(who: int) -> None:
    loose = MANIFEST.model_copy(update={"limits": ParityLimits(probability_max=1, probability_p999=1, flips_share=1)})
    judge = canary(loose)
    sides = [[*[UP] * 5, *[DOWN] * 15], [DOWN] * 20]
    compare(judge, sides[who], sides[1 - who])
    assert judge.figures().alerts_differ == 1
    assert "1 alerts of one engine are none of the other" in reason(judge)
    generous = canary(loose, RolloutSettings(windows=20, alerts_share=1.0))
    compare(generous, sides[who], sides[1 - who])
    assert generous.judgement(1e6).decision is Decision.HOLDS


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), max_size=80))
@example([("a", False, True)] * 2 + [("a", True, False)] * 2)
@example([("a", True, False)] * 2 + [("a", False, True)] * 2)
@settings(max_examples=200)
def test_alerts_that_differ_are_those_that_never_met(steps: list[tuple[str, bool, bool]]) -> None:
    """Against a plain account: the intervals of either engine's alerts, held against each other afterwards."""
    loose = MANIFEST.model_copy(update={"limits": ParityLimits(probability_max=1, probability_p999=1, flips_share=1)})
    judge = canary(loose, RolloutSettings(windows=1000))
    sides: dict[tuple[str, int], list[bool]] = {(bed, who): [] for bed in "ab" for who in (0, 1)}
    for bed, old, new in steps:
        n = len(sides[bed, 0])
        judge.add(answer(UP if old else DOWN, n, bed), answer(UP if new else DOWN, n, bed), 0.01, 0.01)
        sides[bed, 0].append(old)
        sides[bed, 1].append(new)

    def alerts(ups: list[bool]) -> list[tuple[int, int | None]]:
        """From the second window up in a row to the second down in a row; None: open at the end."""
        found: list[tuple[int, int | None]] = []
        began: int | None = None
        for n in range(1, len(ups)):
            if began is None and ups[n] and ups[n - 1]:
                began = n
            elif began is not None and not ups[n] and not ups[n - 1]:
                found.append((began, n))
                began = None
        return [*found, (began, None)] if began is not None else found

    differ = 0
    for bed in "ab":
        both = [alerts(sides[bed, who]) for who in (0, 1)]
        for who in (0, 1):
            for began, ended in both[who]:
                # Of one window the old engine's answer comes first, so these are places on one line.
                ends = None if ended is None else 2 * ended + who
                others = [(2 * b + 1 - who, None if e is None else 2 * e + 1 - who) for b, e in both[1 - who]]
                met = any((ends is None or b < ends) and (e is None or e > 2 * began + who) for b, e in others)
                differ += ended is not None and not met
    figures = judge.figures()
    assert figures.alerts_old == sum(len(alerts(sides[bed, 0])) for bed in "ab")
    assert figures.alerts_new == sum(len(alerts(sides[bed, 1])) for bed in "ab")
    assert figures.alerts_differ == differ


@given(st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_a_spread_s_quantile_is_within_two_per_cent(values: list[float], q: float) -> None:
    spread = Spread()
    for part in np.array_split(np.array(values), 3):
        spread.add(part)
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    assert exact * 0.999 <= spread.quantile(q) <= min(exact * 1.0201, max(values) * 1.000001)


def test_a_spread_of_nothing_and_of_zeros() -> None:
    assert Spread().quantile(0.5) == 0.0
    spread = Spread()
    spread.add(np.array([0.0, 0.0, 1e9]))
    assert spread.quantile(0.5) == 0.0
    assert spread.quantile(1.0) > 900


def test_settings_refuse_nonsense() -> None:
    for bad in (
        {"slower": 0.5},
        {"windows": 0},
        {"alerts_share": 2.0},
        {"poll": 0.0},
        {"shadow_seconds": float("nan")},
    ):
        with pytest.raises(ValidationError):
            RolloutSettings.model_validate(bad)
