"""``deepecg-agent bench``: what this machine does with the line's own code. Each section returns numbers, judges none.

Processor time is the measure for the feeds (a busy machine makes the wall clock longer, not the work), both for the
network. Every number is a median over rounds. Inputs come from the generator; the network is the shipped bundle's, but
in ``speed``, which makes both networks in their published sizes.
"""
