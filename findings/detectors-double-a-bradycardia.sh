#!/usr/bin/env bash
# What: sleepecg 0.6.0 and the WQRS of py-ecg-detectors 1.3.5 count T waves as beats below about 36/min, and only there.
# Bedside: an extreme bradycardia of 30/min is shown as 60/min and raises no alarm; at 40/min the count is right.
# One would guess: slow and clean is the easy case; a T wave of a quarter of the R wave is no QRS.
# What happens: exactly one extra beat for each true one, so the rate doubles and stays regular. Most likely the search
#   for a missed beat in a long RR lowers the threshold down to the T wave. GQRS and XQRS in the same run are right.
# Source: measured; search-back: Pan and Tompkins, IEEE Trans Biomed Eng 1985.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q sleepecg==0.6.0 py-ecg-detectors==1.3.5 wfdb==4.3.1 numpy==2.4.6 scipy==1.17.1
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import sleepecg
from ecgdetectors import Detectors
from wfdb.processing import gqrs_detect, xqrs_detect

FS = 250


def ecg(beats, seconds, shape=((-0.1, -0.03, 0.01), (1, 0, 0.012), (-0.2, 0.03, 0.01)), period=0.8):
    """Clean own-made ECG in mV: Gaussian QRS, and a T wave that comes earlier where beats are close."""
    t, x, close = np.arange(int(seconds * FS)) / FS, np.zeros(int(seconds * FS)), min(period, 1.0) ** 0.5
    for beat in beats:
        for height, delay, width in (*shape, (0.25, 0.30 * close, 0.05 * close)):
            x += height * np.exp(-0.5 * ((t - beat - delay) / width) ** 2)
        if period > 0.5:
            x += 0.12 * np.exp(-0.5 * ((t - beat + 0.16) / 0.022) ** 2)
    return x


detectors = {
    "sleepecg": lambda x: sleepecg.detect_heartbeats(x, FS),
    "py-ecg-detectors WQRS": Detectors(FS).wqrs_detector,
    "wfdb GQRS": lambda x: gqrs_detect(sig=x, fs=FS),
    "wfdb XQRS": lambda x: xqrs_detect(x, FS, verbose=False),
}
print("sleepecg 0.6.0, py-ecg-detectors 1.3.5, wfdb 4.3.1: beats found / true beats in one minute")
print("guess: 1.00 everywhere")
for name, detect in detectors.items():
    ratio = {}
    for rate in (30, 40, 75):
        true = np.arange(1, 59.5, 60 / rate)
        ratio[rate] = len(detect(ecg(true, 60, period=60 / rate))) / len(true)
    print(name.ljust(24), *(f"{rate}/min: {value:.2f}" for rate, value in ratio.items()))
    assert abs(ratio[40] - 1) < 0.07 and abs(ratio[75] - 1) < 0.07, name
    assert ratio[30] > 1.9 if name in ("sleepecg", "py-ecg-detectors WQRS") else ratio[30] == 1, name
PY
