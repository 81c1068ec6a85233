"""What a waveform row and its facets say of the channel: meaning, rate, scale, and which counts are no samples.

The code and its RefId are read separately and must agree: fixtures and monitors in the field send 131331 (V1) as
``MDC_ECG_LEAD_III``, and no rule tells which of the two is the true one.

A monitor says the same of itself every second, so what was made of it is remembered (pure, and bounded in number and
size); a channel that contradicts itself is a `DescriptionError` each time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite
from typing import Final, NamedTuple

from agent.core.ecg import Channel, ChannelKind
from agent.core.errors import DeepECGError
from agent.core.hl7.dialect import FacetName
from agent.core.nomenclature import MILLIVOLT, Term, Unit, term_of_code, term_of_ref_id, unit_of

HIGHEST_RATE: Final = 20_000.0
LONGEST_KEY: Final = 4096
"""Bytes of a row's description; the remembered ones stay small."""

# MDC_EVT_INOP carries a sentinel in one maker's messages (32767) and a flag in another's (0 or 1).
_LEAST_SENTINEL: Final = 0x4000

# The UCUM term that Philips sends per count: `10.mV/4096` is 10 mV over 4096 steps.
_SCALED: Final = re.compile(r"(\d+(?:\.\d+)?)\.?([A-Za-zµμ%\[\]]+)(?:/(\d+(?:\.\d+)?))?")


class Facet(NamedTuple):
    """A row that describes a waveform, raw."""

    name: FacetName
    value: bytes
    """OBX-5."""
    unit: bytes
    """OBX-6."""


class Rules(NamedTuple):
    """The dialect's exceptions that matter here."""

    always_hertz: bool
    dimensionless_mv: float | None
    sentinels: tuple[float, ...]


class DescriptionError(DeepECGError, ValueError):
    """The description contradicts itself."""

    def __init__(self, reason: str, text: str, position: int, facet: int | None = None) -> None:
        """``position`` is the OBX field; ``facet`` the index of the facet at fault, None for the waveform's own row."""
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.position = position
        self.facet = facet


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """A channel, all but its filter label; compared by identity."""

    code: int
    label: str
    term: Term
    unit: str
    rate: float | None
    """None: the message's times must tell it."""
    factor: float
    """From counts to ``unit``."""
    low: float
    high: float
    sentinels: tuple[float, ...]
    """Counts between ``low`` and ``high`` that mean `invalid` or `missing`."""
    inoperative: bool
    """The sender says that the whole channel is."""


@lru_cache(maxsize=1024)
def describe(observation: bytes, own_unit: bytes, facets: tuple[Facet, ...], mark: bytes, rules: Rules) -> Description:
    """Make sense of a row.

    Args:
        observation: OBX-3.
        own_unit: OBX-6.
        facets: the rows that belong to it, at most `LONGEST_KEY` bytes with the two before.
        mark: the component separator.
        rules: the dialect's.

    Raises:
        DescriptionError: see its ``reason``.
    """
    parts = [part.strip().decode("latin-1") for part in observation.split(mark)]
    text, ref_id = parts[0], parts[1] if len(parts) > 1 else ""
    code = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    term = agreed(code, ref_id)
    if term is None:
        raise DescriptionError("code_mismatch", "code and RefId of the observation name different channels", 3)
    base, factor = _scale(own_unit, facets, mark, term.kind, rules)
    low, high = _range(facets, mark)
    sentinels = {*rules.sentinels, *(_number(facets, i) for i in _indices(facets, "sentinel"))}
    flags = [_number(facets, i) for i in _indices(facets, "inoperative")]
    sentinels.update(value for value in flags if abs(value) >= _LEAST_SENTINEL)
    return Description(
        code=code,
        label=ref_id or text,
        term=term,
        unit=base,
        rate=_rate(facets, mark, rules),
        factor=factor,
        low=low,
        high=high,
        sentinels=tuple(s for s in sentinels if low <= s <= high),
        inoperative=any(0 < abs(value) < _LEAST_SENTINEL for value in flags),
    )


@lru_cache(maxsize=1024)
def channel(description: Description, rate: float, filter_label: str) -> Channel:
    """The channel itself, the same object every time."""
    return Channel(
        kind=description.term.kind,
        code=description.code,
        label=description.label,
        unit=description.unit,
        rate=rate,
        lead=description.term.lead,
        derived=description.term.derived,
        filter_label=filter_label,
    )


def agreed(code: int, ref_id: str) -> Term | None:
    """What code and RefId name together; None where they disagree, and the channel must be refused.

    One of the two may be silent (code 0, RefId empty). Where one is known and the other is not, they disagree only if
    the unknown one cannot be the other's: an ECG RefId beside a code that is no ECG code, or the reverse.
    """
    by_code = term_of_code(code) if code else None
    by_name = term_of_ref_id(ref_id) if ref_id else None
    other = Term(code, ref_id, ref_id, ChannelKind.OTHER, "1")
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
    return by_code._replace(derived=by_code.derived or by_name.derived)


def unit_of_field(identifiers: tuple[str, ...]) -> Unit | None:
    """The unit of OBX-6; None where none of its components is known.

    ``identifiers`` are the field's components, as ``("266418", "MDC_DIM_MILLI_VOLT", "MDC")`` or ``("uV", "uV",
    "UCUM")``; ``("10.mV/4096", …)`` gives mV and 10/4096. An empty field is dimensionless.
    """
    if not any(identifiers):
        return unit_of("")
    for identifier in identifiers:
        if identifier and (unit := unit_of(identifier)) is not None:
            return unit
        if match := _SCALED.fullmatch(identifier):
            base, divisor = unit_of(match[2]), float(match[3] or 1)
            if base is not None and divisor > 0:
                return base._replace(factor=base.factor * float(match[1]) / divisor)
    return None


def rate_from(value: float, identifiers: tuple[str, ...], *, always_hertz: bool) -> float | None:
    """Samples per second from a rate facet; None where value and unit make none.

    ``always_hertz`` is for dialects whose unit is known to be wrong (240 ``s``). Otherwise a period is inverted, and
    a period of a second or more is refused, since it can only be a rate with a wrong unit.
    """
    if always_hertz or not any(identifiers):
        return value
    units = [unit for identifier in identifiers if identifier and (unit := unit_of(identifier)) is not None]
    if any(unit.ucum == "Hz" for unit in units):
        return value
    period = next((value * unit.factor for unit in units if unit.ucum == "s"), 0.0)
    return 1.0 / period if 0 < period < 1 else None


def _rate(facets: tuple[Facet, ...], mark: bytes, rules: Rules) -> float | None:
    indices = _indices(facets, "rate")
    if not indices:
        return None
    stated = {
        rate_from(_number(facets, i), _components(facets[i].unit, mark), always_hertz=rules.always_hertz)
        for i in indices
    }
    rate = stated.pop()
    if rate is None or stated:
        raise DescriptionError("rate", "the sample rate's value and unit make no rate; send Hz", 6, indices[0])
    if not 0 < rate <= HIGHEST_RATE:
        raise DescriptionError("rate", f"the sample rate is not between 0 and {HIGHEST_RATE:.0f} Hz", 5, indices[0])
    return float(rate)


def _scale(
    own_unit: bytes, facets: tuple[Facet, ...], mark: bytes, kind: ChannelKind, rules: Rules
) -> tuple[str, float]:
    """UCUM unit of the channel and the factor from counts to it."""
    own = unit_of_field(_components(own_unit, mark))
    if own is None:
        raise DescriptionError("unit", "the unit is not known; send mV or uV", 6)
    base, factor = own
    indices = _indices(facets, "resolution")
    if indices:
        stated = {(_number(facets, i), unit_of_field(_components(facets[i].unit, mark))) for i in indices}
        resolution, resolution_unit = stated.pop()
        if stated or resolution_unit is None or not (isfinite(resolution) and resolution > 0):
            raise DescriptionError(
                "resolution", "the resolution is not one positive number in a known unit", 5, indices[0]
            )
        if resolution_unit[0] != "1":
            base, factor = resolution_unit
        factor *= resolution
    if kind is ChannelKind.ECG:
        if base == "1" and rules.dimensionless_mv is not None:
            base, factor = MILLIVOLT, factor * rules.dimensionless_mv
        if base != MILLIVOLT:
            raise DescriptionError("unit", "an ECG channel needs a voltage; send a resolution in mV or uV", 6)
    return base, factor


def _range(facets: tuple[Facet, ...], mark: bytes) -> tuple[float, float]:
    low, high = -inf, inf
    for index in _indices(facets, "range"):
        bounds = facets[index].value.split(mark, 2)
        try:
            low, high = float(bounds[0]), float(bounds[1])
        except (ValueError, IndexError):
            raise DescriptionError("range", "the data range is not of the form low^high", 5, index) from None
    return low, high


def _indices(facets: tuple[Facet, ...], name: FacetName) -> list[int]:
    return [index for index, facet in enumerate(facets) if facet.name == name]


def _components(raw: bytes, mark: bytes) -> tuple[str, ...]:
    """OBX-6's components; a unit that is not ASCII (µV) is UTF-8."""
    return tuple(part.strip().decode("utf-8", "replace") for part in raw.split(mark)[:3]) if raw else ()


def _number(facets: tuple[Facet, ...], index: int) -> float:
    try:
        return float(facets[index].value)
    except ValueError:
        raise DescriptionError("facet", "the value that describes a waveform is not a number", 5, index) from None
