"""What a waveform's code says: MDC nomenclature (ISO/IEEE 11073-10101) and units (UCUM) to channels.

The code and its RefId are read separately and must agree: fixtures and monitors in the field send 131331 (V1) as
``MDC_ECG_LEAD_III``, and no rule tells which of the two is the true one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent.core.ecg import ChannelKind, Lead
from agent.core.nomenclature import DERIVED_LEAD_BY_ID, ECG_ELEC_POTL, ECG_LEAD, LEAD_BY_ID, MCL_ID, V_ID

# Electrodes that are ECG but none of the twelve: V (unspecified), MCL, EASI AS and AI.
_OTHER_ECG_IDS: Final = {0: False, V_ID: False, MCL_ID: False, 132: True, 133: True}

# Waveforms beside the ECG. Codes that are not certain are left out: such a channel is kept as OTHER.
_WAVES: Final[dict[int, tuple[ChannelKind, str]]] = {
    150452: (ChannelKind.PLETH, "PULS_OXIM_PLETH"),
    150032: (ChannelKind.ABP, "PRESS_BLD_ART"),
    150036: (ChannelKind.ABP, "PRESS_BLD_ART_ABP"),
    151780: (ChannelKind.RESP, "IMPED_TTHOR"),
    151552: (ChannelKind.RESP, "RESP"),
}
_WAVE_NAMES: Final = {name: kind for kind, name in _WAVES.values()}

_REF_ID = re.compile(r"^MDC_ECG_(?:ELEC_POTL|LEAD)(?:_(.+))?$")
_LEADS_BY_NAME: Final = {lead.value.upper(): lead for lead in Lead}
_DERIVED_BY_NAME: Final = {f"D{name}": lead for name, lead in _LEADS_BY_NAME.items()}
_OTHER_ECG_NAMES: Final = {"": False, "V": False, "MCL": False, "AS": True, "AI": True}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code or a RefId names."""

    kind: ChannelKind
    lead: Lead | None = None
    derived: bool = False


def meaning_from_code(code: int) -> Meaning | None:
    """The channel that an MDC code names; None where it is not one known here."""
    for base in (ECG_ELEC_POTL, ECG_LEAD):
        number = code - base
        if number in LEAD_BY_ID:
            return Meaning(ChannelKind.ECG, LEAD_BY_ID[number])
        if number in DERIVED_LEAD_BY_ID:
            return Meaning(ChannelKind.ECG, DERIVED_LEAD_BY_ID[number], derived=True)
        if number in _OTHER_ECG_IDS and code != ECG_LEAD:
            return Meaning(ChannelKind.ECG, derived=_OTHER_ECG_IDS[number])
    wave = _WAVES.get(code)
    return Meaning(wave[0]) if wave else None


def meaning_from_ref_id(ref_id: str) -> Meaning | None:
    """The channel that a RefId (``MDC_ECG_ELEC_POTL_II``, ``MDC_ECG_LEAD_II``) names; None where it is not known."""
    name = ref_id.upper()
    match = _REF_ID.match(name)
    if match:
        lead = match[1] or ""
        if lead in _LEADS_BY_NAME:
            return Meaning(ChannelKind.ECG, _LEADS_BY_NAME[lead])
        if lead in _DERIVED_BY_NAME:
            return Meaning(ChannelKind.ECG, _DERIVED_BY_NAME[lead], derived=True)
        if lead in _OTHER_ECG_NAMES:
            return Meaning(ChannelKind.ECG, derived=_OTHER_ECG_NAMES[lead])
        return None
    kind = _WAVE_NAMES.get(name.removeprefix("MDC_"))
    return Meaning(kind) if kind and name.startswith("MDC_") else None


def meaning(code: int, ref_id: str) -> Meaning | None:
    """What code and RefId name together; None where they disagree, and the channel must be refused.

    One of the two may be silent (code 0, RefId empty). Where one is known here and the other is not, they disagree
    only if the unknown one cannot be the other's: an ECG RefId beside a code that is no ECG code, or the reverse.
    """
    by_code = meaning_from_code(code) if code else None
    by_name = meaning_from_ref_id(ref_id) if ref_id else None
    other = Meaning(ChannelKind.OTHER)
    if not code or not ref_id:
        return by_code or by_name or other
    if by_code is None and by_name is None:
        return other
    if by_code is None or by_name is None:
        # A private text beside a known code is a label; an MDC RefId or code that says something else is not.
        contradicted = ref_id.upper().startswith("MDC_") if by_name is None else True
        return None if contradicted else by_code
    if by_code.kind is not by_name.kind or by_code.lead is not by_name.lead:
        return None
    return Meaning(by_code.kind, by_code.lead, by_code.derived or by_name.derived)


# Units: (UCUM base unit, factor to it). MDC dimension codes are partition 4; the last five bits are the decimal prefix.
_UNITS: Final[dict[str, tuple[str, float]]] = {
    "mV": ("mV", 1.0),
    "uV": ("mV", 1e-3),
    "nV": ("mV", 1e-6),
    "V": ("mV", 1e3),
    "266418": ("mV", 1.0),
    "266419": ("mV", 1e-3),
    "266400": ("mV", 1e3),
    "MDC_DIM_MILLI_VOLT": ("mV", 1.0),
    "MDC_DIM_MICRO_VOLT": ("mV", 1e-3),
    "MDC_DIM_VOLT": ("mV", 1e3),
    "mm[Hg]": ("mm[Hg]", 1.0),
    "mmHg": ("mm[Hg]", 1.0),
    "266016": ("mm[Hg]", 1.0),
    "MDC_DIM_MMHG": ("mm[Hg]", 1.0),
    "kPa": ("mm[Hg]", 7.50062),
    "%": ("%", 1.0),
    "262688": ("%", 1.0),
    "MDC_DIM_PERCENT": ("%", 1.0),
    "Ohm": ("Ohm", 1.0),
    "1": ("1", 1.0),
    "262656": ("1", 1.0),
    "MDC_DIM_DIMLESS": ("1", 1.0),
    "": ("1", 1.0),
}
_ALIASES: Final = {"microV": "uV", "µV": "uV", "μV": "uV", "MV": "mV", "UV": "uV", "mv": "mV", "uv": "uV"}
# The UCUM term that Philips sends per count: `10.mV/4096` is 10 mV over 4096 steps.
_SCALED = re.compile(r"^(\d+(?:\.\d+)?)\.?([A-Za-zµμ%\[\]]+)(?:/(\d+(?:\.\d+)?))?$")

_RATE_UNITS: Final[dict[str, float]] = {
    "264608": 1.0,
    "MDC_DIM_PER_SEC": 1.0,
    "264640": 1.0,
    "MDC_DIM_HZ": 1.0,
    "/s": 1.0,
    "Hz": 1.0,
    "s-1": 1.0,
    "1/s": 1.0,
    "": 1.0,
}
_PERIOD_UNITS: Final[dict[str, float]] = {
    "264320": 1.0,
    "MDC_DIM_SEC": 1.0,
    "s": 1.0,
    "264338": 1e-3,
    "MDC_DIM_MILLI_SEC": 1e-3,
    "ms": 1e-3,
}


def unit(identifiers: tuple[str, ...]) -> tuple[str, float] | None:
    """The UCUM base unit of OBX-6 and the factor to it; None where none of its components is known.

    ``identifiers`` are the field's components, as ``("266418", "MDC_DIM_MILLI_VOLT", "MDC")`` or ``("uV", "uV",
    "UCUM")``; ``("10.mV/4096", …)`` gives mV and 10/4096. An empty field is dimensionless.
    """
    if not any(identifiers):
        return _UNITS[""]
    for identifier in identifiers:
        if not identifier or identifier in {"MDC", "UCUM"}:
            continue
        name = _ALIASES.get(identifier, identifier)
        if name in _UNITS:
            return _UNITS[name]
        match = _SCALED.match(name)
        if match:
            base = _UNITS.get(_ALIASES.get(match[2], match[2]))
            divisor = float(match[3] or 1)
            if base and divisor > 0:
                return base[0], base[1] * float(match[1]) / divisor
    return None


def rate_from(value: float, identifiers: tuple[str, ...], *, always_hertz: bool) -> float | None:
    """Samples per second from a rate facet; None where value and unit make none.

    ``always_hertz`` is for dialects whose unit is known to be wrong (240 ``s``). Otherwise a period is inverted, and
    a period of a second or more is refused, since it can only be a rate with a wrong unit.
    """
    if always_hertz or not any(identifiers) or any(i in _RATE_UNITS for i in identifiers if i):
        return value
    for identifier in identifiers:
        if identifier in _PERIOD_UNITS:
            period = value * _PERIOD_UNITS[identifier]
            return 1.0 / period if 0 < period < 1 else None
    return None
