#!/usr/bin/env bash
# What: wfdb 4.3.1, a signal with several samples per frame and a skew ends in a flat line that nobody measured.
# Bedside: multi-rate monitor records (ECG four times as fast as respiration) with a skew in the header: the last
#   beats are replaced by a constant, here 2.4995 mV, that looks like a lead-off plateau or an asystole.
# One would guess: samples that the shift pulls from beyond the file are NaN ("missing"), all of them.
# What happens: the signal is shifted by skew * samples-per-frame, but only `skew` samples become NaN; the rest are the
#   digital value 0 in physical units, which with an offset baseline is not even 0 mV. The averaged form is hit too.
# Source: WFDB header(5), field "skew"; wfdb-python, io/_signal.py, "Insert nans where skewed signal overran".
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q wfdb==4.3.1 numpy==2.4.6
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import wfdb

print("wfdb", wfdb.__version__)
ecg, resp = np.arange(5000) / 1000, np.arange(1250) / 1000
wfdb.wrsamp("plain", fs=125, units=["mV", "pm"], sig_name=["II", "RESP"], e_p_signal=[ecg, resp],
            samps_per_frame=[4, 1], fmt=["16", "16"])
header = open("plain.hea").read()
open("skewed.hea", "w").write(header.replace("plain 2", "skewed 2").replace("16x4", "16x4:10"))
raw = wfdb.rdrecord("skewed", smooth_frames=False).e_p_signal[0]
assert abs(raw[0] - ecg[40]) < 1e-3, "the shift is 10 frames of 4 samples"
nan = int(np.isnan(raw).sum())
invented = raw[4960:4990]
averaged = wfdb.rdrecord("skewed").p_signal[:, 0]
print("guess: 40 NaN at the end of the ECG, nothing else")
print(f"seen: {nan} NaN, and {len(invented)} samples of {invented[0]:.4f} mV after the true last one, {raw[4959]:.4f}")
print("averaged to frames:", averaged[-12:].round(3).tolist())
assert nan == 10 and np.isnan(raw[4990:]).all()
assert len(set(invented)) == 1 and abs(invented[0] - 2.4995) < 1e-3
assert np.isnan(averaged).sum() == 2
PY
