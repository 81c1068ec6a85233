#!/usr/bin/env bash
# What: wfdb 4.3.1, `rdann(..., sampfrom=N)` without `sampto` gives every annotation from the start of the record.
# Bedside: a take-over that reads "the beats since N" gets the whole shift again; with shift_samps the old
#   beats even come at negative sample numbers, and an index of -3 is a valid index from the end.
# One would guess: as in rdrecord, sampfrom alone is enough.
# What happens: the range is applied only where sampto is given too; shift_samps subtracts all the same.
# Source: the docstring of wfdb.rdann calls sampfrom the least sample number that is returned, without a condition.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q wfdb==4.3.1 numpy==2.4.6
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import wfdb
import numpy as np

print("wfdb", wfdb.__version__)
wfdb.wrann("bed", "atr", np.array([100, 200, 300, 400]), symbol=["N", "V", "N", "N"], fs=250)
alone = wfdb.rdann("bed", "atr", sampfrom=250).sample.tolist()
both = wfdb.rdann("bed", "atr", sampfrom=250, sampto=400).sample.tolist()
shifted = wfdb.rdann("bed", "atr", sampfrom=250, shift_samps=True).sample.tolist()
print("guess: sampfrom=250 gives [300, 400], shifted [50, 150]")
print("sampfrom=250:            ", alone)
print("sampfrom=250, sampto=400:", both)
print("sampfrom=250, shifted:   ", shifted)
assert both == [300, 400]
assert alone == [100, 200, 300, 400]
assert shifted == [-150, -50, 50, 150]
PY
