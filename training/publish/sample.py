"""Which windows of a dataset engines are held against: a few of everything, and whole recordings for the alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.core.bundle.manifest import Label
from agent.core.ecg import Lead
from agent.core.labels import LABEL_NAMES
from agent.core.leads import FROM_I_AND_II, LEAD_INDEX
from training.data import WindowTable
from training.models.kinds import TASKS
from training.train.tasks import truth_of

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Windows by their place in the table, each once."""

    index: Index
    """(n,) ascending."""
    recordings: tuple[Index, ...]
    """Of each whole recording its windows in order of time, by their place in ``index``."""


def choose(
    table: WindowTable,
    required: Sequence[Lead],
    alerting: Sequence[str],
    *,
    windows: int,
    hours: float,
    seed: int = 0,
) -> Choice:
    """A sample of so many windows, and whole recordings of so many hours in all.

    The sample takes its windows in turn from each source's windows with each label, and from those with none, so that a
    rare finding is there as often as a common one. The recordings are continuous ones, drawn in turn from those with
    and without an episode of the labels that alert; a long one is likelier. Only windows that the agent would offer
    are taken: those with the required leads, measured or computed.
    """
    rng = np.random.default_rng(seed)
    offered = np.flatnonzero(_has(table, required))
    whole = _recordings(table, offered, alerting, hours, rng) if alerting else []
    parts = [_sample(table, offered, windows, rng), *whole]
    index = np.unique(np.concatenate(parts))
    return Choice(index, tuple(np.searchsorted(index, one) for one in whole))


def truth(table: WindowTable, index: Index, labels: Sequence[Label]) -> NDArray[np.int8]:
    """(n, n_labels): 1, 0 or -1 = unknown, in the order of ``labels``."""
    out = np.full((len(index), len(labels)), -1, np.int8)
    tasks = {names[0]: task for task, names in TASKS.items() if len(names) == 1}
    for i, label in enumerate(labels):
        if label.name in LABEL_NAMES:
            out[:, i] = table.labels[index, LABEL_NAMES.index(label.name)]
        elif label.quantity is None:
            task = tasks.get(label.name, label.name)
            if {task, "lvef" if task.startswith("lvef") else task} & table.targets.keys():
                out[:, i] = truth_of(table, task)[index, 0]
    return out


def _has(table: WindowTable, required: Sequence[Lead]) -> NDArray[np.bool_]:
    there = table.lead_mask.copy()
    both = there[:, LEAD_INDEX[Lead.I]] & there[:, LEAD_INDEX[Lead.II]]
    for lead in FROM_I_AND_II:
        there[:, LEAD_INDEX[lead]] |= both
    return np.asarray(there[:, [LEAD_INDEX[lead] for lead in required]].all(axis=1))


def _sample(table: WindowTable, offered: Index, windows: int, rng: np.random.Generator) -> Index:
    shuffled = rng.permutation(offered)
    groups: list[list[int]] = []
    for source in range(len(table.sources)):
        own = shuffled[table.source[shuffled] == source]
        there = table.labels[own] == 1
        groups += [own[there[:, i]].tolist() for i in np.flatnonzero(there.any(axis=0))]
        groups.append(own[~there.any(axis=1)].tolist())
    taken: dict[int, None] = {}
    while len(taken) < windows and any(groups):
        for group in groups:
            while group:
                window = group.pop()
                if window not in taken:
                    taken[window] = None
                    break
    return np.array(list(taken)[:windows], np.int64)


def _recordings(
    table: WindowTable, offered: Index, alerting: Sequence[str], hours: float, rng: np.random.Generator
) -> list[Index]:
    places = [LABEL_NAMES.index(name) for name in alerting if name in LABEL_NAMES]
    free = offered[table.continuous[offered]]
    order = np.lexsort((table.start[free], table.recording[free]))
    free = free[order]
    each = np.split(free, np.flatnonzero(np.diff(table.recording[free])) + 1) if len(free) else []
    # The smallest of exponential times whose rates are the lengths: a draw by length without putting back.
    waited = rng.exponential(size=len(each)) / np.array([len(one) for one in each])
    drawn = [each[i] for i in np.argsort(waited)]
    positive = [one for one in drawn if (table.labels[one][:, places] == 1).any()]
    negative = [one for one in drawn if not (table.labels[one][:, places] == 1).any()]
    chosen: list[Index] = []
    left = hours * 3600 / table.step
    while positive or negative:
        for kind in (positive, negative):
            if kind and (len(kind[0]) <= left or not chosen) and left > 0:
                chosen.append(kind[0])
                left -= len(kind[0])
            del kind[:1]
    return chosen
