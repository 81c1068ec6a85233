"""How well labels read from reports agree with labels from codes: counts, precision, recall, F1, and what is confused.

The reading (`READING`) is closed: a label that a reader does not affirm counts as denied, whether it was denied, left
uncertain or not mentioned; labels that the codes leave unknown are left out for all readers alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.core.labels import LABELS

READING = (
    "closed reading: a label that is not affirmed (denied, uncertain, not mentioned) counts as a negative prediction; "
    "labels that the codes leave unknown (among them diagnoses of a likelihood above 0 and below 50) are not scored, "
    "and a code of likelihood 0, which means that none was given, counts as there; the codes are a cardiologist's of "
    "the tracing, not of the report, so what a report omits, or what was overruled, counts as an error of the reader"
)
RESAMPLES = 1000
EXAMPLES = 5
"""Ids of reports that are given with a confusion."""
_CHUNK = 50

Matrix = NDArray[np.int8]
"""(n, 77): labels of n reports."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A figure between 0 and 1 with its 95 % interval; NaN where it has no denominator."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label."""

    label: str
    tp: int
    fp: int
    fn: int
    tn: int
    considered: int
    """Of the false negatives: named in the report, but as uncertain."""
    precision: Rate
    """Wilson."""
    recall: Rate
    """Wilson."""
    f1: Rate
    """Percentiles over resampled patients."""

    @property
    def support(self) -> int:
        """Reports that have the label by the codes."""
        return self.tp + self.fn


@dataclass(frozen=True, slots=True)
class Scores:
    """One reader on one set of reports."""

    reports: int
    patients: int
    labels: tuple[LabelScore, ...]
    """Those that the codes affirm somewhere and deny somewhere, in the labels' order."""
    macro_f1: Rate
    """Mean of the labels' F1; intervals over resampled patients."""
    micro_f1: Rate
    """F1 of all labels' counts together."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """What goes with a label's errors."""

    label: str
    missed: int
    missed_for: tuple[tuple[str, int], ...]
    """Labels that were falsely given in the reports in which this one was missed, and in how many."""
    missed_ids: tuple[str, ...]
    false: int
    false_for: tuple[tuple[str, int], ...]
    """Labels that were missed in the reports in which this one was falsely given."""
    false_ids: tuple[str, ...]


def _wilson(hits: int, of: int) -> Rate:
    from statsmodels.stats.proportion import proportion_confint

    if not of:
        return Rate(float("nan"), float("nan"), float("nan"))
    lower, upper = proportion_confint(hits, of, method="wilson")
    return Rate(hits / of, float(lower), float(upper))


def _f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(…,) of counts (…, 3): true positives, false positives, false negatives."""
    denominator = 2 * counts[..., 0] + counts[..., 1] + counts[..., 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = 2 * counts[..., 0] / denominator
    return result


def _interval(value: float, draws: NDArray[np.float64]) -> Rate:
    """2.5 and 97.5 percentile of the draws in which the figure exists."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return Rate(value, float("nan"), float("nan"))
    lower, upper = np.percentile(known, [2.5, 97.5])
    return Rate(value, float(lower), float(upper))


def scored_labels(truth: Matrix) -> NDArray[np.int64]:
    """Positions of the labels that the truth (n, 77) affirms somewhere and denies somewhere."""
    return np.flatnonzero((truth == 1).any(axis=0) & (truth == 0).any(axis=0))


def score(
    truth: Matrix,
    read: Matrix,
    patients: Sequence[str],
    considered: NDArray[np.bool_] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Compare labels read from reports with those of the codes.

    Args:
        truth: (n, 77), 1, 0 and -1 = unknown: not scored.
        read: (n, 77): only 1 counts as a positive prediction.
        patients: (n,): intervals are over patients, drawn with replacement.
        considered: (n, 77): labels that the report names as uncertain; they are counted apart.
        resamples: How often.
        seed: Of the draws.
    """
    names, who = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    use = scored_labels(truth)
    known, there, given = truth[:, use] >= 0, truth[:, use] == 1, read[:, use] == 1
    cells = np.stack([given & there, given & known & ~there, ~given & there], axis=-1)  # (n, labels, 3)
    counts = cells.sum(axis=0)
    by_patient = np.zeros((len(names), len(use) * 3), np.float64)
    np.add.at(by_patient, who, cells.reshape(len(truth), -1))
    draws = np.empty((resamples, len(use), 3))
    rng = np.random.default_rng(seed)
    for first in range(0, resamples, _CHUNK):
        n = min(_CHUNK, resamples - first)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n) if len(names) else 0
        draws[first : first + n] = (times @ by_patient).reshape(n, len(use), 3)
    f1, drawn = _f1(counts.astype(np.float64)), _f1(draws)
    true_negative = (known & ~there & ~given).sum(axis=0)
    doubt = np.zeros_like(there) if considered is None else considered[:, use]
    open_ = (there & ~given & doubt).sum(axis=0)
    labels = tuple(
        LabelScore(
            label=LABELS[i].name,
            tp=int(tp),
            fp=int(fp),
            fn=int(fn),
            tn=int(true_negative[k]),
            considered=int(open_[k]),
            precision=_wilson(int(tp), int(tp + fp)),
            recall=_wilson(int(tp), int(tp + fn)),
            f1=_interval(float(f1[k]), drawn[:, k]),
        )
        for k, (i, (tp, fp, fn)) in enumerate(zip(use, counts, strict=True))
    )
    total, drawn_total = counts.sum(axis=0).astype(np.float64), draws.sum(axis=1)
    with np.errstate(invalid="ignore"):
        macro = _interval(float(np.mean(f1)) if len(f1) else float("nan"), _mean_known(drawn))
    return Scores(len(truth), len(names), labels, macro, _interval(float(_f1(total)), _f1(drawn_total)))


def _mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws,) means over labels that have a figure in the draw; NaN where none has."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: NDArray[np.float64] = np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
    return mean


def confusions(truth: Matrix, read: Matrix, ids: Sequence[str], *, most: int = 3) -> tuple[Confusion, ...]:
    """For each scored label: what was given in its place, and what it was given in place of; the worst first."""
    missed = (truth == 1) & (read != 1)
    false = (truth == 0) & (read == 1)
    out = []
    for i in scored_labels(truth):
        absent, extra = np.flatnonzero(missed[:, i]), np.flatnonzero(false[:, i])
        out.append(
            Confusion(
                label=LABELS[i].name,
                missed=len(absent),
                missed_for=_frequent(false[absent], most),
                missed_ids=tuple(str(ids[k]) for k in absent[:EXAMPLES]),
                false=len(extra),
                false_for=_frequent(missed[extra], most),
                false_ids=tuple(str(ids[k]) for k in extra[:EXAMPLES]),
            )
        )
    return tuple(sorted(out, key=lambda c: -(c.missed + c.false)))


def _frequent(rows: NDArray[np.bool_], most: int) -> tuple[tuple[str, int], ...]:
    counts = Counter({LABELS[k].name: int(n) for k, n in enumerate(rows.sum(axis=0)) if n})
    return tuple(counts.most_common(most))


def union(dictionary: Matrix, classifier: Matrix) -> Matrix:
    """The dictionary's labels where it speaks (1 or 0), the classifier's elsewhere."""
    return np.where(dictionary >= 0, dictionary, classifier).astype(np.int8)


def doubt_said(read: Matrix, considered: NDArray[np.bool_]) -> Matrix:
    """The other reading of doubt: labels that a report only considers ((n, 77)) count as said."""
    return np.where(considered & (read == -1), 1, read).astype(np.int8)


def table(scores: Scores) -> str:
    """The scores as lines of text, the commonest labels first."""
    columns = "".join(f"{name:>7s}" for name in ("with", "TP", "FP", "FN", "doubt"))
    lines = [f"{'label':50s} {columns}  {'precision':19s}  {'recall':19s}  F1"]
    for s in sorted(scores.labels, key=lambda s: -s.support):
        lines.append(
            f"{s.label:50s} {s.support:7d} {s.tp:6d} {s.fp:6d} {s.fn:6d} {s.considered:6d}  "
            f"{_text(s.precision)}  {_text(s.recall)}  {_text(s.f1)}"
        )
    lines.append(
        f"{scores.reports} reports of {scores.patients} patients, {len(scores.labels)} labels: "
        f"macro F1 {_text(scores.macro_f1)}, micro F1 {_text(scores.micro_f1)}"
    )
    return "\n".join(lines)


def _text(rate: Rate) -> str:
    if not np.isfinite(rate.value):
        return "  –                "
    return f"{rate.value:.3f} ({rate.lower:.3f}–{rate.upper:.3f})"


def confusion_lines(found: Sequence[Confusion], *, most: int = 15) -> str:
    """The worst confusions as lines of text."""
    lines = []
    for c in found[:most]:
        for count, kind, others, ids in (
            (c.missed, "missed", c.missed_for, c.missed_ids),
            (c.false, "falsely given", c.false_for, c.false_ids),
        ):
            if count:
                instead = ", ".join(f"{name} {n}×" for name, n in others) or "nothing else"
                word = "given instead" if kind == "missed" else "missed instead"
                lines.append(f"{c.label}: {kind} {count}×; {word}: {instead}; reports {', '.join(ids)}")
    return "\n".join(lines)
