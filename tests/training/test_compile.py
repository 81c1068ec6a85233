"""What the manifest and its README say of a run: evidence, rules, sources, what was held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agent.core.labels import LABEL_NAMES
from training.compile import identity_of, labels_of, readme_of, trained_on, training_of
from training.data import WindowTable
from training.evaluation.alerts import Persistence, Replay
from training.evaluation.evidence import LEAD_SETS, POOLED, Score, groups, source_group
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL
from training.recipes import TINY, smoke

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


def test_a_bundle_says_which_network_it_holds() -> None:
    sl, ssl = DeepECGSL(smoke().network), DeepECGSSL(replace(TINY, labels=77))  # type: ignore[arg-type]
    assert identity_of(sl, "1.0.0").name == "deepecg-sl-demo"
    ours = identity_of(ssl, "1.0.0")
    assert ours.name == "deepecg-ssl-demo"
    assert "DeepECG-SSL's architecture" in ours.statement
    assert f"{sum(p.numel() for p in ssl.parameters()):,} parameters" in ours.architecture
