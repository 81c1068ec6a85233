"""Why a report got its labels, one line a label: for audit by someone who knows ECGs and not this program."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.labels import LABELS
from training.data.codes.vocabulary import IRREGULAR, POLYMORPH, REGULAR, RHYTHMS
from training.data.recording import Labels
from training.labels.findings import FINDINGS
from training.labels.scope import Mention

_OF_RHYTHM = (*RHYTHMS, REGULAR, IRREGULAR, POLYMORPH)
_WORD = {1: "yes", 0: "no", -1: "unknown"}


def _quoted(found: Sequence[Mention]) -> str:
    return ", ".join(
        f"“{m.text}”" + (f" with “{'”, “'.join(m.cues)}”" if m.cues else "") + f" [{m.language}]" for m in found
    )


def explain(found: Sequence[Mention], labels: Labels) -> tuple[str, ...]:
    """One line for each label that is said, denied by name, excluded, or only considered; nothing for the others.

    Args:
        found: The report's mentions.
        labels: (77,) as `labels_of_mentions` made of them.
    """
    rhythm = [m for m in found if m.status == "affirmed" and set(m.says).intersection(RHYTHMS)]
    normal = [m for m in found if m.status == "affirmed" and FINDINGS[m.finding].all_is_said]
    lines = []
    for info, value in zip(LABELS, labels.tolist(), strict=True):
        name = info.name
        said = [m for m in found if m.status == "affirmed" and name in m.says]
        doubted = [m for m in found if m.status != "negated" and m not in said and name in m.says + m.opens]
        denied = [m for m in found if m.status == "negated" and name in FINDINGS[m.finding].denies]
        excluding = [m for m in found if m.status == "affirmed" and name in FINDINGS[m.finding].excludes]
        dated = [m for m in found if m.status == "historical" and name in FINDINGS[m.finding].old]
        if value == 1:
            why = _quoted(said) or f"follows from {_quoted(rhythm)}"
        elif value == 0 and denied:
            why = f"denied: {_quoted(denied)}"
        elif value == 0 and (excluding or dated):
            why = f"excluded by {_quoted(excluding or dated)}"
        elif value == 0 and rhythm and name in _OF_RHYTHM:
            why = f"excluded by {_quoted(rhythm)}"
        elif value == 0:
            why = f"not named beside {_quoted(normal)}" if normal else "not named"
        elif doubted:
            why = f"left open by {_quoted(doubted)}"
        else:
            continue
        lines.append(f"{name}: {_WORD[value]}; {why}")
    return tuple(lines)
