"""The fields' numbers, against another implementation's names of them."""

from __future__ import annotations

import pytest
from hl7apy.core import Segment
from hl7apy.parser import parse_segment

from agent.core.hl7.message import STANDARD, write
from agent.core.hl7.segments import ERR, MSA, MSH, OBR, OBX, PID, PV1, FieldNumbers

# hl7apy 1.3.5, version 2.6: the long name of each field that we use
NAMES: dict[type[FieldNumbers], list[str]] = {
    MSH: [
        "sending_application", "sending_facility", "receiving_application", "receiving_facility",
        "date_time_of_message", "message_type", "message_control_id", "processing_id", "version_id",
        "accept_acknowledgment_type", "application_acknowledgment_type", "character_set", "message_profile_identifier",
    ],
    MSA: ["acknowledgment_code", "message_control_id", "text_message"],
    ERR: [
        "error_code_and_location", "error_location", "hl7_error_code", "severity", "diagnostic_information",
        "user_message",
    ],
    PID: ["set_id_pid", "patient_identifier_list", "patient_name", "date_time_of_birth", "administrative_sex"],
    PV1: ["set_id_pv1", "patient_class", "assigned_patient_location", "prior_patient_location", "visit_number"],
    OBR: [
        "set_id_obr", "placer_order_number", "filler_order_number", "universal_service_identifier",
        "observation_date_time", "observation_end_date_time", "collector_identifier", "parent",
    ],
    OBX: [
        "set_id_obx", "value_type", "observation_identifier", "observation_sub_id", "observation_value", "units",
        "references_range", "abnormal_flags", "observation_result_status", "date_time_of_the_observation",
        "equipment_instance_identifier",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
def test_every_field_has_the_standards_number(kind: type[FieldNumbers]) -> None:
    known = Segment(kind.__name__, version="2.6").structure_by_longname
    numbers = {name: int(entry["name"].rpartition("_")[2]) for name, entry in known.items()}
    assert [numbers[name.upper()] for name in NAMES[kind]] == [*kind.by_name().values()]


@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind is not MSH], ids=lambda kind: kind.__name__)
def test_what_is_written_by_name_is_read_by_number(kind: type[FieldNumbers]) -> None:
    numbers = kind.by_name().values()
    row = write([(kind, {number: str(number).encode() for number in numbers})], STANDARD).decode().rstrip("\r")
    read = parse_segment(row, version="2.6")
    for number in numbers:
        assert getattr(read, f"{kind.__name__.lower()}_{number}")[0].to_er7() == str(number)
