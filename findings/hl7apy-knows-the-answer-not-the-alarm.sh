#!/usr/bin/env bash
# What: hl7apy 1.3.5 knows the acknowledgement of an alarm, ORA^R41 (from v2.8), but in no version the alarm, ORU^R40.
# Bedside: IHE PCD-04 reports every alert as ORU^R40^ORU_R40 with MSH-12 = 2.6: the message cannot be built or checked
#   strictly with the usual library, and its answer (PCD-05) only under another version number.
# One would guess: the structure is that of ORU^R01, which it has in all versions; R40 would be listed beside it.
# What happens: STRICT refuses it as unknown; TOLERANT gives a flat list of segments, without the groups of ORU^R01.
# Source: IHE Patient Care Device Technical Framework, transactions PCD-04 and PCD-05 (Alert Communication Management).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q hl7apy==1.3.5
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import importlib

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import OperationNotAllowed
from hl7apy.parser import parse_message

print("hl7apy 1.3.5; guess: both halves of the alarm transaction, or neither")
known = {}
for version in ("2_5", "2_5_1", "2_6", "2_7", "2_8", "2_8_1", "2_8_2"):
    names = importlib.import_module(f"hl7apy.v{version}").messages.MESSAGES
    known[version] = {name: name in names for name in ("ORU_R01", "ORU_R40", "ORA_R41")}
    print(version.replace("_", "."), known[version])
assert not any(row["ORU_R40"] for row in known.values())
assert all(row["ORU_R01"] for row in known.values())
assert [v for v, row in known.items() if row["ORA_R41"]] == ["2_8", "2_8_1", "2_8_2"]
alarm = (
    "MSH|^~\\&|MON|ICU|EDGE|ICU|20260101120000+0000||{}|1|P|2.6\rPID|||9^^^H^MR||Doe^Jane\r"
    "OBR|1|A|B|196616^MDC_EVT_ALARM^MDC\rOBX|1|ST|196670^MDC_EVT_LO^MDC|1.1.1.1.1|low||||||F\r"
)
assert parse_message(alarm.format("ORU^R01^ORU_R01"), validation_level=VALIDATION_LEVEL.STRICT).validate()
try:
    parse_message(alarm.format("ORU^R40^ORU_R40"), validation_level=VALIDATION_LEVEL.STRICT)
    raise SystemExit("ORU^R40 is known now")
except OperationNotAllowed as error:
    print("the same message as ORU^R40, strictly:", error)
loose = parse_message(alarm.format("ORU^R40^ORU_R40"), validation_level=VALIDATION_LEVEL.TOLERANT)
print("tolerantly, its groups are gone:", [child.name for child in loose.children])
assert [child.name for child in loose.children] == ["MSH", "PID", "OBR", "OBX"]
PY
