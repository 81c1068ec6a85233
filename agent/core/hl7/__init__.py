"""HL7 version 2: messages and MLLP frames, waveforms, patients, alarms, acknowledgements, alerts."""
