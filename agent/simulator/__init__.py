"""Synthetic ECG and simulated monitors, by maker."""
