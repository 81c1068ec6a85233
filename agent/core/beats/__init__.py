"""Beats and heart rate."""
