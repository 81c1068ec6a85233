"""Metrics, logs, TLS and the service manager."""
