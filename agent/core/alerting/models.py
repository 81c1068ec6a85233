"""The alerts of several models as one: each has its own counting, and a bed has one open alert per label.

The first model's alerting is the whole of `agent.core.alerting.alerting`. A further model that may alert has one of its
own, which raises no technical alerts, since silence is the first one's to tell. Where both find the same label at one
bed, whoever opened it first has it; the other's finding is suppressed and counted (``other_model``), and opens when the
first alert has ended and it still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from agent.core.alerting.alerting import Alerting
from agent.core.alerting.settings import AlertingSettings
from agent.core.bundle.manifest import Manifest
from agent.core.census import CensusEvent, Stay
from agent.core.ecg import Alert, Gap, Prediction, SourceAlarm


class ModelsAlerting:
    """As `Alerting`, for the models of one line. Not thread-safe; methods return the messages to commit, in order."""

    def __init__(
        self,
        manifests: Sequence[Manifest],
        settings: AlertingSettings | None = None,
        open_alerts: Iterable[Alert] = (),
        silent: Collection[str] = (),
    ) -> None:
        """Start from the alerts that the outbox calls open, each with the model that opened it.

        Args:
            manifests: Of the models that may alert, the first one first.
            settings: For all of them.
            open_alerts: Those of a model that alerts no more are ended.
            silent: Ids (``name/version``) of the models that never alert: their predictions are passed over.

        Raises:
            ValueError: ``suppress`` names no label of any of them.
        """
        settings = settings or AlertingSettings()
        names = [label.name for manifest in manifests for label in manifest.labels]
        for pattern in settings.suppress:
            if not any(fnmatchcase(name, pattern) for name in names):
                models = " and ".join(manifest.model_id for manifest in manifests)
                raise ValueError(f"alerts.suppress: {pattern!r} is no label of {models}; take a name from a manifest")
        known = {manifest.name for manifest in manifests}
        kept: dict[str, list[Alert]] = {name: [] for name in known}
        for alert in open_alerts:
            name = alert.model.partition("/")[0]
            kept[name if name in known else manifests[0].name].append(alert)
        self._models = {
            manifest.model_id: Alerting(manifest, _of(settings, manifest, first=not i), kept[manifest.name])
            for i, manifest in enumerate(manifests)
        }
        self._first = next(iter(self._models.values()))
        self._silent = frozenset(silent)

    def open_alerts(self, bed: str | None = None) -> tuple[Alert, ...]:
        """As `Alerting.open_alerts`, of all models."""
        return self._all(lambda alerting: alerting.open_alerts(bed))

    def source_alarms(self, bed: str) -> tuple[SourceAlarm, ...]:
        """As `Alerting.source_alarms`."""
        return self._first.source_alarms(bed)

    def take_suppressed(self) -> dict[str, int]:
        """As `Alerting.take_suppressed`, all models together."""
        total: dict[str, int] = {}
        for alerting in self._models.values():
            for reason, count in alerting.take_suppressed().items():
                total[reason] = total.get(reason, 0) + count
        return total

    def on_prediction(self, p: Prediction, wall: float, stay: Stay | None = None) -> tuple[Alert, ...]:
        """As `Alerting.on_prediction`, for the model that made it."""
        if p.model in self._silent:
            return ()
        # One of no model that is served goes to the first, which counts it.
        alerting = self._models.get(p.model, self._first)
        bed = p.window.bed
        others = (other for other in self._models.values() if other is not alerting)
        elsewhere = {alert.label for other in others for alert in other.open_alerts(bed)}
        return alerting.on_prediction(p, wall, stay, elsewhere)

    def on_gap(self, gap: Gap) -> None:
        """As `Alerting.on_gap`."""
        for alerting in self._models.values():
            alerting.on_gap(gap)

    def on_census(self, event: CensusEvent, wall: float) -> tuple[Alert, ...]:
        """As `Alerting.on_census`."""
        return self._all(lambda alerting: alerting.on_census(event, wall))

    def on_source_alarm(self, alarm: SourceAlarm) -> tuple[Alert, ...]:
        """As `Alerting.on_source_alarm`."""
        return self._first.on_source_alarm(alarm)

    def on_tick(self, now: float, wall: float) -> tuple[Alert, ...]:
        """As `Alerting.on_tick`."""
        return self._all(lambda alerting: alerting.on_tick(now, wall))

    def on_shutdown(self, wall: float) -> tuple[Alert, ...]:
        """As `Alerting.on_shutdown`."""
        return self._all(lambda alerting: alerting.on_shutdown(wall))

    def _all(self, ask: Callable[[Alerting], tuple[Alert, ...]]) -> tuple[Alert, ...]:
        return tuple(alert for alerting in self._models.values() for alert in ask(alerting))


def _of(settings: AlertingSettings, manifest: Manifest, *, first: bool) -> AlertingSettings:
    """One model's settings: the patterns that name labels of it, and technical alerts by the first model only."""
    names = [label.name for label in manifest.labels]
    patterns = tuple(p for p in settings.suppress if any(fnmatchcase(name, p) for name in names))
    return settings.model_copy(update={"suppress": patterns, "feed_lost_alert": settings.feed_lost_alert and first})
