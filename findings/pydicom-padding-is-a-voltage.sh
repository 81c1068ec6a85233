#!/usr/bin/env bash
# What: pydicom 3.0.2 `waveform_array` scales padding to a voltage and takes no notice of a channel's sample skew.
# Bedside: where a lead fell off, the recorder writes the padding value (here -32768); the array shows -40.96 mV, a giant
#   artefact that filters and detectors smear over their neighbours. Leads with skew stay out of step: false axis, false ST.
# One would guess: the function that applies sensitivity, correction factor and baseline also applies the other
#   two attributes that say what a sample is.
# What happens: padding is multiplied like any sample; Channel Sample Skew and Channel Time Skew are not read.
# Source: DICOM PS3.3 C.10.9, Waveform Padding Value (5400,100A) and Channel Sample Skew (003A,0215).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pydicom==3.0.2 numpy==2.4.6
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import pydicom
from pydicom.dataset import Dataset


def code(value, scheme):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, value
    return item


def channel(skew):
    item = Dataset()
    item.ChannelSourceSequence = [code("2:2", "MDC")]
    item.ChannelSensitivity, item.ChannelSensitivityUnitsSequence = "1.25", [code("uV", "UCUM")]
    item.ChannelSensitivityCorrectionFactor, item.ChannelBaseline, item.WaveformBitsStored = "1", "0", 16
    item.ChannelSampleSkew = skew
    return item


samples = np.array([[0, 0], [800, 800], [0, 0], [-32768, -32768]], "<i2")  # R wave at 1; then nothing recorded
group = Dataset()
group.NumberOfWaveformChannels, group.NumberOfWaveformSamples, group.SamplingFrequency = 2, 4, "500"
group.ChannelDefinitionSequence = [channel("0"), channel("1")]
group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
group.WaveformPaddingValue, group.WaveformData = samples[3, :1].tobytes(), samples.tobytes()
ecg = Dataset()
ecg.WaveformSequence = [group]
seen = ecg.waveform_array(0)
print("pydicom", pydicom.__version__)
print("guess: the last row is NaN (padding), and the second channel is moved by one sample (skew 1)")
print("seen, in uV:", seen.tolist())
assert seen[3].tolist() == [-40960.0, -40960.0]
assert (seen[:, 0] == seen[:, 1]).all()
PY
