"""Thresholds against the agent's own alerting, and against a plain search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from agent.core.alerting.alerting import Alerting
from agent.core.bundle.manifest import (
    AlertRule,
    ChangeRecord,
    Engine,
    Evidence,
    FileEntry,
    Golden,
    InputSpec,
    Label,
    Manifest,
    Training,
)
from agent.core.ecg import LEADS, Phase, Prediction, Priority, Provenance, Window
from agent.core.preprocessing import Preprocessing
from training.evaluation.alerts import (
    Persistence,
    Track,
    alerts,
    choose,
    choose_rule,
    episodes,
    poisson_interval,
    replay,
    unmatched,
)

RULE = Persistence(open_after=3, close_after=2, release=0.5)


def track(probability: Sequence[float], truth: Sequence[int], start: Sequence[float] | None = None) -> Track:
    n = len(probability)
    return Track(
        patient="p",
        start=np.arange(n) * 5.0 if start is None else np.asarray(start, float),
        seconds=10.0,
        probability=np.asarray(probability, np.float32),
        truth=np.asarray(truth, np.int8),
    )


def random_track(seed: int, n: int = 400) -> Track:
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.random(n // 8 + 1), 8)[:n]
    p = np.clip(level + rng.normal(0, 0.15, n), 0, 1)
    start = np.cumsum(np.where(rng.random(n) < 0.03, 25.0, 5.0))  # gaps of signal now and then
    return track(p, rng.choice([0, 0, 0, 1, -1], n // 10 + 1).repeat(10)[:n], start)


def manifest(threshold: float, rule: Persistence) -> Manifest:
    file = FileEntry(sha256="0" * 64, size=0)
    alert = AlertRule(
        threshold=threshold,
        release=threshold * rule.release,
        open_after=rule.open_after,
        close_after=rule.close_after,
        priority=Priority.MEDIUM,
        false_alerts_per_bed_day=0,
        false_alerts_upper=1,
        negative_hours=1,
    )
    evidence = Evidence(auroc=0.9, lower=0.9, upper=0.9, positive_patients=20, negative_patients=20)
    return Manifest(
        name="test",
        version="1",
        architecture="",
        statement="",
        weights_sha256="0" * 64,
        input=InputSpec(required_leads=(), preprocessing=Preprocessing()),
        labels=(Label(name="Afib", severity="pathological", evidence=evidence, rule=alert),),
        engines=(Engine(flavour="openvino", precision="f32", library="", files=("a", "b")),),
        golden=Golden(windows="w", probabilities="p", tolerance=1),
        files=dict.fromkeys("abwp", file),
        training=Training(summary="", datasets={}, patients=0, windows=0),
        change=ChangeRecord(what="", how_tested="", impact=""),
    )


def alerts_of_the_agent(t: Track, threshold: float, rule: Persistence) -> list[tuple[int, int]]:
    alerting = Alerting(manifest(threshold, rule))
    found: list[tuple[int, int]] = []
    opened: int | None = None
    for i, (start, p) in enumerate(zip(t.start, t.probability, strict=True)):
        window = Window(
            bed="a/b/c",
            device="d",
            generation=0,
            start=float(start),
            end=float(start) + t.seconds,
            rate=250.0,
            samples=np.zeros((12, 1), np.float32),
            provenance=(Provenance.MEASURED,) * len(LEADS),
            received=float(start) + t.seconds,
        )
        prediction = Prediction(window, "test/1", "none", np.array([p], np.float32), completed=window.received)
        for alert in alerting.on_prediction(prediction, wall=window.received):
            if alert.phase is Phase.START:
                opened = i
            elif alert.phase is Phase.END:
                assert opened is not None
                found.append((opened, i))
                opened = None
    return [*found, (opened, len(t.probability) - 1)] if opened is not None else found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.8])
def test_replay_opens_and_closes_as_the_agent_does(seed: int, threshold: float) -> None:
    t = random_track(seed)
    found = alerts(t, threshold, RULE)
    assert found == alerts_of_the_agent(t, threshold, RULE)
    assert found or threshold > 0.5


def test_an_alert_is_false_only_where_the_opening_window_is_known_to_be_negative() -> None:
    t = track([0.9] * 4 + [0.0] * 4 + [0.9] * 4 + [0.0] * 4 + [0.9] * 5, [0] * 8 + [-1] * 8 + [1] * 5)
    found = replay([t], 0.5, RULE)
    assert (found.false_alerts, found.episodes, found.detected) == (1, 1, 1)
    assert found.negative_hours == pytest.approx(8 * 5 / 3600)
    assert found.delays == (20.0,)  # third window of the episode: 2 × 5 s, and the window's own ten


def test_chosen_threshold_is_the_lowest_with_only_good_ones_above() -> None:
    tracks = [replace(t, probability=0.9 * t.probability) for t in map(random_track, range(4))]
    candidates = [i / 50 for i in range(1, 50)]
    fine = {t: replay(tracks, t, RULE).per_bed_day <= 1.0 for t in candidates}
    expected = min(t for t in candidates if all(ok for other, ok in fine.items() if other >= t))
    found = choose(tracks, RULE, candidates)
    assert found is not None
    assert found.threshold == expected
    assert found.per_bed_day <= 1.0


def test_the_persistence_that_finds_more_wins() -> None:
    # Noise of seven windows and an episode of nine at the same height: only nine windows tell them apart.
    t = track([0.6] * 7 + [0.0] * 9 + [0.6] * 12, [0] * 16 + [1] * 12)
    found = choose_rule([t])
    assert found is not None
    assert (found.rule.open_after, found.detected, found.false_alerts) == (9, 1, 0)
    # Nothing but an episode: the fastest.
    found = choose_rule([track([0.0] * 9 + [0.6] * 12, [0] * 9 + [1] * 12)])
    assert found is not None
    assert (found.rule.open_after, found.detected) == (5, 1)


def test_no_threshold_where_every_one_is_too_noisy_or_nothing_is_negative() -> None:
    always = track([1.0] * 20, [0] * 20)
    assert choose([always], RULE) is None
    assert choose([track([0.0] * 20, [1] * 20)], RULE) is None


def test_episodes_are_unbroken_and_long_enough() -> None:
    assert episodes(track([0.0] * 9, [1, 1, 0, 1, 1, 1, -1, 1, 1]), 2) == [(0, 1), (3, 5), (7, 8)]
    assert episodes(track([0.0] * 9, [1, 1, 0, 1, 1, 1, -1, 1, 1]), 3) == [(3, 5)]


def test_poisson_interval_is_exact() -> None:
    assert poisson_interval(0) == pytest.approx((0.0, 3.6889), abs=1e-4)
    assert poisson_interval(10) == pytest.approx((4.7954, 18.3904), abs=1e-4)


def test_a_bundle_s_rule_is_the_same_persistence() -> None:
    (rule,) = (label.rule for label in manifest(0.8, RULE).labels if label.rule is not None)
    assert Persistence.of(rule) == RULE
    assert Persistence.of(rule.model_copy(update={"threshold": 0.0, "release": 0.0})).release == 0.0


def test_an_alert_is_matched_by_any_that_overlaps_it() -> None:
    one, other = [(0, 4), (10, 12), (20, 20)], [(4, 9), (13, 19), (20, 25)]
    assert unmatched(one, other) == [(10, 12)]
    assert unmatched(other, one) == [(13, 19)]
    assert unmatched(one, []) == one
    assert unmatched([], one) == []
