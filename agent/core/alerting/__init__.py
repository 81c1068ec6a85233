"""Alerts: from predictions, gaps and encounters to what staff are told."""
