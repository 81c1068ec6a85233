"""Topics of ECG over MQTT: which bed and device a message is from.

A topic is a template of the configuration, in which site, unit, bed and device each are a whole level.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.core.errors import DeepECGError

DEFAULT_TOPIC = "ward/v1/{site}/{unit}/{bed}/ecg/{device}"

_PART = re.compile(r"[^/+#\x00-\x1f\x7f-\x9f]{1,64}")


class TemplateError(DeepECGError, ValueError):
    """A topic template of the configuration cannot be used; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Address:
    """Whom a topic speaks of."""

    bed: str
    """``site/unit/bed``."""
    device: str


class TopicTemplate:
    """A topic with placeholders: ``{site}``, ``{unit}``, ``{bed}`` and ``{device}``, each a whole level.

    Where the topic lacks one of site, unit or device, the constant given here stands in for it.

    Raises:
        TemplateError: unknown, repeated or missing placeholder, or a level that MQTT does not allow.
    """

    def __init__(self, text: str = DEFAULT_TOPIC, *, site: str = "", unit: str = "", device: str = "") -> None:
        self.text = text
        self._constants = {"site": site, "unit": unit, "device": device}
        levels = text.split("/")
        names = [level[1:-1] for level in levels if level.startswith("{") and level.endswith("}")]
        for level in levels:
            if level.startswith("{") and level.endswith("}"):
                if level[1:-1] not in {"site", "unit", "bed", "device"}:
                    raise TemplateError(
                        f"topic {text!r}: {level} is none of {{site}}, {{unit}}, {{bed}} and {{device}}"
                    )
            elif not _PART.fullmatch(level) or "{" in level or "}" in level:
                raise TemplateError(
                    f"topic {text!r}: level {level!r} must be a plain word, or one placeholder by itself; "
                    "wildcards are put in by the agent"
                )
        if len(set(names)) != len(names):
            raise TemplateError(f"topic {text!r}: a placeholder comes twice; name each once")
        if "bed" not in names:
            raise TemplateError(f"topic {text!r}: no {{bed}}; without it the beds cannot be told apart")
        for name in ("site", "unit"):
            if name not in names and not _PART.fullmatch(self._constants[name]):
                raise TemplateError(f"topic {text!r}: no {{{name}}}; add it, or set `{name}` in the configuration")
        self._names = tuple(names)
        self.filter = "/".join("+" if level.startswith("{") else level for level in levels)
        """The subscription's filter: ``+`` for every placeholder."""
        parts = (
            f"(?P<{level[1:-1]}>{_PART.pattern})" if level.startswith("{") else re.escape(level) for level in levels
        )
        self._pattern = re.compile("/".join(parts))

    def match(self, topic: str) -> Address | None:
        """The bed and device of a topic; None where it is not one of this template's."""
        if (found := self._pattern.fullmatch(topic)) is None:
            return None
        parts = self._constants | found.groupdict()
        return Address(f"{parts['site']}/{parts['unit']}/{parts['bed']}", parts["device"])

    def topic(self, bed: str, device: str = "") -> str:
        """The topic of a bed ``site/unit/bed`` (and device).

        Raises:
            TemplateError: the bed is not of three plain levels, or the device is none.
        """
        levels = bed.split("/")
        if len(levels) != 3:
            raise TemplateError(f"a bed id has three levels, site/unit/bed, not {len(levels)}")
        parts = dict(zip(("site", "unit", "bed"), levels, strict=True), device=device)
        if not all(_PART.fullmatch(parts[name]) for name in self._names):
            raise TemplateError("the levels of a bed id and a device must be plain words without / + # or controls")
        return self.text.format_map(parts)
