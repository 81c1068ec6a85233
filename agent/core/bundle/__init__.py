"""The bundle's contract: its manifest, limits, derived engines, parity and the judge of an engine on trial."""
