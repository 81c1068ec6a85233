"""The README of a bundle: what it is, what it was trained on, how well it does, and of what it alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agent.core.bundle.manifest import InputSpec, Label, Training
from training.data import PROXIES
from training.evaluation.alerts import Replay
from training.evaluation.evidence import LEAD_SETS, POOLED, TWELVE_LEADS, TWO_LEADS, Score, source_group
from training.publish.bundle import Identity


def readme_of_model(
    identity: Identity, training: Training, labels: Sequence[Label], spec: InputSpec, weaknesses: Sequence[str] = ()
) -> str:
    """README.md of a bundle that was not made from a run."""
    evident = [label for label in labels if label.evidence is not None]
    lines = [
        f"# {identity.name}",
        "",
        identity.statement,
        "",
        training.summary,
        "",
        f"It takes {', '.join(lead.value for lead in spec.accepted_leads)}, and needs "
        f"{', '.join(lead.value for lead in spec.required_leads) or 'any of them'}.",
        "",
        "## Outputs",
        "",
    ]
    if not evident:
        lines += [
            "None has evidence of its own here, so the agent shows none of them as a finding, and none alerts.",
            "",
        ]
    lines += ["| output | AUROC (95 % interval), positive patients | threshold | alerts from |", "|---|---|---|---|"]
    for label in labels:
        e, r = label.evidence, label.rule
        score = "–" if e is None else f"{e.auroc:.3f} ({e.lower:.3f}–{e.upper:.3f}), {e.positive_patients}"
        rule = "–" if r is None else f"{r.threshold:g} in {r.open_after} windows"
        cut = "–" if label.threshold is None else f"{label.threshold:g}"
        name = (
            label.name if label.quantity is None else f"{label.name} (× {label.quantity.scale:g} {label.quantity.unit})"
        )
        lines.append(f"| {name} | {score} | {cut} | {rule} |")
    if weaknesses:
        lines += ["", "## What it is known to get wrong", "", *(f"- {text}" for text in weaknesses)]
    return "\n".join(lines) + "\n"


def _brief(score: Score | None) -> str:
    return "–" if score is None else f"{score.auroc:.3f} ({score.positive_patients})"


def _evidence(by_group: Mapping[str, Mapping[str, Score]]) -> list[str]:
    """Each label's AUROC over all patients and by kind of recording, those with evidence first."""
    scores = by_group[POOLED]
    shown = (TWELVE_LEADS, *LEAD_SETS, TWO_LEADS)
    lines = [
        "## Evidence",
        "",
        "AUROC on patients that the network never saw (every patient weighs the same; 95 % interval by drawing "
        "patients). Only labels in bold have evidence; all others are shown for honesty and never alert. The "
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
    return lines


def readme_of(
    identity: Identity,
    training: Training,
    by_group: Mapping[str, Mapping[str, Score]],
    replays: Mapping[str, Replay],
    weaknesses: Sequence[str] = (),
) -> str:
    """README.md of the bundle."""
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
    ]
    lines += _evidence(by_group)
    lines += _by_source(training, by_group)
    lines += ["", "No source names these labels in so many words; they stand on a proxy:", ""]
    lines += [f"- {name}: {text}" for name, text in PROXIES.items() if name in by_group[POOLED]]
    lines += _alerts(replays)
    if weaknesses:
        lines += ["", "## What it is known to get wrong", "", *(f"- {text}" for text in weaknesses)]
    return "\n".join(lines) + "\n"


def _alerts(replays: Mapping[str, Replay]) -> list[str]:
    """Each rule, and what it did in the recordings of unseen patients."""
    lines = [
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
    return lines


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
