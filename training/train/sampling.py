"""Which windows a step sees: random access to any step, so that a resumed run goes on as one never stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.data import WindowTable
from training.train.tasks import Truth, is_known

Index = NDArray[np.int64]


class Sampler(Protocol):
    """Windows of each step."""

    def __call__(self, step: int) -> Index:
        """(batch,) windows of the table."""
        ...


class Shuffled:
    """Every window once an epoch, each epoch in an order of its own; a batch may end one epoch and begin the next."""

    def __init__(self, index: Index, batch: int, seed: int) -> None:
        if not len(index):
            raise ValueError("no window to train on; see what deepecg-train describe says of the dataset")
        self.index, self.batch, self.seed = index, batch, seed
        self._orders: dict[int, Index] = {}

    def _order(self, epoch: int) -> Index:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.index)
        return self._orders[epoch]

    def __call__(self, step: int) -> Index:  # noqa: D102
        position = np.arange(step * self.batch, (step + 1) * self.batch)
        epoch, place = np.divmod(position, len(self.index))
        out = np.empty(self.batch, np.int64)
        for e in np.unique(epoch):
            out[epoch == e] = self._order(int(e))[place[epoch == e]]
        return out


def sampling_weights(truth: Truth, patients: NDArray[np.str_], emphasis: Mapping[int, float]) -> NDArray[np.float64]:
    """(n,) weights, which add up to 1, of windows with truth (n, L).

    A label of k patients weighs √k, which its patients share evenly, and each patient's windows.

    A window weighs what its rarest label says; one without any label that is there counts as a label of its own.
    ``emphasis`` multiplies the weight of an output.
    """
    _, who = np.unique(patients, return_inverse=True)
    weights = np.zeros(len(truth))
    columns = [truth[:, i] == 1 for i in range(truth.shape[1])]
    columns.append(~np.any(truth == 1, axis=1))
    for i, there in enumerate(columns):
        if not there.any():
            continue
        windows = np.bincount(who[there], minlength=who.max() + 1)
        share = emphasis.get(i, 1.0) / math.sqrt(np.count_nonzero(windows))
        weights[there] = np.maximum(weights[there], share / windows[who[there]])
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


class Balanced:
    """Windows by `sampling_weights`; a fixed share of each batch is of twelve-lead recordings, the rest continuous."""

    def __init__(
        self,
        table: WindowTable,
        truth: Truth,
        index: Index,
        batch: int,
        seed: int,
        *,
        twelve_lead_share: float = 0.5,
        emphasis: Mapping[int, float] | None = None,
    ) -> None:
        known = index[np.any(is_known(truth[index]), axis=1)]
        first = round(batch * twelve_lead_share)
        groups = ((known[~table.continuous[known]], first), (known[table.continuous[known]], batch - first))
        there = [(group, n) for group, n in groups if len(group) and n]
        if not there:
            raise ValueError("no labelled window to train on; see what deepecg-train describe says of the dataset")
        if len(there) == 1:  # the one kind that there is takes the whole batch
            there = [(there[0][0], batch)]
        self.groups = [
            (group, n, sampling_weights(truth[group], table.patient[group], emphasis or {})) for group, n in there
        ]
        self.seed = seed

    def __call__(self, step: int) -> Index:  # noqa: D102
        rng = np.random.default_rng([self.seed, step])
        return np.concatenate([rng.choice(group, n, p=p) for group, n, p in self.groups])
