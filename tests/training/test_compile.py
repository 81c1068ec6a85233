"""What the manifest and its README say of a run: evidence, rules, sources, what was held out."""

from __future__ import annotations

import numpy as np

from agent.core.labels import LABEL_NAMES
from training.compile import labels_of, readme_of, trained_on, training_of
from training.data import WindowTable
from training.evaluation.alerts import Persistence, Replay
from training.evaluation.evidence import POOLED, Score, groups
from training.recipes import smoke

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


def test_a_rule_needs_evidence_and_a_pathological_label() -> None:
    scores = {
        "Afib": score(),
        "Sinusal": score(),
        "Atrial flutter": score(positive=19),
        "Ventricular tachycardia": score(lower=0.84),
    }
    labels = {x.name: x for x in labels_of(scores, dict.fromkeys(scores, RULE))}
    assert list(labels) == list(LABEL_NAMES)
    assert labels["Afib"].evidence is not None
    assert labels["Afib"].rule is not None
    assert (labels["Afib"].rule.threshold, labels["Afib"].rule.release, labels["Afib"].rule.open_after) == (0.8, 0.4, 7)
    assert labels["Sinusal"].evidence is not None
    assert labels["Sinusal"].rule is None  # a normal finding
    for name in ("Atrial flutter", "Ventricular tachycardia", "Brugada"):
        assert labels[name].evidence is None
        assert labels[name].rule is None


def test_held_out_patients_are_never_trained_on_and_are_named(small_table: WindowTable) -> None:
    use = trained_on(small_table)
    assert not (use & small_table.held_out).any()
    assert use.sum() == len(small_table) - 3
    training = training_of(small_table, smoke(), {"Afib": score()}, {"Afib": RULE})
    assert training.held_out == ("mitdb/p19",)
    assert training.patients == len(np.unique(small_table.patient)) - 1
    assert set(training.datasets) == {"ptbxl500", "mitdb"}


def test_the_readme_says_what_it_is_and_every_score(small_table: WindowTable) -> None:
    training = training_of(small_table, smoke(), {"Afib": score()}, {"Afib": RULE})
    by_group: dict[str, dict[str, Score]] = {name: {} for name in groups(small_table)}
    by_group |= {POOLED: {"Afib": score(), "Atrial flutter": score(positive=5, label="Atrial flutter")}}
    text = readme_of(training, by_group, {"Afib": RULE})
    assert "not the published DeepECG weights" in text
    assert "| **Afib** | 0.950 |" in text
    assert "| Atrial flutter | 0.950 |" in text  # shown for honesty, not in bold
    assert "What it is known to get wrong" in text
