"""One bed of the live page: what is remembered of it, and that nothing of one patient is shown as another's."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.core.census import Stay
from agent.core.ecg import Alert, Channel, ChannelKind, Encounter, Gap, Lead, Phase, Prediction, Samples
from agent.station.trace import Trace

_STRIP_RATES = (50.0, 2000.0)  # samples per second that a strip is drawn of


@dataclass(slots=True)
class OpenAlert:
    """An alert as it stands now."""

    alert: Alert
    """Its last message."""
    messages: set[str]
    acknowledged: set[str] = field(default_factory=set)
    """Sinks whose receiver has answered any of its messages."""


@dataclass(slots=True)
class Tile:
    """The state of one bed's tile. Methods say whether the page has to be told."""

    number: int
    """Its name in binary frames."""
    revision: int
    generation: int | None = None
    """Of the encounter that all of it is about; None as long as only alerts are known."""
    encounter: Encounter | None = None
    device: str = ""
    """Whose signal is on the strip."""
    transport: str = ""
    received: float | None = None
    channels: tuple[Channel, ...] | None = None
    lead: int | None = None
    """Index of the channel on the strip."""
    trace: Trace | None = None
    epoch: int = 0
    """Counts the strips: another lead, rate or patient wipes it."""
    paced: bool | None = None
    prediction: Prediction | None = None
    """The first model's newest."""
    further: dict[str, Prediction] = field(default_factory=dict)
    """By name of a further model: its newest."""
    requested: dict[str, float] = field(default_factory=dict)
    """By name of a further model: when somebody asked for another look, until its answer comes."""
    rate: float | None = None
    rate_at: float = 0.0
    gap: Gap | None = None
    gap_at: float = 0.0
    alerts: dict[str, OpenAlert] = field(default_factory=dict)
    forgotten: bool = False
    """The line knows it no longer: it goes with its last alert."""

    def follow(self, stay: Stay, seconds: float) -> bool:
        """Take up whose signal comes now; what is shown of anybody before goes."""
        changed = self.leave(stay.generation, seconds)
        if stay.encounter is not self.encounter and stay.encounter != self.encounter:
            self.encounter, changed = stay.encounter, True
        return changed

    def leave(self, generation: int, seconds: float) -> bool:
        """Forget the patient, where this generation is another one.

        Open alerts stay until the alert line closes them, which it does for the same event.
        """
        known, self.generation = self.generation, generation
        if known is None or known == generation:
            return False
        self.prediction = self.gap = self.encounter = None
        self.further.clear()
        self.requested.clear()
        self.restart(seconds)
        return True

    def choose(self, samples: Samples, preference: tuple[Lead, ...], seconds: float) -> None:
        """Choose the channel of the strip: the preferred lead, another of the twelve, any ECG, or none."""
        self.channels = samples.channels
        slowest, fastest = _STRIP_RATES
        by_lead = {
            channel.lead: i
            for i, channel in enumerate(samples.channels)
            if channel.kind is ChannelKind.ECG and slowest <= channel.rate <= fastest
        }
        found = next((by_lead[lead] for lead in preference if lead in by_lead), None)
        self.lead = found if found is not None else next(iter(by_lead.values()), None)
        self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """Begin a new strip, with a memory of so many seconds."""
        self.epoch += 1
        self.rate, self.rate_at = None, 0.0
        if self.lead is None or self.channels is None:
            self.trace = None
        else:
            channel = self.channels[self.lead]
            self.trace = Trace(str(channel.lead or channel.label), channel.rate, seconds, self.epoch)

    def take_alert(self, alert: Alert) -> None:
        """Open, renew or close an alert."""
        if not alert.active or alert.phase in {Phase.END, Phase.RESET}:
            self.alerts.pop(alert.alert_id, None)
        elif (known := self.alerts.get(alert.alert_id)) is not None:
            known.alert = alert
            known.messages.add(alert.message_id)
        else:
            self.alerts[alert.alert_id] = OpenAlert(alert, {alert.message_id})
