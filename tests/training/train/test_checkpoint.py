"""A checkpoint is whole at any moment, and nothing in it runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from training.train.checkpoint import load, save


def test_a_checkpoint_is_whole_even_if_writing_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "x.pt"
    save(path, {"step": 1})

    def cut_short(_: object, file: BinaryIO) -> None:
        file.write(b"half of a checkpoint")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(OSError, match="no space"):
        save(path, {"step": 2})
    assert load(path) == {"step": 1}


def test_nothing_in_a_checkpoint_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"net": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
