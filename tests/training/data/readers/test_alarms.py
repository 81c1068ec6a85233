"""Intensive-care recordings before an alarm."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.ecg import Lead
from training.data.readers.alarms import read, recognise
from training.data.recording import Recording, Source

pytestmark = pytest.mark.data


def test_the_real_ones(data_dir: Path) -> None:
    folder = data_dir / "cinc2015_alarms"
    assert recognise(folder)
    first = next(read(Source("cinc2015_alarms", "cinc2015", folder))).load()
    assert isinstance(first, Recording)
    assert (first.leads, first.continuous) == ((Lead.II,), True)
    assert any("PLETH" in note for note in first.notes)
    assert any("channel V " in note for note in first.notes)
    assert (first.labels == -1).all()
