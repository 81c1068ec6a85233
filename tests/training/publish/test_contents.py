"""What the manifest says of a run or a model: evidence, rules, sources, what was held out, leads, quantities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.bundle.manifest import Label, Manifest
from agent.core.ecg import LEADS, Lead
from agent.core.labels import LABEL_NAMES, SSL_ORDER, Severity
from agent.core.preprocessing import Preprocessing
from training.data import WindowTable
from training.evaluation.alerts import Persistence, Replay
from training.evaluation.evidence import Score
from training.models.kinds import DIAGNOSES, TASKS
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL
from training.models.weights import Provenance, config_of
from training.publish.contents import (
    golden_windows,
    identity_of,
    identity_of_model,
    input_of,
    labels_of,
    labels_of_model,
    policy_of,
    trained_on,
    training_of,
    training_of_model,
)
from training.train.augment import POLICIES, kept_leads
from training.train.recipes import TINY, LeadPolicy, smoke

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
    training = training_of(small_table, smoke(), {"Afib": score()}, {"Afib": RULE}, (0, 1, 2))
    assert training.held_out == ("mitdb/p19",)
    assert training.patients == len(np.unique(small_table.patient)) - 1
    assert set(training.datasets) == {"ptbxl500", "mitdb"}
    assert "a last run on all patients but the held-out ones; the evidence is of 3 runs" in training.summary
    assert "of one run of the" in training_of(small_table, smoke(), {}, {}, (1,)).summary


def test_a_fold_s_network_counts_the_patients_that_it_saw(small_table: WindowTable) -> None:
    training = training_of(small_table, smoke(), {"Afib": score()}, {"Afib": RULE}, (1,), 1)
    folds = small_table.folds(3)
    assert training.patients == len(set(small_table.patient[(folds >= 0) & (folds != 1)]))
    assert training.windows == int(np.sum((folds >= 0) & (folds != 1)))
    assert (
        "Fold 1 of 3 was left out of the training, and the evidence is that of these very weights" in training.summary
    )
    assert "last" not in training.summary


def test_a_bundle_says_which_network_it_holds() -> None:
    sl, ssl = DeepECGSL(smoke().network), DeepECGSSL(replace(TINY, labels=77))  # type: ignore[arg-type]
    assert identity_of(sl, "1.0.0").name == "deepecg-sl-demo"
    ours = identity_of(ssl, "1.0.0")
    assert ours.name == "deepecg-ssl-demo"
    assert "DeepECG-SSL's architecture" in ours.statement
    assert f"{sum(p.numel() for p in ssl.parameters()):,} parameters" in ours.architecture


def sl(task: str, labels: tuple[str, ...] | None = None, **about: object) -> tuple[DeepECGSL, object]:
    net = DeepECGSL(replace(smoke().network, labels=len(labels or TASKS[task])))  # type: ignore[arg-type]
    return net, config_of(net, task=task, labels=labels, **about)  # type: ignore[arg-type]


@given(st.sampled_from(list(POLICIES)), st.integers(0, 2**31))
def test_a_network_needs_no_lead_that_its_training_left_out_and_takes_all_that_it_saw(
    policy: LeadPolicy, seed: int
) -> None:
    spec = input_of(Preprocessing(), policy)
    seen = kept_leads(np.ones((64, 12), bool), policy, np.random.default_rng(seed))
    names = np.array([lead.value for lead in LEADS])
    for window in seen:
        there = set(names[window])
        assert {lead.value for lead in spec.required_leads} <= there
        assert there <= {lead.value for lead in spec.accepted_leads}


def test_the_leads_are_those_of_the_recipe_that_the_weights_are_from() -> None:
    for origin, policy in (
        ("recipe demo, seed 1, step 9", "bedside"),
        ("recipe ssl-77-two, seed 1, step 9", "two"),
        ("recipe of mine, seed 1", "all"),
        ("TorchScript archive", "all"),
    ):
        _, config = sl(DIAGNOSES, provenance=Provenance(origin=origin))
        assert policy_of(config) == policy  # type: ignore[arg-type]


def test_golden_windows_have_only_leads_that_the_network_takes() -> None:
    spec = input_of(Preprocessing(seconds=5.0, rate=500.0), "limb")
    windows = golden_windows(spec)
    assert windows.shape[1:] == (12, 2500)
    assert not windows[:, 6:].any()
    assert windows[:, :6].any()


@pytest.mark.parametrize("task", [task for task in TASKS if TASKS[task]])
def test_every_head_has_labels_and_a_name_that_a_manifest_takes(task: str) -> None:
    _, config = sl(task)
    labels = labels_of_model(config)  # type: ignore[arg-type]
    assert tuple(label.name for label in labels) == TASKS[task]
    assert all(label.evidence is None and label.rule is None for label in labels)
    identity = identity_of_model(config, 9, "1")  # type: ignore[arg-type]
    pattern = next(m.pattern for m in Manifest.model_fields["name"].metadata if hasattr(m, "pattern"))
    assert re.fullmatch(pattern, identity.name)
    assert "9 parameters" in identity.architecture


def test_an_ejection_fraction_is_a_quantity_and_another_number_is_refused() -> None:
    _, config = sl("lvef")
    (label,) = labels_of_model(config)  # type: ignore[arg-type]
    assert label.quantity is not None
    assert (label.severity, label.quantity.unit, label.quantity.scale) == ("normal", "%", 100.0)
    _, other = sl("potassium", ("K",), activation="none")
    with pytest.raises(ValueError, match=r"'potassium' are numbers of no known scale; of such tasks .* lvef"):
        labels_of_model(other)  # type: ignore[arg-type]


def test_the_model_s_own_order_and_thresholds_stay_and_evidence_is_taken_over_by_name() -> None:
    thresholds = tuple(round(0.1 + i / 100, 2) for i in range(77))
    _, config = sl(DIAGNOSES, SSL_ORDER, thresholds=thresholds)
    known = labels_of({"Afib": score()}, {"Afib": RULE})
    labels = labels_of_model(config, known)  # type: ignore[arg-type]
    assert tuple(label.name for label in labels) == SSL_ORDER
    assert tuple(label.threshold for label in labels) == thresholds
    by_name: Mapping[str, Label] = {label.name: label for label in labels}
    assert by_name["Afib"].rule is not None
    assert by_name["Afib"].rule.threshold == 0.8
    assert by_name["Afib"].severity == Severity.PATHOLOGICAL.value
    assert sum(label.evidence is not None for label in labels) == 1


def test_of_a_model_s_training_only_its_folder_is_quoted() -> None:
    about = Provenance(origin="TorchScript archive", file="x.pt", sha256="ab", notes=("A note.",))
    _, config = sl("lqts", provenance=about)
    training = training_of_model(config)  # type: ignore[arg-type]
    assert training.summary == "Weights: TorchScript archive. From x.pt, SHA-256 ab. A note."
    assert (training.patients, training.windows, training.datasets) == (0, 0, {})
    assert Lead.II in input_of(Preprocessing(), policy_of(config)).required_leads  # type: ignore[arg-type]
