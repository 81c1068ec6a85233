"""One file for each runtime that can compute a network."""
