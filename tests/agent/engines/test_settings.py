"""`[engine]`: one table holds the bundle's settings and the batches' alike, and refuses what cannot be."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent.engines.bundles.settings import BundleSettings
from agent.engines.settings import EngineSettings


def test_one_table_for_bundle_and_batches() -> None:
    assert set(BundleSettings.model_fields) < set(EngineSettings.model_fields)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"max_batch": 0}, {"max_wait": -1.0}, {"deadline": 0.0}, {"gpu": 1}])
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        EngineSettings.model_validate(wrong)
