"""Brugada-HUCA: a target of its own, and nothing for weights that ship."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from agent.core.ecg import LEADS
from agent.core.labels import index_of
from training.data.readers import FORMATS
from training.data.readers.brugada import read, recognise
from training.data.recording import Recording, Source

pytestmark = pytest.mark.data


def test_the_real_ones(data_dir: Path) -> None:
    folder = data_dir / "brugada_huca"
    assert recognise(folder)
    found = [r for p in read(Source("brugada_huca", "brugada", folder)) if isinstance(r := p.load(), Recording)]
    assert Counter(r.targets.get("brugada") for r in found) == {0.0: 287, 1.0: 69, None: 7}
    assert sum("brugada is 2: unknown" in r.notes for r in found) == 7
    label = index_of("Brugada")
    assert Counter(int(r.labels[label]) for r in found) == {0: 287, 1: 69, -1: 7}
    assert (found[0].leads, found[0].rate, found[0].signal.shape) == (LEADS, 100.0, (12, 1200))
    assert FORMATS["brugada"].licence.share_alike
