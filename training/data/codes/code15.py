"""CODE-15 %'s six columns (Ribeiro et al. 2021): first-degree block, bundle branch blocks, two sinus rhythms, AF."""

from __future__ import annotations

from collections.abc import Mapping

from training.data.codes.scp import SCP
from training.data.codes.vocabulary import AF, AVB1, BRADY, LBBB, RBBB, Meaning, labels_from
from training.data.recording import Labels, set_labels

CODE15: Mapping[str, Meaning] = {
    "1dAVb": SCP["1AVB"],
    "RBBB": SCP["CRBBB"],
    "LBBB": SCP["CLBBB"],
    "SB": SCP["SBRAD"],
    "ST": SCP["STACH"],
    "AF": SCP["AFIB"],
}
"""Column to its meaning. Every exam has all six, so each that is false denies its own label, and nothing else."""

_EXPRESSIBLE = frozenset({AF, AVB1, BRADY, LBBB, RBBB})


def from_code15(columns: Mapping[str, bool]) -> Labels:
    """(77,) labels of an exam by its six columns.

    Without SB, ST and AF the rhythm is not said (it is sinus rhythm mostly, but flutter and others have no column);
    AF alone is denied all the same, since its column says so.
    """
    labels = labels_from([CODE15[name] for name, there in columns.items() if there], _EXPRESSIBLE)
    if not columns["AF"]:
        set_labels(labels, 0, AF)
    return labels
