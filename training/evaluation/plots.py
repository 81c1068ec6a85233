"""The report's figures as inline SVG whose colours are the page's own, so that they follow light, dark and print."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from training.evaluation.metrics import OVERALL
from training.evaluation.study import Curve, Grouping, Output, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE, ACCENT, GROUND = "#010101", "#020202", "#030303", "#040404", "#050505"
"""Stand-ins that matplotlib draws with; `inline` makes them the page's variables."""
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", ACCENT: "accent", GROUND: "ground"}
PANELS = 12
"""Outputs whose reliability is drawn: those with the most positive patients."""
COLUMNS = 4
_WIDTH = 9.6
"""Inches, of which the page makes its width."""


def inline(svg: str, name: str, description: str) -> str:
    """An SVG file's text as an element of the page: named, with its own ids, without anything external."""
    text = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("xlink:href", "href")
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var(--{variable})")
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--sans)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    text = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", text)
    text = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", text)
    title = f'<title id="{name}-title">{_escaped(description)}</title>'
    return re.sub(r"<svg([^>]*)>", rf'<svg\1 role="img" aria-labelledby="{name}-title">{title}', text.strip(), count=1)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\\", "")


def _panels(name: str, description: str, titles: Sequence[str], draw: Callable[[Axes, int], None]) -> str:
    """Small multiples of square axes from 0 to 1."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",  # text stays text: selectable, readable aloud, in the page's own type
        "svg.hashsalt": name,
        "text.parse_math": False,  # a name with two dollars is no formula
        "font.size": 8.5,
        "text.color": INK,
        "axes.edgecolor": LINE,
        "axes.labelcolor": SOFT,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "axes.linewidth": 0.8,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 9,
        "axes.titlepad": 5,
    }
    rows = math.ceil(len(titles) / COLUMNS)
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH, rows * (_WIDTH / COLUMNS + 0.15)), layout="constrained")
        axes = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True)
        for k, ax in enumerate(axes.flat):
            if k >= len(titles):
                ax.set_axis_off()
                continue
            ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            ax.set_xticklabels(("0", ".5", "1"))
            ax.set_yticklabels(("0", ".5", "1"))
            ax.tick_params(labelbottom=k + COLUMNS >= len(titles), labelleft=k % COLUMNS == 0)
            ax.set_title(titles[k])
            draw(ax, k)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return inline(out.getvalue(), name, description)


def _label(ax: Axes, k: int, panels: int, x: str, y: str) -> None:
    """Of the first panel of the last row alone; all have the same axes."""
    if k == (panels - 1) // COLUMNS * COLUMNS:
        ax.set(xlabel=x, ylabel=y)


def _short(title: str, width: int = 34) -> str:
    return title if len(title) <= width else title[: width - 1].rstrip() + "…"


def _groups(study: Study) -> list[Grouping]:
    """The categories that have figures, and all outputs together."""
    return [group for group in study.groupings if group.outputs and not group.name.startswith("Severity")]


def _of(study: Study, group: Grouping) -> list[Output]:
    from training.evaluation.metrics import groupings

    names = set(groupings([output.name for output in study.outputs])[group.name])
    return [output for output in study.evaluated if output.name in names]


def _line(ax: Axes, curve: Curve, *, strong: bool, steps: bool) -> None:
    colour, width, alpha = (ACCENT, 1.8, 1.0) if strong else (SOFT, 0.6, 0.45)
    # Average precision takes each precision from the sensitivity before it: a straight line would promise too much.
    shape = "steps-pre" if steps else "default"
    ax.plot(curve.x, curve.y, color=colour, linewidth=width, alpha=alpha, drawstyle=shape, clip_on=False)


def _curves(study: Study, kind: str, name: str, labels: tuple[str, str], description: str) -> str:
    groups = _groups(study)

    def draw(ax: Axes, k: int) -> None:
        if kind == "roc":
            ax.plot((0, 1), (0, 1), color=LINE, linewidth=0.8)
        if groups[k].name != OVERALL:
            for output in _of(study, groups[k]):
                curve = getattr(output, kind)
                if curve is not None:
                    _line(ax, curve, strong=False, steps=kind == "pr")
        pooled = getattr(groups[k], kind)
        if pooled is not None:
            _line(ax, pooled, strong=True, steps=kind == "pr")
        _label(ax, k, len(groups), *labels)

    return _panels(name, description, [_short(group.name) for group in groups], draw)


def roc(study: Study) -> str:
    """ROC curves by category."""
    return _curves(
        study,
        "roc",
        "roc",
        ("1 − specificity", "sensitivity"),
        "ROC curves by category: thin lines are single outputs, the thick line all outputs of the category pooled. "
        "The areas are in the tables.",
    )


def pr(study: Study) -> str:
    """Precision-recall curves by category."""
    return _curves(
        study,
        "pr",
        "pr",
        ("sensitivity (recall)", "PPV (precision)"),
        "Precision-recall curves by category: thin lines are single outputs, the thick line all outputs of the "
        "category pooled. The areas are in the tables.",
    )


def drawn_reliably(study: Study) -> list[Output]:
    """The outputs whose reliability is drawn."""
    outputs = sorted(study.evaluated, key=lambda output: -output.counts.positive_patients)[:PANELS]
    return [output for output in outputs if output.calibration is not None]


def reliability(study: Study) -> str:
    """Observed share against predicted probability, before and after Platt scaling."""
    outputs = drawn_reliably(study)

    def draw(ax: Axes, k: int) -> None:
        ax.plot((0, 1), (0, 1), color=LINE, linewidth=0.8)
        before, after = outputs[k].calibration, outputs[k].after_platt
        assert before is not None
        for found, colour, width in ((before, SOFT, 0.9), (after, ACCENT, 1.3)):
            if found is None:
                continue
            x, y = [b.predicted for b in found.bins], [b.observed for b in found.bins]
            ax.plot(x, y, color=colour, linewidth=width, marker="o", markersize=2.6, clip_on=False)
            ax.vlines(x, [b.lower for b in found.bins], [b.upper for b in found.bins], colors=colour, linewidth=0.7)
        _label(ax, k, len(outputs), "predicted", "observed")

    return _panels(
        "reliability",
        "Reliability diagrams: observed share of positives against predicted probability in ten bins, grey as the "
        "model says it, coloured after Platt scaling fitted on validation patients. The errors are in the table.",
        [_short(output.name, 30) for output in outputs],
        draw,
    )
