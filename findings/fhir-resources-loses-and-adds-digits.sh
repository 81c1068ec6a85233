#!/usr/bin/env bash
# What: fhir.resources 8.3.0 reads and writes a FHIR decimal 0.10 as 0.1, and the time .5 s as .500000 s.
# Bedside: an ST level of 0.10 mV (measured to 0.01) leaves as 0.1 mV: the receiver rounds or compares by the precision,
#   and a signature or hash over the resource no longer fits. The time claims microseconds that no monitor has.
# One would guess: the value is a Decimal in the model, so its digits are kept.
# What happens: what is written has the digits of the number, not those that were sent.
# Source: FHIR R5 datatypes, decimal: its precision has a meaning, and 0.10 is not the same as 0.1.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q fhir.resources==8.3.0 fhir-core==1.1.12 pydantic==2.14.4
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import json

from fhir.resources.observation import Observation

sent = (
    '{"resourceType":"Observation","status":"final","code":{"text":"ST level, lead II"},'
    '"effectiveDateTime":"2026-01-01T12:00:00.5Z","valueQuantity":{"value":0.10,"unit":"mV"}}'
)
read = Observation.model_validate_json(sent)
back = read.model_dump_json()
value = back.split('"value":')[1].split(",")[0]
time = json.loads(back)["effectiveDateTime"]
print("fhir.resources 8.3.0; guess: 0.10 and 12:00:00.5 come back as they were")
print("value", value, " time", time, " in Python", repr(read.valueQuantity.value))
assert value == "0.1" and time == "2026-01-01T12:00:00.500000Z"
PY
