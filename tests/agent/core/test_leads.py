"""The twelve leads: Einthoven's and Goldberger's identities, and never a lead without its provenance."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.ecg import LEADS, FloatArray, Lead, Provenance
from agent.core.leads import derive

M, D, X = Provenance.MEASURED, Provenance.DERIVED, Provenance.MISSING


def signals(*leads: Lead) -> dict[Lead, FloatArray]:
    rng = np.random.default_rng(0)
    return {lead: rng.standard_normal(50).astype(np.float32) for lead in leads}


def test_the_limb_leads_follow_from_i_and_ii() -> None:
    leads = signals(Lead.I, Lead.II)
    out, provenance = derive(leads, 50)
    i, ii = leads[Lead.I], leads[Lead.II]
    assert provenance == (M, M, D, D, D, D, X, X, X, X, X, X)
    for lead, expected in ((2, ii - i), (3, -(i + ii) / 2), (4, i - ii / 2), (5, ii - i / 2)):
        assert np.allclose(out[lead], expected, atol=1e-6)
    assert not out[6:].any()
    # They do not come from an electrode apart: aVR + aVL + aVF = 0.
    assert np.allclose(out[3] + out[4] + out[5], 0, atol=1e-6)


def test_a_lead_that_came_is_never_computed() -> None:
    leads = signals(*LEADS)
    out, provenance = derive(leads, 50)
    assert provenance == (M,) * 12
    assert all(np.array_equal(out[k], leads[lead]) for k, lead in enumerate(LEADS))


@pytest.mark.parametrize("present", [(Lead.II, Lead.V1), (Lead.I, Lead.V5), (Lead.II, Lead.III)])
def test_without_i_and_ii_nothing_is_derived(present: tuple[Lead, ...]) -> None:
    _, provenance = derive(signals(*present), 50)
    assert {LEADS[k] for k, p in enumerate(provenance) if p is M} == set(present)
    assert D not in provenance


def test_what_the_device_computed_is_derived_and_a_source_for_nothing() -> None:
    _, provenance = derive(signals(Lead.I, Lead.II, Lead.V2), 50, computed={Lead.I, Lead.V2})
    assert provenance == (D, M, X, X, X, X, X, D, X, X, X, X)


def test_nothing_gives_twelve_missing_leads() -> None:
    out, provenance = derive({}, 7)
    assert out.shape == (12, 7)
    assert not out.any()
    assert provenance == (X,) * 12


def test_the_result_owns_its_samples() -> None:
    leads = signals(Lead.I, Lead.II)
    out, _ = derive(leads, 50)
    leads[Lead.I][:] = 9
    assert not (out[0] == 9).any()
