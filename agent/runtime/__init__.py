"""The running agent: what is built, joined, watched and exchanged."""
