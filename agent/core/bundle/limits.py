"""How far an engine is from the network in fp32, and how far it may be: the gate of publisher and ward alike.

`agent.core.bundle.parity` measures a `Parity`; `ParityLimits` says whether it is the same network still.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from agent.core.bundle.strict_json import Strict

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Parity(Strict):
    """How far an engine is from the network in fp32 torch, over the same windows and the outputs that count
    (`Manifest.counted`), as `agent.core.bundle.parity` measures it. None: not measured."""

    windows: int = Field(default=0, ge=0)
    """How many were compared; 0: nothing was measured, as of an engine that needs a GPU where there is none."""
    probability_max: Probability | None = None
    """Largest difference of an answer."""
    probability_p999: Probability | None = None
    """99.9th percentile of the differences."""
    logit_max: float | None = Field(default=None, ge=0.0)
    """Largest difference of a logit between -6 and 6, beyond which a probability in f32 does not tell it; of f32
    engines."""
    flips: int | None = Field(default=None, ge=0)
    """Windows on the other side of a label's threshold (`Label.cuts`), of the label with the most of them."""
    auroc_change: float | None = Field(default=None, ge=-1.0, le=1.0)
    """Of the label that lost most; negative: worse than fp32."""
    alerts_differ: int | None = Field(default=None, ge=0)
    """Alerts of one during which the other has none at all, in a replay of whole recordings."""

    @model_validator(mode="after")
    def _on_windows(self) -> Self:
        if not self.windows and self.model_dump(exclude={"windows"}, exclude_none=True):
            raise ValueError("parity was measured on no windows")
        if self.flips is not None and self.flips > self.windows:
            raise ValueError("more windows flip than were compared")
        return self


class ParityLimits(Strict):
    """The gate: what an engine may differ from fp32 by and still be this network. The aim is that it does the same
    task, not that it gives the same bits.

    The defaults lie between what a sound bf16 engine of the demonstration bundle does and what the very same network
    makes of the same ECG cut one sample (4 ms) later, which no ward can rule out (18,920 and 800 windows; largest
    difference .037 and .134, 99.9th percentile .018 and .094, flips of the worst label .0020 and .0088).
    """

    probability_max: Probability = 0.1
    """The largest of very many; what it may do to a finding is said by the other limits."""
    probability_p999: Probability = 0.03
    logit_max: float = Field(default=1e-4, gt=0.0)
    """Of f32 engines, which have no excuse."""
    flips_share: Probability = 0.005
    """Of the windows, for the label that flips most; a single window never breaks it."""
    auroc_drop: Probability = 0.002
    """Of the label that lost most: a tenth of the uncertainty of the figures themselves."""
    alerts_differ: int = Field(default=0, ge=0)

    def broken_by(self, parity: Parity) -> str:
        """Which limit a measurement breaks, in words; empty: none. What was not measured breaks none."""
        flips = None if parity.flips is None or parity.flips <= 1 else parity.flips / parity.windows
        found = (
            ("probability_max", parity.probability_max, self.probability_max),
            ("probability_p999", parity.probability_p999, self.probability_p999),
            ("logit_max", parity.logit_max, self.logit_max),
            ("flips_share", flips, self.flips_share),
            ("auroc_drop", None if parity.auroc_change is None else -parity.auroc_change, self.auroc_drop),
            ("alerts_differ", parity.alerts_differ, self.alerts_differ),
        )
        return next((f"{name} is {is_:.3g}, above {most:.3g}" for name, is_, most in found if is_ and is_ > most), "")
