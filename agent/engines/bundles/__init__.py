"""Bundles on disk: read, verified, installed, signed."""
