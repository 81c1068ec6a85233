"""The value that an evaluation is: which of its outputs count as evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest

from training.evaluation.assess import assess
from training.evaluation.cases import Cases
from training.evaluation.study import StudySettings


def test_only_outputs_with_enough_patients_are_evaluated(simulate: Callable[..., Cases]) -> None:
    study = assess(simulate(120), StudySettings(resamples=20, minimum=10))
    lacking = {output.name for output in study.outputs if output.lacking}
    assert "Acute pericarditis" in lacking
    assert {output.name for output in study.evaluated} == {output.name for output in study.outputs} - lacking
    with pytest.raises(FrozenInstanceError):
        study.doubts = ()  # type: ignore[misc]
