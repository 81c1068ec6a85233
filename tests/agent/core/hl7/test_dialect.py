"""Which dialect a message is in."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent.core.hl7.dialect import Dialect, Match, select, traits_of
from agent.core.hl7.message import parse

FACETS = {"rate": ("68320",)}


def dialect(name: str, rank: int, **match: tuple[str, ...]) -> Dialect:
    return Dialect(name=name, description="", rank=rank, match=Match(**match), facets=FACETS)


TRAITS = traits_of(
    parse(
        b"MSH|^~\\&|XH80X^00A0^EUI-64||||||ORU^W01^ORU_W01|42|P|2.4|||||||||PROFILE^x\r"
        b"OBR|1||42^CAPSULE^00A0^EUI-64|69121^MDC_OBS_WAVE_CTS^MDC\r"
        b"OBX|1|NA|131330^MDC_ECG_ELEC_POTL_II^MDC|1.1|1^2|10.mV/4096^x^UCUM\r"
        b"OBX|2|NM|68320^MDC_ATTR_SAMPLE_RATE^MDC|1.1.1|240\r"
        b"OBX|3\rOBX\r"
    )
)


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"sending_application": ("XH8.*",)}, True),
        ({"sending_application": ("XH8",)}, False),
        ({"message_type": ("ORU^W01",)}, True),
        ({"message_type": ("ORU^R01",)}, False),
        ({"profile": ("PROF.*",)}, True),
        ({"service": ("69121",)}, True),
        ({"service": ("MDC_OBS_WAVE_CTS",)}, True),
        ({"service": ("CONTINUOUS WAVEFORM",)}, False),
        ({"order_namespace": ("CAPS.*",)}, True),
        ({"observation": ("nothing", "MDC_ATTR_SAMPLE_RATE")}, True),
        ({"observation": ("67945",)}, False),
        ({"unit": (r"\d+\.mV/\d+",)}, True),
        ({"unit": ("uV",)}, False),
        ({"service": ("69121",), "unit": ("uV",)}, False),
    ],
)
def test_every_trait_that_is_named_must_fit(match: dict[str, tuple[str, ...]], fits: bool) -> None:
    found = select(TRAITS, [dialect("one", 1, **match)])
    assert (found is not None) == fits


def test_the_higher_rank_wins() -> None:
    low, high = dialect("low", 1), dialect("high", 2, service=("69121",))
    for order in ([low, high], [high, low]):
        assert select(TRAITS, order) is high
    assert select(TRAITS, []) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Has Space"},
        {"rank": "high"},
        {"facets": {"nonsense": ["1"]}},
        {"dimensionless_mv": 0},
        {"match": {"colour": ["red"]}},
        {"match": {"unit": ["("]}},
        {"bed_fields": ["PV2-3"]},
    ],
)
def test_a_data_file_with_a_mistake_is_refused(wrong: dict[str, object]) -> None:
    good = {"name": "x", "description": "", "rank": 1, "match": {}, "facets": {}}
    Dialect.model_validate(good)
    with pytest.raises(ValidationError):
        Dialect.model_validate(good | wrong)
