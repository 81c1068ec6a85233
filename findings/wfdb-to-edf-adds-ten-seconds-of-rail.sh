#!/usr/bin/env bash
# What: wfdb 4.3.1 `wfdb_to_edf`: a strip of exactly 10 s becomes an EDF file of 20 s, whose second half is a rail.
# Bedside: the exported strip shows ten seconds of ECG, then ten seconds at the lowest value of the range: -163.84 mV
#   here. A reader that has no notion of padding sees a lead fallen off, or scales the true beats to nothing.
# One would guess: 2500 samples at 250/s go into one data record of 10 s, or ten of 1 s.
# What happens: the data block is 10 s (2500 frames), yet two blocks are written; the second holds only the lowest value.
# Source: EDF specification (duration = number of data records x duration of one); function read by another library here.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q wfdb==4.3.1 numpy==2.4.6 pyedflib==0.1.42
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import contextlib
import io

import numpy as np
import pyedflib
import wfdb
from wfdb.io.convert.edf import wfdb_to_edf

print("wfdb", wfdb.__version__, "read back with pyedflib", pyedflib.__version__)
ecg = np.sin(np.arange(2500) / 40) * 1.7
wfdb.wrsamp("strip", fs=250, units=["mV"], sig_name=["II"], d_signal=np.round(ecg * 200).astype(int)[:, None],
            fmt=["16"], adc_gain=[200.0], baseline=[0])
with contextlib.redirect_stdout(io.StringIO()):
    wfdb_to_edf("strip", output_filename="strip.edf")
with pyedflib.EdfReader("strip.edf") as file:
    signal, seconds = file.readSignal(0), file.file_duration
print("guess: 2500 samples, 10 s, between -1.7 and 1.7 mV")
print(f"seen: {len(signal)} samples, {seconds} s, lowest value {signal.min():.2f} mV")
assert len(signal) == 5000 and seconds == 20
assert abs(signal[:2500] - ecg).max() < 0.006
assert set(signal[2500:].round(2).tolist()) == {-163.84}
PY
