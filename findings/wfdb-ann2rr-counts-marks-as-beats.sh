#!/usr/bin/env bash
# What: wfdb 4.3.1 `processing.ann2rr` counts rhythm marks, noise marks and artefact marks as beats.
# Bedside: a rhythm annotation "(AFIB" or a change of signal quality cuts an RR interval in two: the rate doubles
#   around just those moments that a rhythm detector is judged by.
# One would guess: "RR intervals" are between beats, as the program ann2rr of the original WFDB package gives them.
# What happens: the interval between any two annotations, whatever they are.
# Source: WFDB Applications Guide, ann2rr(1): beats only, unless -A is given; PhysioBank
#   annotation codes: + rhythm change, ~ signal quality change, | isolated QRS-like artefact.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q wfdb==4.3.1 numpy==2.4.6
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import wfdb
from wfdb.processing import ann2rr

print("wfdb", wfdb.__version__)
wfdb.wrann("bed", "atr", np.array([0, 100, 200, 300, 400, 500]), symbol=list("+N~N|N"), fs=100,
           aux_note=["(N", "", "", "", "", ""])
seen = ann2rr("bed", "atr", as_array=True).tolist()
print("beats at 1, 3 and 5 s; guess: RR of 200 samples twice, 30/min")
print("seen:", seen, "-> 60/min")
assert seen[-4:] == [100, 100, 100, 100] and 200 not in seen
PY
