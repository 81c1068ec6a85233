"""Operating points: one threshold per output, chosen on validation patients and applied to others.

A threshold that was chosen on the patients whom it is reported on flatters the model; `apply` refuses that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from training.evaluation.cases import Cases
from training.evaluation.metrics import Weigh, counts, weights
from training.evaluation.ranking import Array, Numbers

FEW_POSITIVES = 20
"""Positive validation patients below which a threshold is called uncertain."""

Kind = Literal["youden", "sensitivity", "specificity", "ppv"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a threshold is chosen: Youden's index, or the best other figure with one figure fixed."""

    kind: Kind = "youden"
    at: float | None = None
    """The fixed figure: at least so much of it."""

    def __post_init__(self) -> None:
        if self.kind == "youden" and self.at is not None:
            raise ValueError("Youden's index takes no number; write 'youden'")
        if self.kind != "youden" and (self.at is None or not 0 < self.at <= 1):
            raise ValueError(f"{self.kind} needs a number above 0 and up to 1, as {self.kind}=0.9")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``youden``, ``sensitivity=0.9``, ``specificity=0.95`` or ``ppv=0.5``."""
        kind, _, number = text.strip().partition("=")
        if kind not in ("youden", "sensitivity", "specificity", "ppv"):
            raise ValueError(f"there is no rule {text!r}; take youden, sensitivity=S, specificity=S or ppv=S")
        try:
            return cls(kind, float(number) if number else None)  # type: ignore[arg-type]  # checked above
        except ValueError as error:
            raise ValueError(f"the rule {text!r} cannot be used: {error}") from error

    def __str__(self) -> str:
        return "Youden's index" if self.kind == "youden" else f"{self.kind} of at least {self.at:g}"


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """A threshold for each output, and on whom it was chosen."""

    names: tuple[str, ...]
    value: Array
    """(L,): found positive at or above it; NaN = none."""
    origin: str
    """The rule in words, or who published them."""
    warnings: tuple[str, ...] = ()
    patients: frozenset[str] | None = field(default=None, repr=False)
    """On whom they were chosen; None where that is not known (read from a file)."""

    def save(self, path: Path) -> None:
        """JSON without patients: their names belong into no report."""
        values = {
            name: None if np.isnan(value) else float(value) for name, value in zip(self.names, self.value, strict=True)
        }
        content = {"origin": self.origin, "thresholds": values}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no file of thresholds.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no thresholds at {path}; give a JSON file with origin and thresholds")
        try:
            read = json.loads(path.read_text("utf-8"))
            values = {str(name): np.nan if v is None else float(v) for name, v in read["thresholds"].items()}
            return cls(tuple(values), np.array(list(values.values())), str(read["origin"]))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f'{path} is no file of thresholds; it must read {{"origin": "…", "thresholds": {{"Afib": 0.5, …}}}}'
            ) from error

    def of(self, names: Mapping[str, object] | tuple[str, ...]) -> Array:
        """(len(names),) thresholds in that order; NaN for an output without one."""
        by_name = dict(zip(self.names, self.value.tolist(), strict=True))
        return np.array([by_name.get(name, np.nan) for name in names])


def candidates(probability: Numbers, positive: NDArray[np.bool_], weight: Array) -> tuple[Array, Array, Array]:
    """Every threshold that tells cases (n,) apart, falling, and the true and false positives' weight (k,) at it."""
    order = np.argsort(-probability.astype(np.float64), kind="stable")
    p = probability[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)
    tp = np.cumsum(np.where(positive[order], weight[order], 0.0))[last]
    fp = np.cumsum(np.where(positive[order], 0.0, weight[order]))[last]
    return p[last], tp, fp


def choose_one(rule: Rule, probability: Numbers, positive: NDArray[np.bool_], weight: Array) -> float:
    """The threshold of known cases (n,); NaN where there is no positive, no negative, or none keeps to the rule.

    Of equal ones the highest. A fixed sensitivity takes the highest threshold that has it (so the best specificity), a
    fixed specificity or ppv the lowest (so the best sensitivity).
    """
    if not positive.any() or positive.all():
        return float("nan")
    value, tp, fp = candidates(probability, positive, weight)
    all_positive, all_negative = tp[-1], fp[-1]
    if rule.kind == "youden":
        return float(value[np.argmax(tp / all_positive - fp / all_negative)])
    assert rule.at is not None
    rounding = 1e-9  # of sums of weights, so that 9 of 10 are .9
    if rule.kind == "sensitivity":
        enough = np.flatnonzero(tp / all_positive >= rule.at - rounding)
        return float(value[enough[0]])
    kept = 1 - fp / all_negative if rule.kind == "specificity" else tp / (tp + fp)
    enough = np.flatnonzero((kept >= rule.at - rounding) & (tp > 0))
    return float(value[enough[-1]]) if len(enough) else float("nan")


def choose(
    validation: Cases, rule: Rule | None = None, *, weigh: Weigh = "case", few: int = FEW_POSITIVES
) -> Thresholds:
    """Thresholds of every output on validation cases; outputs with fewer than ``few`` positive patients are named."""
    rule = rule or Rule()
    value = np.full(len(validation.names), np.nan)
    every = weights(validation, range(len(validation.names)), weigh)
    thin, never, unkept = [], [], []
    for i, (name, count) in enumerate(zip(validation.names, counts(validation), strict=True)):
        known = validation.known(i)
        yes = validation.truth[known, i] == 1
        value[i] = choose_one(rule, validation.probability[known, i], yes, every[known, i])
        if count.positive == 0 or count.negative == 0:
            never.append(name)
        elif np.isnan(value[i]):
            unkept.append(name)
        elif count.positive_patients < few:
            thin.append(f"{name} ({count.positive_patients})")
    warnings = []
    if thin:
        warnings.append(
            f"Chosen on fewer than {few} positive validation patients, and therefore uncertain: {_named(thin)}."
        )
    if never:
        warnings.append(f"No threshold without a positive and a negative validation case: {_named(never)}.")
    if unkept:
        warnings.append(f"No threshold has a {rule}: {_named(unkept)}.")
    return Thresholds(
        names=validation.names,
        value=value,
        origin=f"{rule}, chosen on {len(set(validation.patient.tolist())):,} validation patients",
        warnings=tuple(warnings),
        patients=frozenset(validation.patient.tolist()),
    )


def _named(names: list[str], most: int = 12) -> str:
    """The names, or the first of them and how many more there are."""
    more = len(names) - most
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:most])} and {more} more"


def check_apart(thresholds: Thresholds, test: Cases) -> None:
    """Refuse to report on patients on whom the thresholds were chosen.

    Raises:
        ValueError: validation and test share a patient.
    """
    shared = (thresholds.patients or frozenset()) & set(test.patient.tolist())
    if shared:
        raise ValueError(
            f"{len(shared)} patient{' is' if len(shared) == 1 else 's are'} in both the validation and the test cases: "
            "thresholds must be chosen on other patients than those they are reported on; split by patient"
        )


def apply(thresholds: Thresholds, test: Cases) -> NDArray[np.int8]:
    """(n, L): 1 at or above the threshold, 0 below, -1 where there is no threshold or no score.

    Raises:
        ValueError: validation and test share a patient.
    """
    check_apart(thresholds, test)
    value = thresholds.of(test.names)
    with np.errstate(invalid="ignore"):
        found = (test.probability >= value).astype(np.int8)
    found[np.isnan(test.probability) | np.isnan(value)] = -1
    return found
