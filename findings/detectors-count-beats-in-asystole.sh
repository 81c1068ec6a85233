#!/usr/bin/env bash
# What: an asystole gets a heart rate. A monitor switched on in asystole (10 uV of noise, no beat): all QRS detectors
#   tried report 100 to 250 "beats" a minute, but for GQRS of wfdb 4.3.1, which reports none. The others: XQRS of wfdb,
#   sleepecg 0.6.0, neurokit2 0.3.0, py-ecg-detectors 1.3.5, biosppy 2.2.4 (whose metadata omits PeakUtils).
# Bedside: the one rhythm that may not be missed is displayed as a tachycardia.
# One would guess: ten microvolts are nothing; a heart rate meter leaves out what is below 0.15 mV.
# What happens: thresholds adapt to whatever is there, with no floor in millivolts.
# Source: measured; AAMI EC13 and IEC 60601-2-27, range of QRS amplitude that is (and is not) to be counted.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q sleepecg==0.6.0 wfdb==4.3.1 neurokit2==0.3.0 py-ecg-detectors==1.3.5 numpy==2.4.6 scipy==1.17.1 biosppy==2.2.4 PeakUtils==1.3.5
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import biosppy.signals.ecg as biosppy
import neurokit2
import numpy as np
import sleepecg
from ecgdetectors import Detectors
from wfdb.processing import gqrs_detect, xqrs_detect

FS = 250


def neurokit(x, method="pantompkins1985"):
    return neurokit2.ecg_peaks(neurokit2.ecg_clean(x, sampling_rate=FS, method=method), sampling_rate=FS, method=method)[1][
        "ECG_R_Peaks"
    ]


detectors = {
    "wfdb GQRS": lambda x: gqrs_detect(sig=x, fs=FS),
    "wfdb XQRS": lambda x: xqrs_detect(x, FS, verbose=False),
    "sleepecg": lambda x: sleepecg.detect_heartbeats(x, FS),
    "neurokit2 pantompkins1985": neurokit,
    "py-ecg-detectors Christov": Detectors(FS).christov_detector,
    "py-ecg-detectors two averages": Detectors(FS).two_average_detector,
    "biosppy Hamilton": lambda x: biosppy.hamilton_segmenter(signal=x, sampling_rate=float(FS))[0],
    "biosppy Engzee": lambda x: biosppy.engzee_segmenter(signal=x, sampling_rate=float(FS))[0],
}
asystole = 0.01 * np.random.default_rng(1).standard_normal(60 * FS)
print("beats in a minute of 10 uV noise; guess: 0")
for name, detect in detectors.items():
    found = len(detect(asystole.copy()))
    print(name.ljust(30), found)
    assert found == 0 if name == "wfdb GQRS" else found > 60, name
PY
