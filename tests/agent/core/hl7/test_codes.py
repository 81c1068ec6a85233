"""MDC codes, RefIds and units."""

from __future__ import annotations

import pytest

from agent.core.ecg import ChannelKind, Lead
from agent.core.hl7.codes import Meaning, meaning, rate_from, unit


@pytest.mark.parametrize(
    ("code", "ref_id", "lead", "derived"),
    [
        (131329, "MDC_ECG_ELEC_POTL_I", Lead.I, False),
        (131330, "MDC_ECG_LEAD_II", Lead.II, False),
        (131389, "", Lead.III, False),
        (131390, "MDC_ECG_ELEC_POTL_AVR", Lead.AVR, False),
        (131391, "MDC_ECG_ELEC_POTL_aVL", Lead.AVL, False),
        (131392, "MDC_ECG_ELEC_POTL_AVF", Lead.AVF, False),
        (131331, "MDC_ECG_ELEC_POTL_V1", Lead.V1, False),
        (131336, "MDC_ECG_ELEC_POTL_V6", Lead.V6, False),
        (0, "MDC_ECG_ELEC_POTL_V3", Lead.V3, False),
        (131395, "MDC_ECG_ELEC_POTL_V", None, False),
        (131403, "MDC_ECG_ELEC_POTL_MCL", None, False),
        (131328, "MDC_ECG_ELEC_POTL", None, False),
        # DICOM CID 3001
        (131103, "", Lead.I, True),
        (131104, "", Lead.II, True),
        (131183, "", Lead.III, True),
        (131105, "", Lead.V1, True),
        (131110, "", Lead.V6, True),
        (131134, "", Lead.AVR, False),
        (131136, "", Lead.AVF, False),
        (131204, "", None, True),
        (131205, "", None, True),
    ],
)
def test_ecg_leads(code: int, ref_id: str, lead: Lead | None, derived: bool) -> None:
    assert meaning(code, ref_id) == Meaning(ChannelKind.ECG, lead, derived)


@pytest.mark.parametrize(
    ("code", "ref_id", "kind"),
    [
        (150452, "MDC_PULS_OXIM_PLETH", ChannelKind.PLETH),
        (150036, "MDC_PRESS_BLD_ART_ABP", ChannelKind.ABP),
        (150032, "", ChannelKind.ABP),
        (151780, "MDC_IMPED_TTHOR", ChannelKind.RESP),
        (0, "Paw", ChannelKind.OTHER),
        (150452, "Pleth", ChannelKind.PLETH),
        (999999, "MDC_SOMETHING_ELSE", ChannelKind.OTHER),
        (0, "", ChannelKind.OTHER),
    ],
)
def test_other_waves(code: int, ref_id: str, kind: ChannelKind) -> None:
    found = meaning(code, ref_id)
    assert found is not None
    assert found.kind is kind


@pytest.mark.parametrize(
    ("code", "ref_id"),
    [
        (131331, "MDC_ECG_LEAD_III"),
        (131310, "MDC_ECG_ELEC_POTL_I"),
        (131330, "MDC_PULS_OXIM_PLETH"),
        (149504, "MDC_PULS_OXIM_PLETH"),
        (131329, "MDC_ECG_ELEC_POTL_X7"),
        (150036, "MDC_PRESS_BLD_VEN_CENT"),
        (131329, "MDC_ECG_ELEC_POTL"),
    ],
)
def test_a_code_and_a_ref_id_that_disagree_mean_nothing(code: int, ref_id: str) -> None:
    assert meaning(code, ref_id) is None


@pytest.mark.parametrize(
    ("identifiers", "expected"),
    [
        (("266418", "MDC_DIM_MILLI_VOLT", "MDC"), ("mV", 1.0)),
        (("uV", "uV", "UCUM"), ("mV", 1e-3)),
        (("µV",), ("mV", 1e-3)),
        (("10.mV/4096", "10.mV/4096", "UCUM"), ("mV", 10 / 4096)),
        (("2.44uV",), ("mV", 2.44e-3)),
        (("262656", "MDC_DIM_DIMLESS", "MDC"), ("1", 1.0)),
        ((), ("1", 1.0)),
        (("mm[Hg]", "mm[Hg]", "UCUM"), ("mm[Hg]", 1.0)),
        (("furlong",), None),
        (("10.furlong/4096",), None),
        (("1.mV/0",), None),
    ],
)
def test_units(identifiers: tuple[str, ...], expected: tuple[str, float] | None) -> None:
    found = unit(identifiers)
    assert (found is None) == (expected is None)
    if found and expected:
        assert found[0] == expected[0]
        assert found[1] == pytest.approx(expected[1])


def test_rates() -> None:
    assert rate_from(500, ("264608", "MDC_DIM_PER_SEC", "MDC"), always_hertz=False) == 500
    assert rate_from(240, ("s", "s", "UCUM"), always_hertz=True) == 240
    assert rate_from(240, ("s", "s", "UCUM"), always_hertz=False) is None
    assert rate_from(0.004, ("s",), always_hertz=False) == pytest.approx(250)
    assert rate_from(2, ("ms",), always_hertz=False) == pytest.approx(500)
    assert rate_from(2, ("furlong",), always_hertz=False) is None
    assert rate_from(0, ("s",), always_hertz=False) is None
