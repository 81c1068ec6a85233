"""From the artefacts of a training run to the bundle that ships: figures, rules, golden windows, words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.labels import LABELS
from agent.core.manifest import AlertRule, ChangeRecord, Evidence, Label, Training
from agent.core.synthetic import Rhythm, synthesize
from training.bundle import Identity
from training.data import PROXIES, WindowTable
from training.evaluation.alerts import MAX_PER_BED_DAY, MIN_SENSITIVITY, Replay
from training.evaluation.evidence import (
    LEAD_SETS,
    MIN_LOWER_AUROC,
    MIN_POSITIVE_PATIENTS,
    POOLED,
    TWELVE_LEADS,
    TWO_LEADS,
    Score,
    source_group,
)
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL
from training.recipes import Recipe

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


GOLDEN_RATE, GOLDEN_SECONDS = 250, 10
_II, _V1 = LEADS.index(Lead.II), LEADS.index(Lead.V1)


def golden_windows() -> FloatArray:
    """(k, 12, 2500) raw mV of the project's own generator: every rhythm it knows, then beds with fewer leads."""
    windows = [
        synthesize(rhythm, seconds=GOLDEN_SECONDS, rate=GOLDEN_RATE, seed=seed)
        for seed, rhythm in enumerate(Rhythm)
        if rhythm is not Rhythm.LEAD_OFF  # NaN: no window is made of it
    ]
    for rhythm, there in ((Rhythm.SINUS, (_II,)), (Rhythm.AFIB, (_II, _V1)), (Rhythm.AFIB, range(6))):
        window = synthesize(rhythm, seconds=GOLDEN_SECONDS, rate=GOLDEN_RATE, seed=100)
        silent = np.setdiff1d(np.arange(len(LEADS)), np.array(list(there)))
        window[silent] = 0.0
        windows.append(window)
    return np.stack(windows).astype(np.float32)


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


def trained_on(table: WindowTable) -> NDArray[np.bool_]:
    """(n,) windows of the final weights: of sources that may enter, not held out, with any known label."""
    allowed = np.array([name in LICENCES for name in table.sources])[table.source]
    use: NDArray[np.bool_] = allowed & ~table.held_out & np.any(table.labels >= 0, axis=1)
    return use


def _records(table: WindowTable, use: NDArray[np.bool_]) -> set[tuple[int, str]]:
    """Source and record of these windows."""
    return set(zip(table.source[use].tolist(), table.record[use].tolist(), strict=True))


def training_of(
    table: WindowTable, recipe: Recipe, scores: Mapping[str, Score], replays: Mapping[str, Replay]
) -> Training:
    """What the manifest tells of the training."""
    use = trained_on(table)
    records = Counter(table.sources[s] for s, _ in _records(table, use))
    held_out = sorted(f"{table.sources[s]}/{record}" for s, record in _records(table, table.held_out))
    evident = [name for name, score in scores.items() if score.is_evidence]
    summary = (
        f"{recipe.steps} steps of {recipe.batch} windows on a CPU (recipe {recipe.name!r}, seed {recipe.seed}). "
        f"The weights are those of a last run on all patients but the held-out ones; the evidence is of {recipe.folds} "
        "runs of the same recipe, each scored on the patients that it never saw, pooled. A label has evidence with at "
        f"least {MIN_POSITIVE_PATIENTS} unseen positive patients and a lower 95 % bound of the AUROC of at least "
        f"{MIN_LOWER_AUROC}: {len(evident)} of {len(LABELS)} have. A label alerts only if it has evidence, is "
        f"pathological, had at most {MAX_PER_BED_DAY:g} false alert per bed-day on continuous recordings of unseen "
        f"patients without it, and a sensitivity of at least {MIN_SENSITIVITY:g}: {', '.join(replays) or 'none'}. "
        "Labels known from ten-second ECGs only have no continuous negatives and therefore no rule. With less than a "
        "day of negatives the limit admits no false alert at all, yet the interval's upper bound is well above it. "
        "Threshold and persistence were chosen with the folds' networks, on the recordings on which they are reported, "
        "and serve the last run's."
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
                "Pooled patient-wise folds with intervals over patients; false alerts counted on continuous recordings "
                "of unseen patients; the engine held against fp32 torch on golden windows."
            ),
            impact="None on patients: advisory demonstration, not to be used for care.",
        ),
    )


def _brief(score: Score | None) -> str:
    return "–" if score is None else f"{score.auroc:.3f} ({score.positive_patients})"


def readme_of(
    identity: Identity,
    training: Training,
    by_group: Mapping[str, Mapping[str, Score]],
    replays: Mapping[str, Replay],
    weaknesses: Sequence[str] = (),
) -> str:
    """README.md of the bundle."""
    scores = by_group[POOLED]
    shown = (TWELVE_LEADS, *LEAD_SETS, TWO_LEADS)
    lines = [
        f"# {identity.name}",
        "",
        identity.statement,
        "",
        "## What it was trained on",
        "",
        training.summary,
        "",
        f"{training.patients} patients, {training.windows} windows of ten seconds (every five). Never trained on, and "
        f"kept for demonstrations: {', '.join(training.held_out)} (and every other recording of those patients).",
        "",
        "| source | licence, origin, count |",
        "|---|---|",
        *(f"| {name} | {text} |" for name, text in training.datasets.items()),
        "",
        "The weights in this folder may be used under the project's licence (Apache-2.0); the sources ask for "
        "attribution, which the table gives. No share-alike source was used.",
        "",
        "## Evidence",
        "",
        "AUROC on patients that the network never saw (pooled folds; every patient weighs the same; 95 % interval by "
        "drawing patients). Only labels in bold have evidence; all others are shown for honesty and never alert. The "
        "last columns give each kind of recording by itself, with its positive patients, and the twelve-lead "
        "recordings again with all but some leads silenced.",
        "",
        "| " + " | ".join(["label", "AUROC", "95 % interval", "positive patients", "negative patients", *shown]) + " |",
        "|---" * (5 + len(shown)) + "|",
    ]
    for score in sorted(scores.values(), key=lambda s: (not s.is_evidence, -s.positive_patients)):
        name = f"**{score.label}**" if score.is_evidence else score.label
        lines.append(
            f"| {name} | {score.auroc:.3f} | {score.lower:.3f}–{score.upper:.3f} | {score.positive_patients} "
            f"| {score.negative_patients} | "
            + " | ".join(_brief(by_group.get(group, {}).get(score.label)) for group in shown)
            + " |"
        )
    lines += _by_source(training, by_group)
    lines += ["", "No source names these labels in so many words; they stand on a proxy:", ""]
    lines += [f"- {name}: {text}" for name, text in PROXIES.items() if name in scores]
    lines += [
        "",
        "## Alerts",
        "",
        "An alert opens after so many consecutive windows (ten seconds each, every five) at or above the threshold, "
        "and ends after the second number of them below the release. Measured by replaying continuous two-lead "
        "recordings of unseen patients with the agent's own rules; episodes are unbroken stretches of thirty "
        "seconds or more, and the sensitivity is the share of them that is found, the mean over patients:",
        "",
        "| label | threshold, release | windows | false alerts | negative hours (patients) "
        "| per bed-day (exact 95 % Poisson interval) | episodes found | patients found "
        "| sensitivity | median seconds to the alert |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, r in replays.items():
        low, high = r.interval
        delay = f"{np.median(r.delays):.0f}" if r.delays else "–"
        lines.append(
            f"| {name} | {r.threshold:g}, {r.threshold * r.rule.release:g} "
            f"| {r.rule.open_after}, {r.rule.close_after} | {r.false_alerts} "
            f"| {r.negative_hours:.1f} ({r.negative_patients}) | {r.per_bed_day:.2f} ({low:.2f}–{high:.2f}) "
            f"| {r.detected}/{r.episodes} | {r.detected_patients}/{r.positive_patients} "
            f"| {r.sensitivity:.2f} | {delay} |"
        )
    if not replays:
        lines.append("| none | | | | | | | | | |")
    if weaknesses:
        lines += ["", "## What it is known to get wrong", "", *(f"- {text}" for text in weaknesses)]
    return "\n".join(lines) + "\n"


def _by_source(training: Training, by_group: Mapping[str, Mapping[str, Score]]) -> list[str]:
    """Figures of the labels with evidence, source by source."""
    names = [name for name in training.datasets if source_group(name) in by_group]
    evident = [score.label for score in by_group[POOLED].values() if score.is_evidence]
    if not names or not evident:
        return []
    lines = [
        "",
        "The labels with evidence, by source (positive patients):",
        "",
        "| label | " + " | ".join(names) + " |",
    ]
    lines.append("|---" * (1 + len(names)) + "|")
    for label in evident:
        figures = (_brief(by_group[source_group(name)].get(label)) for name in names)
        lines.append(f"| {label} | " + " | ".join(figures) + " |")
    return lines
