"""Simulated monitors and gateways that speak HL7: each maker's dialect in its true shape, for demo, bench and tests.

What goes out is what comes in from the field, with its oddities: a rate in ``s``, overlapping blocks, LF line ends, no
times, no patient. `agent.core.hl7.decode` reads it. Its rows are written out by hand on purpose, and not by that room's
writer: nothing is shared between the two but the standard's tables of codes, escapes and times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from agent.core.ecg import Encounter, EncounterEvent, FloatArray, Lead, Phase, Priority
from agent.core.hl7.message import dtm, escape, from_component_form
from agent.core.nomenclature import CODE_OF_LEAD, ECG_ELEC_POTL

CADENCE: Final[dict[str, tuple[float, float]]] = {
    "ge": (6.0, 5.5),
    "philips": (1.0, 1.0),
    "mindray": (1.0, 1.0),
    "mindray_w01": (1.0, 1.0),
    "capsule": (1.0, 1.0),
    "wcm": (1.0, 1.0),
}
"""Seconds of signal in a message and seconds between messages, by dialect."""

_GE_INVALID: Final = (-32768, -32766, -32765, -32764, -32760, -32759, -32758, -32757, -32756, -32755, -32754)
_GE_MISSING: Final = (-32767, -32763, -32762, -32761, -32753, -32752)
_GE_MICROVOLT: Final = 2.44
_PHILIPS_MILLIVOLT: Final = 10 / 4096
_MINDRAY_MILLIVOLT: Final = 0.001
_MINDRAY_INVALID: Final = 32767
_DEC: Final = "IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO"
_ACM: Final = "IHE_PCD_ACM_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.4.1^ISO"

_TRIGGERS: Final = {
    EncounterEvent.ADMIT: ("A01", "ADT_A01"),
    EncounterEvent.TRANSFER: ("A02", "ADT_A02"),
    EncounterEvent.DISCHARGE: ("A03", "ADT_A03"),
    EncounterEvent.UPDATE: ("A08", "ADT_A01"),
}


@dataclass(frozen=True, slots=True)
class _Block:
    """One message's signal."""

    bed: str
    leads: Sequence[Lead]
    values: FloatArray
    rate: float
    start: float
    sequence: int
    encounter: Encounter | None
    paced: bool | None

    @property
    def end(self) -> float:
        return self.start + int(self.values.shape[1]) / self.rate


def hl7_message(
    dialect: str,
    bed: str,
    leads: Sequence[Lead],
    values: FloatArray,
    rate: float,
    start: float,
    sequence: int,
    encounter: Encounter | None = None,
    paced: bool | None = None,
) -> bytes:
    """One waveform message, without its MLLP frame.

    Args:
        dialect: a key of `CADENCE`.
        bed: ``site/unit/bed``.
        leads: one per row of ``values``.
        values: (leads, samples) in mV; NaN = invalid.
        rate: samples per second.
        start: epoch seconds of the first sample.
        sequence: the message's number; becomes its control id.
        encounter: who lies there; the dialects that know no patient leave it out.
        paced: rhythm status, where the dialect has one.
    """
    return _BUILDERS[dialect](_Block(bed, leads, values, rate, start, sequence, encounter, paced))


def location(dialect: str, bed: str) -> str:
    """What this dialect's messages say of where they come from, as `BedMap` is asked for it."""
    if dialect == "ge":
        return _ge_location(bed)
    if dialect == "capsule":
        return _capsule_location(bed)
    return eui64(bed) if dialect == "mindray_w01" else _point_of_care(bed)


def bed_lookup(dialect: str, bed: str) -> dict[str, str]:
    """What `BedMap.lookup` needs, so that this dialect's messages are known to be of this bed."""
    return {location(dialect, bed): bed} if dialect in {"ge", "capsule", "mindray_w01"} else {}


def eui64(bed: str) -> str:
    """The EUI-64 of the simulated monitor at a bed: the same for a bed at all times."""
    return hashlib.blake2b(bed.encode(), digest_size=8).hexdigest().upper()


def adt(
    event: EncounterEvent | str,
    bed: str,
    encounter: Encounter,
    sequence: int,
    time: float,
    prior_bed: str | None = None,
) -> bytes:
    """An ADT message of the hospital's own system; ``event`` may also be a trigger event (``A11``, ``A13``)."""
    trigger, structure = _TRIGGERS[event] if isinstance(event, EncounterEvent) else (event, "ADT_A01")
    prior = _point_of_care(prior_bed) if prior_bed else ""
    visit = escape(encounter.visit).decode()
    return _message(
        f"MSH|^~\\&|HIS|{_parts(bed)[0]}|||{_dtm(time)}||ADT^{trigger}^{structure}|ADT{sequence}"
        "|P|2.5|||AL|NE||UNICODE UTF-8",
        f"EVN|{trigger}|{_dtm(time)}",
        _pid(encounter),
        f"PV1|1|I|{_point_of_care(bed)}|||{prior}|||||||||||||{visit}",
    )


def r40(
    bed: str,
    code: int,
    ref_id: str,
    text: str,
    phase: Phase,
    time: float,
    sequence: int,
    *,
    active: bool = True,
    priority: Priority = Priority.HIGH,
    source_code: int = ECG_ELEC_POTL,
    encounter: Encounter | None = None,
) -> bytes:
    """A monitor's own physiological alarm as IHE PCD-04 (ORU^R40)."""
    device = eui64(bed)
    stamp = _dtm(time)
    said = escape(text).decode()
    return _message(
        f"MSH|^~\\&|MONITOR^{device}^EUI-64|{_parts(bed)[0]}|||{stamp}||ORU^R40^ORU_R40|ALM{sequence}|P|2.6|||AL|NE"
        f"||UNICODE UTF-8|||{_ACM}",
        _pid(encounter) if encounter else "",
        f"PV1||I|{_point_of_care(bed)}",
        f"OBR|1|{sequence}^MONITOR^{device}^EUI-64|{sequence}^MONITOR^{device}^EUI-64|196616^MDC_EVT_ALARM^MDC|||{stamp}",
        f"OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X|||||||^^{device}^EUI-64",
        f"OBX|2|ST|{code}^{ref_id}^MDC|1.1.1.1.1|{said}||||||R|||{stamp}",
        f"OBX|3|NM|{source_code}^^MDC|1.1.1.1.2|||||||R",
        f"OBX|4|ST|68481^MDC_ATTR_EVENT_PHASE^MDC|1.1.1.1.3|{phase.value}||||||R",
        f"OBX|5|ST|68482^MDC_ATTR_ALARM_STATE^MDC|1.1.1.1.4|{'active' if active else 'inactive'}||||||R",
        "OBX|6|ST|68483^MDC_ATTR_ALARM_INACTIVATION_STATE^MDC|1.1.1.1.5|enabled||||||R",
        f"OBX|7|ST|68484^MDC_ATTR_ALARM_PRIORITY^MDC|1.1.1.1.6|{priority.value}||||||R",
        "OBX|8|ST|68485^MDC_ATTR_ALERT_TYPE^MDC|1.1.1.1.7|SP||||||R",
    )


def _ge(block: _Block) -> bytes:
    device = eui64(block.bed)
    start, end = _dtm(block.start), _dtm(block.end)
    order = f"{device}{block.sequence}^WFM^{device}^EUI-64"
    rows = [
        f"MSH|^~\\&|WFM||||{end}||ORU^R01^ORU_R01|{device}-{block.sequence}|P|2.6|||AL|NE|||||{_DEC}",
        f"PV1||I|{_ge_location(block.bed)}",
        f"OBR|1|{order}|{order}|182777000^monitoring of patient^SCT|||{end}",
        "OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X",
        "OBX|2||69798^MDC_DEV_ECG_VMD^MDC|1.5.0.0|||||||X",
        *_rhythm(block, "OBX|3|ST|", "1.5.0.9"),
    ]
    counts = _integers(block.values * (1000 / _GE_MICROVOLT), _GE_INVALID[0])
    for number, (lead, array) in enumerate(zip(block.leads, counts, strict=True), start=2):
        rows += [
            f"OBR|{number}|{order}|{order}|69121^MDC_OBS_WAVE_CTS^MDC|||{start}|{end}",
            "OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X",
            "OBX|2||69798^MDC_DEV_ECG_VMD^MDC|1.5.0.0|||||||X",
            f"OBX|3|NA|{_observation(lead, upper=True)}|1.5.0.1|{array}|uV^uV^UCUM|||||R|||{start}"
            f"||||WFM^^{device}^EUI-64",
            f"OBX|4|NM|68320^MDC_ATTR_SAMPLE_RATE^MDC|1.5.0.1.1|{block.rate:g}|s^s^UCUM|||||R",
            _GE_FACETS,
        ]
    return _message(*rows, end="\n")


def _philips(block: _Block) -> bytes:
    start, end = _dtm(block.start)[:-5], _dtm(block.end)[:-5]
    rows = [
        f"MSH|^~\\&|PIC iX|{_parts(block.bed)[0]}|||{_dtm(block.end)}||ORU^R01^ORU_R01"
        f"|PIC{eui64(block.bed)}{block.sequence}|P|2.6|||AL|NE||8859/1|EN^English^ISO639||{_DEC}",
        _pid(block.encounter) if block.encounter else "",
        f"PV1|2|I|{_point_of_care(block.bed)}",
        f"OBR|3||{eui64(block.bed)}^^^EUI-64|69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|||{_dtm(block.end)}",
        "OBX|4||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X",
        *_rhythm(block, "OBX|8|ST|", "1.2.4.20"),
        f"OBR|9||{eui64(block.bed)}^^^EUI-64|69121^MDC_OBS_WAVE_CTS^MDC|99999^GATEWAY^MDC||{start}|{end}",
        "OBX|10|ST|68162^MDC_ATTR_FILTER_LABEL_STRING^MDC|1.1.1.1.1|0.5-40 Hz||||||R",
    ]
    for number, (lead, array) in enumerate(_whole(block, block.values / _PHILIPS_MILLIVOLT), start=11):
        rows.append(f"OBX|{number}|NA|{_observation(lead)}|1.1.1.{number}|{array}|10.mV/4096^10.mV/4096^UCUM|||||F")
    return _message(*rows, encoding="latin-1")


def _mindray(block: _Block) -> bytes:
    device = eui64(block.bed)
    start, end = (_dtm(t).replace(".", "") for t in (block.start, block.end))
    rows = [
        f"MSH|^~\\&|MINDRAY_D-SERIES^{device}^EUI-64||||{_dtm(block.end)}||ORU^R01^ORU_R01|{block.sequence}|P|2.6|||AL|NE"
        f"||UNICODE UTF-8|||{_DEC}",
        _pid(block.encounter) if block.encounter else "",
        f"PV1||I|{_point_of_care(block.bed)}",
        f"OBR|1||{block.sequence}^MINDRAY^{device}^EUI-64|CONTINUOUS WAVEFORM|||{start}|{end}",
        *_mindray_rows(block),
    ]
    return _message(*rows)


def _mindray_w01(block: _Block) -> bytes:
    device = eui64(block.bed)
    return _message(
        f"MSH|^~\\&|XH80X^{device}^EUI-64||||||ORU^W01^ORU_W01|{block.sequence}|P|2.4|||AL|NE||UNICODE UTF-8",
        "PID|||^^^^PI||^^^^^^L|||||",
        "PV1||I|^^^",
        f"OBR|1||{block.sequence}^XH80X^{device}^EUI-64|CONTINUOUS WAVEFORM||||",
        *_mindray_rows(block),
    )


def _mindray_rows(block: _Block) -> list[str]:
    rows: list[str] = []
    for index, (lead, array) in enumerate(
        zip(block.leads, _integers(block.values / _MINDRAY_MILLIVOLT, _MINDRAY_INVALID), strict=True)
    ):
        code, number = CODE_OF_LEAD[lead], 4 * index
        sub_id = f"1.7.6.{code}"
        rows += [
            f"OBX|{number + 1}|NA|{_observation(lead, upper=True)}|{sub_id}|{array}|262656^MDC_DIM_DIMLESS^MDC",
            f"OBX|{number + 2}|NM|0^MDC_ATTR_SAMP_RATE^MDC|{sub_id}.1|{block.rate:g}|264608^MDC_DIM_PER_SEC^MDC",
            f"OBX|{number + 3}|NM|2327^MDC_ATTR_NU_MSMT_RES^MDC|{sub_id}.2|1.000000|262656^MDC_DIM_DIMLESS^MDC",
            f"OBX|{number + 4}|NM|262196^MDC_EVT_INOP^MDC|{sub_id}.3|{_MINDRAY_INVALID}",
        ]
    return rows


def _capsule(block: _Block) -> bytes:
    location = _capsule_location(block.bed)
    device = eui64(block.bed)
    last = block.end - 1 / block.rate
    rows = [
        f"MSH|^~\\&|CAPSULE|{_parts(block.bed)[0]}|||{_dtm(block.end)}||ORU^R01|CAP{block.sequence}|P|2.3",
        _pid(block.encounter) if block.encounter else "",
        f"PV1|1|I|{location}",
        f"OBR|1||AWS_Data_{block.sequence}^CAPSULE^{device}^EUI-64|69121^MDC_OBS_WAVE_CTS^MDC|||{_dtm(block.start)}"
        f"|{_dtm(last)}||{location}",
    ]
    for number, (lead, array) in enumerate(_whole(block, block.values * 1000), start=1):
        rows.append(f"OBX|{number}|NA|{_observation(lead)}|1.20.1.{number}|{array}|uV^uV^UCUM|||||R")
    return _message(*rows, end="\r\n")


def _wcm(block: _Block) -> bytes:
    start, end = _dtm(block.start), _dtm(block.end)
    patient = _pid(block.encounter) if block.encounter else ""
    rows = [
        f"MSH|^~\\&|SendingApplication|{_parts(block.bed)[0]}|||{end}||ORU^R01^ORU_R01|WCM{block.sequence}|P|2.6|||NE|AL"
        f"|USA|{'ASCII' if patient.isascii() else 'UNICODE UTF-8'}|EN^English^ISO639||IHE_PCD_ORU_R01"
        "^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO",
        patient,
        f"PV1||I|{_point_of_care(block.bed)}",
        f"OBR|2||{eui64(block.bed)}^^^EUI-64|0^WAVEFORM|||{start}|{end}",
    ]
    for index, (lead, samples) in enumerate(zip(block.leads, block.values, strict=True)):
        if np.isnan(samples).any():
            array = "^".join("" if np.isnan(v) else f"{v:.3f}" for v in samples)
        else:
            table = _decimals()
            array = "^".join([table[i] for i in np.clip(np.rint(samples * 1000), -32768, 32767).astype(int).tolist()])
        sub_id = f"1.1.1.{1001 + index}"
        low, high = (float(f(samples)) if not np.isnan(samples).all() else 0.0 for f in (np.nanmin, np.nanmax))
        rows += [
            f"OBX|{1001 + 3 * index}|NA|{CODE_OF_LEAD[lead]}^MDC_ECG_LEAD_{lead.value}^MDC|{sub_id}|{array}"
            f"|266418^MDC_DIM_MILLI_VOLT^MDC|||||F|||{start}",
            f"OBX|{1002 + 3 * index}|NM|0^MDC_ATTR_SAMP_RATE^MDC|{sub_id}.1|{block.rate:.1f}"
            "|264608^MDC_DIM_PER_SEC^MDC|||||F",
            f"OBX|{1003 + 3 * index}|NR|0^MDC_ATTR_DATA_RANGE^MDC|{sub_id}.2|{low:.3f}^{high:.3f}"
            "|266418^MDC_DIM_MILLI_VOLT^MDC|||||F",
        ]
    return _message(*rows)


_BUILDERS: Final[dict[str, Callable[[_Block], bytes]]] = {
    "ge": _ge,
    "philips": _philips,
    "mindray": _mindray,
    "mindray_w01": _mindray_w01,
    "capsule": _capsule,
    "wcm": _wcm,
}

_GE_FACETS: Final = "\n".join(
    [
        "OBX|5|NR|68323^MDC_ATTR_DATA_RANGE^MDC|1.5.0.1.2|-32751^32767||||||R",
        *(
            f"OBX|{5 + n}|NM|197376^MDC_EVT_DATA_INVALID^MDC|1.5.0.1.2.{n}|{v}||||||R"
            for n, v in enumerate(_GE_INVALID, 1)
        ),
        *(
            f"OBX|{16 + n}|NM|197378^MDC_EVT_DATA_MISSING^MDC|1.5.0.1.2.{11 + n}|{v}||||||R"
            for n, v in enumerate(_GE_MISSING, 1)
        ),
        f"OBX|23|NM|67945^MDC_ATTR_SA_MSMT_RES^MDC|1.5.0.1.3|{_GE_MICROVOLT}||||||R",
    ]
)


def _message(*rows: str, end: str = "\r", encoding: str = "utf-8") -> bytes:
    return (end.join(row for row in rows if row) + end).encode(encoding, "replace")


def _whole(block: _Block, counts: FloatArray) -> list[tuple[Lead, str]]:
    """Leads with their arrays, for dialects without a sentinel: a bad sample is empty, a lead that is off absent."""
    pairs: list[tuple[Lead, str]] = []
    for lead, row in zip(block.leads, counts, strict=True):
        bad = np.isnan(row)
        if bad.all():
            continue
        text = _integers(row[None], 0)[0]
        if bad.any():
            text = "^".join("" if b else t for b, t in zip(bad.tolist(), text.split("^"), strict=True))
        pairs.append((lead, text))
    return pairs


def _integers(counts: FloatArray, invalid: int) -> list[str]:
    """One ``a^b^c`` text per row; NaN becomes ``invalid``, everything else stays within 15 bits and a sign."""
    bad = np.isnan(counts)
    whole = np.clip(np.rint(np.where(bad, 0, counts)), -32000, 32000).astype(np.int32)
    whole[bad] = invalid
    return [str(row)[1:-1].replace(", ", "^") for row in whole.tolist()]


@cache
def _decimals() -> tuple[str, ...]:
    """``-0.537`` by microvolts; negative indices reach the negative numbers."""
    return tuple(f"{(n if n < 32768 else n - 65536) / 1000:.3f}" for n in range(65536))


def _rhythm(block: _Block, head: str, sub_id: str) -> list[str]:
    if block.paced is None:
        return []
    value = "MDC_ECG_PACED_RHY" if block.paced else "MDC_ECG_SINUS_RHY"
    return [f"{head}184327^MDC_ECG_STAT_RHY^MDC|{sub_id}|{value}||||||F"]


def _observation(lead: Lead, *, upper: bool = False) -> str:
    name = lead.value.upper() if upper else lead.value
    return f"{CODE_OF_LEAD[lead]}^MDC_ECG_ELEC_POTL_{name}^MDC"


def _pid(encounter: Encounter) -> str:
    identifiers = "~".join(from_component_form(identifier).decode() for identifier in encounter.patient_ids)
    family, given = (escape(name).decode() for name in (encounter.family_name, encounter.given_name))
    return f"PID|1||{identifiers}||{family}^{given}||{encounter.birth_date}|{encounter.sex}"


def _parts(bed: str) -> tuple[str, str, str]:
    site, unit, name = bed.split("/")
    return site, unit, name


def _point_of_care(bed: str) -> str:
    site, unit, name = _parts(bed)
    return f"{unit}^^{name}^{site}"


def _ge_location(bed: str) -> str:
    _, unit, name = _parts(bed)
    return f"{unit}-{name}"


def _capsule_location(bed: str) -> str:
    return bed.replace("/", "-")


def _dtm(seconds: float) -> str:
    return dtm(seconds).decode()
