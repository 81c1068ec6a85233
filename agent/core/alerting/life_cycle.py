"""The life of one alert, from message to message (IHE PCD-04 event phases)::

                 open_after consecutive windows ≥ threshold
      nothing ────────────────────────────────────────────▶ start, active
                                                             │   ▲ continue, every `continue_every` seconds: the
                                                             └───┘ receiver's state is brought back in step
      end, inactive ◀──── recovered        close_after consecutive windows < release
                    ◀──── discharge, transfer, patient_changed
                    ◀──── feed_lost        nothing was analysed for `stale_after` seconds
                    ◀──── model_changed    after a restart, where the label alerts no longer
                    ◀──── shutdown         planned stop

Ids are names of the events themselves (UUID 5): the same inputs give the same ids, so what is computed twice is
committed once. A message's id is derived from that of the message before it, across restarts.
"""

from __future__ import annotations

import dataclasses
import json
from uuid import UUID, uuid5

from agent.core.alerting.rules import LabelRule
from agent.core.census import same_known
from agent.core.ecg import Alert, Encounter, Phase, Prediction
from agent.core.labels import LabelInfo
from agent.core.labels import label as label_info
from agent.core.nomenclature import ECG_ELEC_POTL

_NAMESPACE = UUID("6f0e8f52-2c2b-5d0a-9a0e-3b6a6d1f7c55")


def start(p: Prediction, label: LabelRule, encounter: Encounter | None, wall: float) -> Alert:
    """The first message of an alert that this window opens, at ``wall`` epoch seconds."""
    window = p.window
    info = _diagnosis(label.name)
    alert_id = name_uuid(window.bed, window.device, label.name, repr(window.end), repr(wall))
    return Alert(
        alert_id=alert_id,
        message_id=name_uuid(alert_id, Phase.START),
        bed=window.bed,
        device=window.device,
        label=label.name,
        code=info.code if info else 0,
        ref_id=info.ref_id if info else "",
        text=f"{info.text if info else label.name} (advisory)",
        priority=label.rule.priority,
        phase=Phase.START,
        active=True,
        opened=window.end,
        time=window.end,
        created=wall,
        probability=float(p.probabilities[label.index]),
        threshold=label.rule.threshold,
        model=p.model,
        received=window.received,
        source_code=info.source_code if info else ECG_ELEC_POTL,
        encounter=encounter,
    )


def renew(alert: Alert, p: Prediction, label: LabelRule) -> Alert:
    """The open alert with what this window says of it: no message, it travels with the next one."""
    return dataclasses.replace(
        alert,
        time=p.window.end,
        probability=float(p.probabilities[label.index]),
        threshold=label.rule.threshold,
        model=p.model,
        received=p.window.received,
    )


def follow_up(
    alert: Alert, phase: Phase, wall: float, *, time: float, reason: str = "", encounter: Encounter | None = None
) -> Alert:
    """The next message of an alert, about device time ``time``.

    ``encounter`` is the bed's present one: its data go along where it is the same, known patient's, and nowhere else.
    """
    return dataclasses.replace(
        alert,
        message_id=name_uuid(alert.message_id, phase, repr(time)),
        phase=phase,
        active=phase is not Phase.END,
        reason=reason,
        time=time,
        created=wall,
        encounter=encounter if same_known(alert.encounter, encounter) else alert.encounter,
    )


def name_uuid(*parts: str) -> str:
    """The id of what these words name."""
    return str(uuid5(_NAMESPACE, json.dumps(parts)))


def _diagnosis(name: str) -> LabelInfo | None:
    """What is known of the label; None for one that is none of the 77 (another model's)."""
    try:
        return label_info(name)
    except KeyError:
        return None
