"""The twelve leads from those that a monitor sends.

I and II are two sides of Einthoven's triangle; III, aVR, aVL and aVF are linear in them. Nothing else is derived: the
chest leads are independent, and a lead that the device sent is never replaced by one computed from the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from agent.core.ecg import LEADS, FloatArray, Lead, Provenance

FROM_I_AND_II: dict[Lead, tuple[float, float]] = {
    Lead.III: (-1.0, 1.0),
    Lead.AVR: (-0.5, -0.5),
    Lead.AVL: (1.0, -0.5),
    Lead.AVF: (-0.5, 1.0),
}
"""Einthoven's law and Goldberger's leads: the factors of I and of II."""

LEAD_INDEX: dict[Lead, int] = {lead: i for i, lead in enumerate(LEADS)}


def derive(
    leads: Mapping[Lead, FloatArray], samples: int, computed: Collection[Lead] = ()
) -> tuple[FloatArray, tuple[Provenance, ...]]:
    """Twelve leads (12, samples) in mV in the order of ``LEADS``, and where each comes from.

    ``leads`` holds the leads that came, each (samples,) and free of NaN; they are copied. ``computed`` names those of
    them that the device itself says it computed (EASI, DICOM's derived codes): DERIVED. A limb lead that did not come
    is derived where I and II are both *measured*: deriving from what was already computed would hide how far the
    result is from an electrode. A missing lead is all zeros.
    """
    out = np.zeros((len(LEADS), samples), np.float32)
    provenance = [Provenance.MISSING] * len(LEADS)
    for lead, values in leads.items():
        out[LEAD_INDEX[lead]] = values
        provenance[LEAD_INDEX[lead]] = Provenance.DERIVED if lead in computed else Provenance.MEASURED
    return out, complete(out, provenance)


def complete(out: FloatArray, provenance: list[Provenance]) -> tuple[Provenance, ...]:
    """`derive` in place, for an array (12, samples) that already holds what came; the provenance afterwards."""
    if provenance[0] is Provenance.MEASURED and provenance[1] is Provenance.MEASURED:
        for lead, (of_i, of_ii) in FROM_I_AND_II.items():
            i = LEAD_INDEX[lead]
            if provenance[i] is Provenance.MISSING:
                np.multiply(out[0], np.float32(of_i), out=out[i])
                out[i] += np.float32(of_ii) * out[1]
                provenance[i] = Provenance.DERIVED
    return tuple(provenance)
