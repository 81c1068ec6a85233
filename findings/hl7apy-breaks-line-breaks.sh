#!/usr/bin/env bash
# What: hl7apy 1.3.5: parse and write back, and the escapes for a line break, \X0D\ and \.br\, are escaped once more.
# Bedside: a relay that passes an alert on shows the nurse "VT\X0D\call the doctor" in one line: \E\ stands for a
#   backslash, so the next reader sees text in place of the break.
# One would guess: a message that was only parsed and written is unchanged, since \T\, \F\, \H\ and \N\ do survive.
# What happens: only escapes of one letter are recognised; every other backslash is taken for a bare one. The changed
#   message is valid, so nothing complains.
# Source: HL7 v2.6 chapter 2.7 (use of escape sequences: \Xdd..\ hexadecimal data, \.br\ in formatted text).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q hl7apy==1.3.5
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import hl7apy.parser
from hl7apy.consts import VALIDATION_LEVEL

MSH = "MSH|^~\\&|MON|ICU|EDGE|ICU|20260101120000+0000||ORU^R01^ORU_R01|1|P|2.6\r"
BODY = "PID|||9^^^H^MR||Doe^Jane\rOBR|1|A|B|1^x^L\rOBX|1|{}|1^note^L|1|{}||||||F\r"
print("hl7apy 1.3.5; guess: to_er7() of a parsed message gives the same text")
seen = {}
for kind, text in (
    ("TX", r"VT\X0D\call the doctor"),
    ("FT", r"VT\.br\call the doctor"),
    ("TX", r"ward\T\bed\F\7 \H\now\N\ "),
):
    message = MSH + BODY.format(kind, text)
    parsed = hl7apy.parser.parse_message(message, validation_level=VALIDATION_LEVEL.STRICT)
    assert parsed.validate()
    once = parsed.to_er7()
    seen[text] = once.split("|1|")[-1].split("|")[0]
    print(kind, text, "->", seen[text])
assert seen[r"VT\X0D\call the doctor"] == r"VT\E\X0D\E\call the doctor"
assert seen[r"VT\.br\call the doctor"] == r"VT\E\.br\E\call the doctor"
assert seen[r"ward\T\bed\F\7 \H\now\N\ "] == r"ward\T\bed\F\7 \H\now\N\ "
PY
