"""Rhythm spans and beats as a window's labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.core.labels import index_of
from training.data.annotations import cpsc2021_labels, mitdb_labels
from training.data.recording import Annotations, Labels, Recording, Source, Span


def at(labels: Labels, name: str) -> int:
    return int(labels[index_of(name)])


def made(spans: list[tuple[float, float, str]], beats: str, interval: float = 0.8, jitter: float = 0.0) -> Annotations:
    times = np.arange(len(beats)) * interval + 0.2
    times += jitter * np.where(np.arange(len(beats)) % 2, 1.0, -1.0)
    return Annotations(tuple(Span(*span) for span in spans), times, tuple(beats), mitdb_labels)


def test_sinus_rhythm() -> None:
    labels = mitdb_labels(made([(0, 30, "N")], "N" * 40), 5.0, 10.0)
    for name in ("Sinusal", "Regular", "Monomorph"):
        assert at(labels, name) == 1
    for name in ("Afib", "Irregularly irregular", "Bradycardia", "Premature ventricular complex", "no_qrs"):
        assert at(labels, name) == 0
    assert at(labels, "Prolonged QT") == -1


def test_fibrillation_fills_the_window_or_leaves_it_open() -> None:
    annotations = made([(0, 12, "N"), (12, 40, "AFIB")], "N" * 50, jitter=0.15)
    inside, across, before = (mitdb_labels(annotations, start, 10.0) for start in (15.0, 5.0, 0.0))
    assert (at(inside, "Afib"), at(inside, "Irregularly irregular"), at(inside, "Sinusal")) == (1, 1, 0)
    assert (at(across, "Afib"), at(across, "Sinusal"), at(across, "Regular")) == (-1, -1, -1)
    assert (at(before, "Afib"), at(before, "Sinusal")) == (0, 1)
    assert at(before, "Regular") == -1  # uneven sinus rhythm


@pytest.mark.parametrize(("seconds", "label"), [(3.0, 1), (1.0, -1)])
def test_a_run_of_ventricular_tachycardia(seconds: float, label: int) -> None:
    annotations = made([(0, 4, "N"), (4, 4 + seconds, "VT"), (4 + seconds, 30, "N")], "N" * 40)
    assert at(mitdb_labels(annotations, 0.0, 10.0), "Ventricular tachycardia") == label
    assert at(mitdb_labels(annotations, 15.0, 10.0), "Ventricular tachycardia") == 0


def test_ectopic_beats() -> None:
    labels = mitdb_labels(made([(0, 30, "N")], "NNNVNNNANNNN"), 0.0, 9.0)
    assert at(labels, "Premature ventricular complex") == at(labels, "Premature atrial complex") == 1
    assert at(labels, "Regular") == at(labels, "Monomorph") == -1


def test_bundle_branch_block_from_the_beats() -> None:
    labels = mitdb_labels(made([(0, 30, "N")], "L" * 40), 0.0, 10.0)
    assert (at(labels, "Left bundle branch block"), at(labels, "Right bundle branch block")) == (1, 0)
    mixed = mitdb_labels(made([(0, 30, "N")], "LLLNNNLLLNNN"), 0.0, 9.0)
    assert at(mixed, "Left bundle branch block") == -1


@pytest.mark.parametrize(("interval", "label"), [(1.2, 1), (1.0, -1), (0.7, 0)])
def test_bradycardia_from_the_rate(interval: float, label: int) -> None:
    assert at(mitdb_labels(made([(0, 60, "N")], "N" * 45, interval), 0.0, 10.0), "Bradycardia") == label


def test_ventricular_flutter_is_none_of_the_labels() -> None:
    labels = mitdb_labels(made([(0, 30, "VFL")], "!" * 100, 0.25), 0.0, 10.0)
    assert at(labels, "Ventricular tachycardia") == at(labels, "Sinusal") == -1


def test_cpsc_knows_af_and_its_absence_only() -> None:
    annotations = made([(0, 20, "N"), (20, 40, "AFIB")], "N" * 60)
    before, across, inside = (cpsc2021_labels(annotations, start, 10.0) for start in (0.0, 15.0, 25.0))
    assert (at(before, "Afib"), at(before, "Sinusal"), at(before, "Regular")) == (0, -1, 1)
    assert at(across, "Afib") == -1
    assert (at(inside, "Afib"), at(inside, "Sinusal"), at(inside, "Regular")) == (1, 0, 0)


@pytest.mark.data
def test_real_spans(data_dir: Path) -> None:
    from training.data.readers.rhythms import mitdb

    source = Source("mitdb", "mitdb", data_dir / "mitdb")
    record = next(p for p in mitdb(source) if p.record == "202").load()
    assert isinstance(record, Recording)
    annotations = record.annotations
    assert annotations is not None
    assert annotations.spans[0].start == 0.0
    assert annotations.spans[0].rhythm == "N"
    assert annotations.spans[-1].end == pytest.approx(record.seconds)
    assert all(a.end == b.start for a, b in zip(annotations.spans, annotations.spans[1:], strict=False))
    seconds = sum(span.end - span.start for span in annotations.spans if span.rhythm == "AFIB")
    assert seconds == pytest.approx(586, abs=1)
