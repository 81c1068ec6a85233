"""The readers of reports against the codes, side by side: dictionary, classifier, and the two together, by language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.labels.dictionary import considered, labels_of_mentions, mentions, unread
from training.labels.lexicon import languages_of
from training.labels.reports import Report
from training.labels.scoring import (
    READING,
    RESAMPLES,
    Confusion,
    Matrix,
    Scores,
    confusion_lines,
    confusions,
    doubt_said,
    score,
    table,
    union,
)
from training.labels.text import fold

DICTIONARY, DOUBT, CLASSIFIER, UNION = "dictionary", "dictionary, doubt said", "classifier", "union"
ALL = "all"
NAMES = {"de": "German", "en": "English", "fr": "French", "sv": "Swedish"}
MIXED, UNTOLD = "mixed", "untold"


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What came out, by reader and language."""

    scores: Mapping[str, Mapping[str, Scores]]
    """By reader, then by language; "all" first."""
    confusions: Mapping[str, tuple[Confusion, ...]]
    """By reader, over all languages."""
    reports: Mapping[str, int]
    """By language."""
    nothing: Mapping[str, int]
    """By language: reports in which the dictionary recognises nothing."""
    unread: tuple[tuple[str, int], ...]
    """Words that no dictionary knows, and in how many reports; empty unless asked for."""

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values, with the reading that it stands on."""
        return {
            "reading": READING,
            "reports": dict(self.reports),
            "nothing_recognised": dict(self.nothing),
            "scores": {reader: {k: asdict(v) for k, v in found.items()} for reader, found in self.scores.items()},
            "confusions": {reader: [asdict(c) for c in found] for reader, found in self.confusions.items()},
            "unread": dict(self.unread),
        }

    def as_text(self) -> str:
        """Tables for the terminal."""
        blocks = [READING]
        for reader, found in self.scores.items():
            blocks.append(f"\n== {reader} ==\n{table(found[ALL])}")
            if reader in self.confusions:
                blocks.append(f"\n-- {reader}: what is confused --\n{confusion_lines(self.confusions[reader])}")
        blocks.append("\n== F1 by language ==")
        blocks.append(f"{'':24s} {'language':9s} {'reports':>7s}  macro                 micro                 labels")
        for reader, found in self.scores.items():
            for language, s in found.items():
                figures = "  ".join(f"{r.value:.3f} ({r.lower:.3f}–{r.upper:.3f})" for r in (s.macro_f1, s.micro_f1))
                blocks.append(f"{reader:24s} {language:9s} {s.reports:7d}  {figures}  {len(s.labels)}")
        total, empty = sum(self.reports.values()), sum(self.nothing.values())
        by = ", ".join(f"{language} {n}" for language, n in self.nothing.items() if n)
        blocks.append(
            f"\nnothing recognised in {empty} of {total} reports ({empty / max(1, total):.1%}): {by or 'none'}"
        )
        blocks.append("French: no reports with codes are at hand; its dictionary is unscored.")
        if self.unread:
            blocks.append("unread words: " + ", ".join(f"{word} {n}" for word, n in self.unread))
        return "\n".join(blocks)


def group_of(text: str) -> str:
    """The language of a report by its own words; "mixed" of several."""
    found = languages_of(fold(text).text)
    return MIXED if len(found) > 1 else NAMES[found[0]] if found else UNTOLD


def compare(
    reports: Sequence[Report],
    classified: Matrix | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    words: int = 0,
    progress: bool = False,
) -> Comparison:
    """Read every report by the dictionary, and score its labels and a classifier's against the codes.

    Args:
        reports: With their truth.
        classified: (n, 77) labels by a classifier; None = the dictionary alone.
        resamples: For the intervals.
        seed: Of the resampling.
        words: How many of the most frequent unread words to count; a development tool, 0 = none.
        progress: A bar to stderr.

    Raises:
        ValueError: there are no reports, or one has no truth.
    """
    truth = _truth(reports)
    texts = [report.text for report in reports]
    by_dictionary, doubt, recognised = _by_dictionary(texts, progress=progress)
    read: dict[str, Matrix] = {DICTIONARY: by_dictionary, DOUBT: doubt_said(by_dictionary, doubt)}
    if classified is not None:
        read[CLASSIFIER], read[UNION] = classified, union(by_dictionary, classified)
    group = np.array([group_of(text) for text in texts])
    languages = [name for name, _ in Counter(group.tolist()).most_common()]
    patients, ids = np.array([r.patient for r in reports]), [r.id for r in reports]

    def scored(labels: Matrix, use: NDArray[np.bool_]) -> Scores:
        return score(truth[use], labels[use], patients[use].tolist(), doubt[use], resamples=resamples, seed=seed)

    every = np.ones(len(reports), bool)
    return Comparison(
        scores={
            reader: {ALL: scored(labels, every), **{name: scored(labels, group == name) for name in languages}}
            for reader, labels in read.items()
        },
        confusions={reader: confusions(truth, labels, ids) for reader, labels in read.items() if reader != DOUBT},
        reports={name: int(np.sum(group == name)) for name in languages},
        nothing={name: int(np.sum((group == name) & ~recognised)) for name in languages},
        unread=_unread(texts, words) if words else (),
    )


def _truth(reports: Sequence[Report]) -> Matrix:
    rows = [report.truth for report in reports]
    known = [row for row in rows if row is not None]
    if not rows or len(known) < len(rows):
        raise ValueError(
            "there are no reports with labels to score against; the table needs a column scp_codes, or columns named "
            "like the labels, and rows in the chosen folds"
        )
    return np.stack(known)


def _by_dictionary(texts: Iterable[str], *, progress: bool) -> tuple[Matrix, NDArray[np.bool_], NDArray[np.bool_]]:
    """Labels (n, 77), labels that are only considered (n, 77), and whether anything was recognised (n,)."""
    from tqdm import tqdm

    labels, doubt, recognised = [], [], []
    for text in tqdm(texts, desc="dictionary", unit="report", disable=not progress, mininterval=5):
        found = mentions(text)
        labels.append(labels_of_mentions(found))
        doubt.append(considered(found))
        recognised.append(any(m.finding != "no_report" for m in found))
    return np.stack(labels), np.stack(doubt), np.array(recognised)


def _unread(texts: Iterable[str], most: int) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(unread(text)))
    return tuple(counts.most_common(most))
