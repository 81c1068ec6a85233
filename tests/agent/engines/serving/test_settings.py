"""What the configuration may say of serving."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from agent.engines.serving.settings import ModelSettings, ServingSettings


@pytest.mark.parametrize("good", [{"every": 60}, {"once": True}, {"every": 5.0, "alerts": True}])
def test_a_model_has_one_rhythm(good: dict[str, Any]) -> None:
    assert ModelSettings(bundle="ssl", **good).answer_within == 30.0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({}, "set every or once"),
        ({"every": 60.0, "once": True}, "set every or once"),
        ({"once": True, "alerts": True}, "set every"),
        ({"every": 0.0}, "greater than 0"),
        ({"every": float("inf")}, "finite"),
        ({"once": True, "often": 1}, "often"),
    ],
)
def test_anything_else_is_refused(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelSettings(bundle="ssl", **bad)


def test_a_window_is_not_dropped_before_it_is_late() -> None:
    with pytest.raises(ValidationError, match="expire_after must not be below"):
        ServingSettings(answer_within=5.0, expire_after=4.0)
