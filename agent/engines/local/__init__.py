"""Engines that this machine compiles for itself."""
