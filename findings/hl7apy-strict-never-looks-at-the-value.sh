#!/usr/bin/env bash
# What: hl7apy 1.3.5 in STRICT validation checks every field of an OBX but the value: OBX-5 is never held against OBX-2.
# Bedside: "validated strictly" says nothing about the one field that matters: a heart rate "abc" declared numeric, a
#   waveform with a letter among its numbers, an unknown value type or none beside a value are all valid.
# One would guess: in STRICT, OBX-5 has the data type that OBX-2 names; a wrong date in OBX-14 is refused, after all.
# What happens: OBX-5 is of type "varies" for good, and anything is valid there.
# Source: HL7 v2.6 chapter 7.4.2.2 (OBX-2 tells the format of OBX-5) and 7.4.2.5.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q hl7apy==1.3.5
cd "$dir"
venv/bin/python -W ignore - <<'PY'
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

MSH = "MSH|^~\\&|MON|ICU|EDGE|ICU|20260101120000+0000||ORU^R01^ORU_R01|1|P|2.6\r"
BODY = "PID|||9^^^H^MR||Doe^Jane\rOBR|1|A|B|1^x^L\rOBX|1|{}|{}|1.1.1.1|{}||||||F{}\r"
RATE, LEAD = "147842^MDC_ECG_HEART_RATE^MDC", "131330^MDC_ECG_LEAD_II^MDC"


def strict(kind, code, value, rest=""):
    try:
        parsed = parse_message(MSH + BODY.format(kind, code, value, rest), validation_level=VALIDATION_LEVEL.STRICT)
        return parsed.validate()
    except ValueError as error:
        return str(error)


print("hl7apy 1.3.5, VALIDATION_LEVEL.STRICT; guess: only the first is valid")
rows = {
    "NM 60": strict("NM", RATE, "60"),
    "NM abc": strict("NM", RATE, "abc"),
    "NA 1^x^3": strict("NA", LEAD, "1^x^3"),
    "type ZZ": strict("ZZ", RATE, "60"),
    "no type": strict("", RATE, "60"),
    "OBX-14 20261399": strict("NM", RATE, "60", "|||20261399"),
}
for name, answer in rows.items():
    print(name.ljust(16), answer)
assert all(rows[name] is True for name in ("NM 60", "NM abc", "NA 1^x^3", "type ZZ", "no type"))
assert "not an HL7 valid date" in rows["OBX-14 20261399"]
PY
