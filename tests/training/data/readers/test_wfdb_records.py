"""Any folder of WFDB records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import LEADS, Lead
from training.data.readers.wfdb_records import headers, read, recognise
from training.data.recording import Recording, Source

Write = Callable[..., np.ndarray]


def test_every_record_however_deep(tmp_path: Path, write_record: Write) -> None:
    a = write_record(tmp_path / "a", seed=1)
    b = write_record(tmp_path / "deep" / "er" / "b", seed=2, leads=LEADS[:3], names=["I", "II", "RESP"])
    found = {p.record: p.load() for p in read(Source("mine", "wfdb", tmp_path))}
    assert list(found) == ["a", "deep/er/b"]
    first, second = found.values()
    assert isinstance(first, Recording)
    assert isinstance(second, Recording)
    np.testing.assert_allclose(first.signal, a, atol=1e-6)
    assert (first.patient, first.rate, first.leads) == ("mine/a", 500.0, LEADS)
    np.testing.assert_allclose(second.signal, b[:2], atol=1e-6)
    assert second.leads == (Lead.I, Lead.II)
    assert second.notes == ("channel RESP (mV) is none of the twelve leads",)
    assert recognise(tmp_path)
    assert not recognise(tmp_path / "deep")


def test_microvolts_are_converted(tmp_path: Path, write_record: Write) -> None:
    a = write_record(tmp_path / "a", unit="uV")
    (pending,) = read(Source("mine", "wfdb", tmp_path))
    found = pending.load()
    assert isinstance(found, Recording)
    np.testing.assert_allclose(found.signal, a / 1000, atol=1e-7)


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "broken.hea").write_text("not a header")
    (pending,) = read(Source("mine", "wfdb", tmp_path))
    with pytest.raises(Exception):  # noqa: B017  (whatever the library says)
        pending.load()


def test_a_folder_without_records_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no WFDB headers"):
        headers(Source("mine", "mitdb", tmp_path))
