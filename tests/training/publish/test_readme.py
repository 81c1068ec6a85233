"""The README of a bundle: what it is and every score, whether there is evidence or none."""

from __future__ import annotations

from agent.core.bundle.manifest import AlertRule, Evidence, Label, Quantity, Training
from agent.core.preprocessing import Preprocessing
from training.data import WindowTable
from training.evaluation.alerts import Persistence, Replay
from training.evaluation.evidence import LEAD_SETS, POOLED, Score, groups, source_group
from training.models.sl import DeepECGSL
from training.publish.contents import identity_of, input_of, training_of
from training.publish.readme import readme_of, readme_of_model
from training.train.recipes import smoke

RULE = Replay(
    threshold=0.8,
    rule=Persistence(7),
    false_alerts=0,
    negative_hours=24.0,
    false_alert_patients=0,
    negative_patients=30,
    episodes=10,
    detected=9,
    positive_patients=5,
    detected_patients=5,
    sensitivity=0.9,
    delays=(40.0, 45.0),
)


def score(lower: float = 0.9, positive: int = 30, label: str = "Afib") -> Score:
    return Score(
        label=label,
        auroc=0.95,
        lower=lower,
        upper=0.99,
        positive_patients=positive,
        negative_patients=100,
        positive_windows=500,
        negative_windows=900,
    )


def test_it_says_what_it_is_and_every_score(small_table: WindowTable) -> None:
    training = training_of(small_table, smoke(), {"Afib": score()}, {"Afib": RULE}, (0, 1, 2))
    by_group: dict[str, dict[str, Score]] = {name: {} for name in groups(small_table)}
    by_group |= {POOLED: {"Afib": score(), "Atrial flutter": score(positive=5, label="Atrial flutter")}}
    by_group |= {name: {"Afib": score(positive=7)} for name in LEAD_SETS}
    by_group[source_group("mitdb")] = {"Afib": score(positive=3)}
    net = DeepECGSL(smoke().network)  # type: ignore[arg-type]
    text = readme_of(identity_of(net, "1.2.0"), training, by_group, {"Afib": RULE}, ["It is blind to x."])
    assert text.startswith("# deepecg-sl-demo\n")
    assert "not the published DeepECG weights" in text
    assert "| **Afib** | 0.950 |" in text
    assert "| Atrial flutter | 0.950 |" in text  # shown for honesty, not in bold
    assert "0.950 (7) | 0.950 (7) |" in text, "by lead set"
    assert "| Afib | 0.950 (3) |" in text, "by source"
    assert "What it is known to get wrong\n\n- It is blind to x." in text
    assert "known to get wrong" not in readme_of(identity_of(net, "1.2.0"), training, by_group, {})


def test_a_model_s_shows_each_output_and_says_that_none_has_evidence() -> None:
    identity = identity_of(DeepECGSL(smoke().network), "1.2.0")  # type: ignore[arg-type]
    training = Training(summary="Weights: of unknown origin.", datasets={}, patients=0, windows=0)
    evidence = Evidence(auroc=0.91, lower=0.88, upper=0.95, positive_patients=25, negative_patients=90)
    rule = AlertRule(
        threshold=0.7,
        release=0.35,
        open_after=5,
        close_after=2,
        priority="PM",
        false_alerts_per_bed_day=0.1,
        false_alerts_upper=0.5,
        negative_hours=24.0,
    )
    labels = (
        Label(name="LVEF", severity="normal", quantity=Quantity(unit="%", scale=100.0)),
        Label(name="LQTS", severity="pathological", threshold=0.25),
    )
    text = readme_of_model(identity, training, labels, input_of(Preprocessing(), "random"), ["It is untrained."])
    assert "needs any of them" in text
    assert "None has evidence of its own here" in text
    assert "| LVEF (× 100 %) | – | – | – |" in text
    assert "| LQTS | – | 0.25 | – |" in text
    assert "What it is known to get wrong\n\n- It is untrained." in text
    sure = (labels[1].model_copy(update={"evidence": evidence, "rule": rule}),)
    text = readme_of_model(identity, training, sure, input_of(Preprocessing(), "bedside"))
    assert "and needs II." in text
    assert "None has evidence" not in text
    assert "| LQTS | 0.910 (0.880–0.950), 25 | 0.25 | 0.7 in 5 windows |" in text
    assert "known to get wrong" not in text
