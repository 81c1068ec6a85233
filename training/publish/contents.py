"""From a training run, or any model folder, to what its bundle says: figures, rules, leads, golden windows, words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.core.bundle.manifest import AlertRule, ChangeRecord, Evidence, InputSpec, Label, Quantity, Training
from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.labels import LABELS
from agent.core.preprocessing import Preprocessing
from agent.simulator.ecg import Rhythm, synthesize
from training.data import WindowTable
from training.evaluation.alerts import MAX_PER_BED_DAY, MIN_SENSITIVITY, Replay
from training.evaluation.evidence import (
    MIN_LOWER_AUROC,
    MIN_POSITIVE_PATIENTS,
    Score,
)
from training.models.kinds import NAMES
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL
from training.models.weights import ModelConfig
from training.publish.bundle import Identity
from training.train.augment import CHEST, LIMB
from training.train.folds import split_of
from training.train.recipes import RECIPES, LeadPolicy, Recipe

LICENCES: Mapping[str, tuple[str, str]] = {
    "ptbxl500": ("CC BY 4.0", "PTB-XL, records 1-500 (Wagner et al. 2020, PhysioNet)"),
    "cinc2021_mix": ("CC BY 4.0", "PhysioNet/CinC Challenge 2020-21 sets: Chapman-Ningbo, Georgia, PTB-XL, CPSC"),
    "mitdb": ("ODC-By 1.0", "MIT-BIH Arrhythmia Database (Moody and Mark 2001, PhysioNet)"),
    "cpsc2021_af": ("CC BY 4.0", "CPSC 2021, paroxysmal atrial fibrillation (PhysioNet)"),
    "cinc2015_alarms": ("ODC-By 1.0", "PhysioNet/CinC Challenge 2015: ten seconds before judged bedside alarms"),
}
"""Sources that may enter the weights. Nothing share-alike is among them, and `train` takes no other."""

STATEMENT = (
    "A demonstration: DeepECG-{family}'s architecture trained by this project on a small set of open recordings. These "
    "are not the published DeepECG weights, their accuracy is far from the published one, and nothing here is a "
    "medical device: every output is advisory."
)


_II, _V1 = LEADS.index(Lead.II), LEADS.index(Lead.V1)

_ALL = tuple(range(len(LEADS)))
LEADS_OF: Mapping[LeadPolicy, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "all": (_ALL, _ALL),
    "bedside": ((_II,), _ALL),
    "limb": (LIMB, LIMB),
    "two": ((_II,), (_II, *CHEST)),
    "random": ((), _ALL),
}
"""Leads that a network needs and leads that it may be given, by what training left it of twelve. The first are in every
set that the policy makes; any but the second it has never seen."""

QUANTITIES: Mapping[str, Quantity] = {"lvef": Quantity(unit="%", scale=100.0)}
"""Tasks whose answer is a number."""
NEITHER: Mapping[str, str] = {"LQTS TYPE": "borderline"}
"""Answers of biomarkers that are no finding by themselves."""


def input_of(p: Preprocessing, policy: LeadPolicy) -> InputSpec:
    """What a network takes that was trained by the policy."""
    needs, takes = LEADS_OF[policy]
    return InputSpec(
        required_leads=tuple(LEADS[i] for i in sorted(needs)),
        accepted_leads=tuple(LEADS[i] for i in sorted(takes)),
        preprocessing=p,
    )


def policy_of(config: ModelConfig) -> LeadPolicy:
    """That of the recipe that the weights say they are from; of imported ones all twelve leads, as was published."""
    found = re.match(r"recipe ([a-z0-9-]+),", config.provenance.origin)
    return RECIPES[found[1]]().leads if found and found[1] in RECIPES else "all"


def golden_windows(spec: InputSpec | None = None) -> FloatArray:
    """(k, 12, rate · seconds) raw mV of the project's own generator: every rhythm it knows, then beds with fewer leads.

    Leads that the network does not take are silent, as the agent makes them.
    """
    spec = spec or InputSpec(required_leads=(), preprocessing=Preprocessing())
    rate, seconds = round(spec.preprocessing.rate), spec.preprocessing.seconds
    windows = [
        synthesize(rhythm, seconds=seconds, rate=rate, seed=seed)
        for seed, rhythm in enumerate(Rhythm)
        if rhythm is not Rhythm.LEAD_OFF  # NaN: no window is made of it
    ]
    for rhythm, there in ((Rhythm.SINUS, (_II,)), (Rhythm.AFIB, (_II, _V1)), (Rhythm.AFIB, range(6))):
        window = synthesize(rhythm, seconds=seconds, rate=rate, seed=100)
        silent = np.setdiff1d(np.arange(len(LEADS)), np.array(list(there)))
        window[silent] = 0.0
        windows.append(window)
    out = np.stack(windows).astype(np.float32)
    out[:, [i for i, lead in enumerate(LEADS) if lead not in spec.accepted_leads]] = 0.0
    return out


def labels_of(scores: Mapping[str, Score], replays: Mapping[str, Replay]) -> tuple[Label, ...]:
    """The manifest's 77 labels: evidence where a score is evidence, a rule where a replay gave a threshold."""
    labels = []
    for info in LABELS:
        score, replay = scores.get(info.name), replays.get(info.name)
        evidence = alert = None
        if score is not None and score.is_evidence:
            evidence = Evidence(
                auroc=round(score.auroc, 4),
                lower=round(score.lower, 4),
                upper=round(score.upper, 4),
                positive_patients=score.positive_patients,
                negative_patients=score.negative_patients,
            )
            if replay is not None and info.severity.value == "pathological":
                alert = AlertRule(
                    threshold=replay.threshold,
                    release=round(replay.threshold * replay.rule.release, 4),
                    open_after=replay.rule.open_after,
                    close_after=replay.rule.close_after,
                    priority=info.priority,
                    false_alerts_per_bed_day=round(replay.per_bed_day, 3),
                    false_alerts_upper=round(replay.interval[1], 3),
                    negative_hours=round(replay.negative_hours, 2),
                )
        labels.append(Label(name=info.name, severity=info.severity.value, evidence=evidence, rule=alert))
    return tuple(labels)


def labels_of_model(config: ModelConfig, known: Sequence[Label] = ()) -> tuple[Label, ...]:
    """The manifest's labels of a model's outputs, in the model's own order, with the config's thresholds.

    ``known``: labels with evidence and rules (`labels_of`), which are taken over by name.

    Raises:
        ValueError: an output is a number that nothing says the scale of.
    """
    by_name = {label.name: label for label in known}
    severities = {**{info.name: info.severity.value for info in LABELS}, **NEITHER}
    if (number := config.activation == "none") and config.task not in QUANTITIES:
        raise ValueError(
            f"the answers for {config.task!r} are numbers of no known scale; of such tasks a bundle can have "
            f"{', '.join(QUANTITIES)}"
        )
    thresholds = config.thresholds or (None,) * len(config.labels)
    labels = []
    for name, threshold in zip(config.labels, thresholds, strict=True):
        about: dict[str, Any] = {"name": name, "severity": "normal" if number else severities.get(name, "pathological")}
        if number:
            about |= {"quantity": QUANTITIES[config.task]}
        else:
            about |= {"threshold": threshold}
            if name in by_name:
                about |= {"evidence": by_name[name].evidence, "rule": by_name[name].rule}
        labels.append(Label.model_validate(about))
    return tuple(labels)


def trained_on(table: WindowTable) -> NDArray[np.bool_]:
    """(n,) windows of the final weights: of sources that may enter, not held out, with any known label."""
    allowed = np.array([name in LICENCES for name in table.sources])[table.source]
    use: NDArray[np.bool_] = allowed & ~table.held_out & np.any(table.labels >= 0, axis=1)
    return use


def _records(table: WindowTable, use: NDArray[np.bool_]) -> set[tuple[int, str]]:
    """Source and record of these windows."""
    return set(zip(table.source[use].tolist(), table.record[use].tolist(), strict=True))


def training_of(
    table: WindowTable,
    recipe: Recipe,
    scores: Mapping[str, Score],
    replays: Mapping[str, Replay],
    folds: Sequence[int],
    left_out: int | None = None,
) -> Training:
    """What the manifest tells of the training.

    ``folds``: whose patients were scored. ``left_out``: the fold that these weights never saw; None: they saw all.
    """
    use = np.zeros(len(table), bool)
    use[split_of(table, trained_on(table), recipe.folds, left_out, recipe.patience > 0).train] = True
    records = Counter(table.sources[s] for s, _ in _records(table, use))
    held_out = sorted(f"{table.sources[s]}/{record}" for s, record in _records(table, table.held_out))
    evident = [name for name, score in scores.items() if score.is_evidence]
    summary = (
        f"{recipe.steps} steps of {recipe.batch} windows on a CPU (recipe {recipe.name!r}, seed {recipe.seed}). "
        f"{_whose(recipe, folds, left_out)} A label has evidence with at least {MIN_POSITIVE_PATIENTS} "
        f"unseen positive patients and a lower 95 % bound of the AUROC of at least {MIN_LOWER_AUROC}: {len(evident)} "
        f"of {len(LABELS)} have. A label alerts only if it has evidence, is pathological, had at most "
        f"{MAX_PER_BED_DAY:g} false alert per bed-day on continuous recordings of unseen patients without it, and a "
        f"sensitivity of at least {MIN_SENSITIVITY:g}: {', '.join(replays) or 'none'}. "
        "Labels known from ten-second ECGs only have no continuous negatives and therefore no rule. With less than a "
        "day of negatives the limit admits no false alert at all, yet the interval's upper bound is well above it. "
        "Threshold and persistence were chosen on the recordings on which they are reported"
        f"{', with the networks of the folds, and serve the last' if left_out is None else ''}."
    )
    return Training(
        summary=summary,
        datasets={
            name: f"{LICENCES[name][0]}; {LICENCES[name][1]}; {count} recordings"
            for name, count in sorted(records.items())
        },
        patients=len(set(table.patient[use].tolist())),
        windows=int(use.sum()),
        held_out=tuple(held_out),
    )


def _whose(recipe: Recipe, folds: Sequence[int], left_out: int | None) -> str:
    if left_out is not None:
        return (
            f"Fold {left_out} of {recipe.folds} was left out of the training, and the evidence is that of these very "
            "weights on its patients."
        )
    runs = "one run" if len(folds) == 1 else f"{len(folds)} runs"
    return (
        f"The weights are those of a last run on all patients but the held-out ones; the evidence is of {runs} of the "
        f"same recipe with one of {recipe.folds} folds left out, each scored on the patients that it never saw, pooled."
    )


def identity_of(net: DeepECGSL | DeepECGSSL, version: str) -> Identity:
    """Name, statement and change record of a demonstration bundle."""
    supervised = isinstance(net, DeepECGSL)
    family, kind = ("SL", "1-D EfficientNetV2") if supervised else ("SSL", "pretrained transformer")
    parameters = sum(p.numel() for p in net.parameters())
    return Identity(
        name=f"deepecg-{family.lower()}-demo",
        version=version,
        architecture=f"DeepECG-{family} ({kind}, {parameters:,} parameters, {net.config.labels} labels)",
        statement=STATEMENT.format(family=family),
        change=ChangeRecord(
            what=f"Weights of the project's demonstration of DeepECG-{family}, version {version}.",
            how_tested=(
                "Scored on patients that were left out, with intervals over patients; false alerts counted on "
                "continuous recordings of the same."
            ),
            impact="None on patients: advisory demonstration, not to be used for care.",
        ),
    )


def identity_of_model(
    config: ModelConfig,
    parameters: int,
    version: str,
    *,
    name: str = "",
    statement: str = "",
    what: str = "",
    impact: str = "",
) -> Identity:
    """The same of any model, in general words where none are given."""
    network = NAMES[config.family]
    origin = config.provenance.origin or "of unknown origin"
    task = re.sub(r"[^a-z0-9.]+", "-", config.task.lower()).strip("-")
    return Identity(
        name=name or f"deepecg-{config.family}-{task}",
        version=version,
        architecture=f"{network} ({parameters:,} parameters, {config.task}: {len(config.labels)} outputs)",
        statement=statement
        or f"{network} for {config.task}, weights {origin}. Not a medical device: every output is advisory, and "
        "nothing here says how well it does on the patients of this hospital.",
        change=ChangeRecord(
            what=what or f"Weights {origin}, version {version}.",
            how_tested="Engines held against fp32 torch.",
            impact=impact or "Not assessed: whoever brings it to a ward has to.",
        ),
    )


def training_of_model(config: ModelConfig) -> Training:
    """What is known of a model's training: no more than its folder says."""
    about = config.provenance
    parts = [f"Weights: {about.origin or 'of unknown origin'}."]
    if about.file:
        parts.append(f"From {about.file}, SHA-256 {about.sha256}.")
    return Training(summary=" ".join([*parts, *about.notes]), datasets={}, patients=0, windows=0)
