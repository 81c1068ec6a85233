"""The gate: which limit a measurement breaks, and what breaks none."""

from __future__ import annotations

import pytest

from agent.core.bundle.limits import Parity, ParityLimits

AT_THE_LIMITS = {
    "probability_max": 0.1,
    "probability_p999": 0.03,
    "logit_max": 1e-4,
    "flips": 5,
    "auroc_change": -0.002,
    "alerts_differ": 0,
}


@pytest.mark.parametrize(
    ("parity", "said"),
    [
        (AT_THE_LIMITS, ""),
        ({"auroc_change": 0.3}, ""),
        ({}, ""),
        ({"probability_max": 0.101}, "probability_max is 0.101, above 0.1"),
        ({"probability_p999": 0.031}, "probability_p999"),
        ({"logit_max": 1.1e-4}, "logit_max is 0.00011, above 0.0001"),
        ({"flips": 6}, "flips_share is 0.006, above 0.005"),
        ({"windows": 20, "flips": 1}, ""),
        ({"windows": 20, "flips": 2}, "flips_share is 0.1"),
        ({"auroc_change": -0.0021}, "auroc_drop"),
        ({"alerts_differ": 1}, "alerts_differ is 1, above 0"),
    ],
)
def test_the_gate_names_the_limit_that_is_broken(parity: dict[str, float], said: str) -> None:
    measured = Parity.model_validate({"windows": 1000, **parity})
    broken = ParityLimits().broken_by(measured)
    assert said in broken
    assert bool(said) == bool(broken)
