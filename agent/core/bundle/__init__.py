"""The bundle's contract: its manifest, limits, derived engines, parity."""
