"""Labels from a report's words: its mentions, and what they say together.

`scope` says how the words are read. What they say then becomes labels by the rules of `training.data.codes`, as if
codes had said it: a stated rhythm excludes the others, a sinus rhythm without ectopy is regular, pacing hides what lies
beneath.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.core.labels import LABELS, Severity
from training.data.codes import Meaning, labels_from
from training.data.codes.vocabulary import RHYTHMS
from training.data.recording import Labels, set_labels
from training.defaults import LANGUAGES
from training.labels.findings import FINDINGS, WITHOUT_PHRASE
from training.labels.lexicon import corrected, languages_of, lexicon
from training.labels.places import LABELS_BY_REGION, LEADS
from training.labels.scope import Mention, blanked, longest, read
from training.labels.text import fold

UNREMARKED = frozenset(
    {*WITHOUT_PHRASE, "Regular", "Polymorph", "U wave", "ST downslopping", "ST upslopping", "LV pacing"}
    | {"rSR' in V1-V2", "Regularly irregular", "Q wave (posterior - V7-V9)", "ST elevation (posterior - V7-V8-V9)"}
)
"""Labels whose absence a reader does not vouch for: they stay unknown where a report does not name them."""

EXPRESSIBLE = frozenset(label.name for label in LABELS) - UNREMARKED
"""Labels that a report's author would have named: 0 where a closed report does not."""

NOT_NORMAL = frozenset(label.name for label in LABELS if label.severity is not Severity.NORMAL) - UNREMARKED
"""Labels that "(otherwise) normal ECG" denies."""


def unread(text: str, language: str | None = None) -> tuple[str, ...]:
    """Words of a report that no phrase, cue or place of its languages' dictionaries covers: what is still missing.

    Raises:
        ValueError: there is no dictionary for the language.
    """
    folded = fold(text)
    left: list[str] | None = None
    for name in (language,) if language else languages_of(folded.text) or LANGUAGES:
        lex = lexicon(name)
        report = corrected(folded, name).text
        plain = lex.light.sub(" ", blanked(report, longest(lex.hits(report))))
        words = [word for word in re.findall(r"[a-z]{2,}", LEADS.sub(" ", plain)) if word not in lex.joins]
        left = words if left is None else [word for word in left if word in words]
    return tuple(left or ())


def mentions(text: str, language: str | None = None) -> tuple[Mention, ...]:
    """Every finding that a report mentions, in order.

    Args:
        text: The report.
        language: One of `LANGUAGES`; None = by the report's own words, several where it is mixed, and all of them
            where it gives no evidence ("LBBB").

    Raises:
        ValueError: there is no dictionary for the language.
    """
    folded = fold(text)
    languages = (language,) if language else languages_of(folded.text) or LANGUAGES
    found = [mention for name in languages for mention in read(folded, text, lexicon(name))]
    # Two languages may know one word: the longer phrase counts, and the language in which something bears on it.
    found.sort(key=lambda m: (m.span[0] - m.span[1], not m.cues, languages.index(m.language)))
    taken: list[Mention] = []
    for mention in found:
        if all(mention.span[1] <= other.span[0] or other.span[1] <= mention.span[0] for other in taken):
            taken.append(mention)
    return tuple(sorted(taken, key=lambda m: m.span))


def labels_of_mentions(found: Sequence[Mention], *, closed: bool = False) -> Labels:
    """(77,) labels that the mentions say together: 1 said, 0 denied or excluded by what is said, -1 unknown.

    A label that one mention affirms is 1, whatever others say of it; one that is only considered is -1, even where it
    is denied elsewhere. ``closed``: what of `EXPRESSIBLE` no mention names is 0.
    """
    meanings: list[Meaning] = []
    excluded = {name for m in found if m.status == "affirmed" for name in FINDINGS[m.finding].excludes}
    denied: set[str] = set(excluded)
    dated: set[str] = set()
    doubted: set[str] = set()
    expressible: set[str] = set(EXPRESSIBLE if closed else ())
    for mention in found:
        finding = FINDINGS[mention.finding]
        irregular = finding.meaning.irregular
        if mention.status == "affirmed":
            implied = set(finding.implies) & excluded
            meanings.append(Meaning(tuple(n for n in mention.says if n not in implied), mention.opens, irregular))
            if finding.all_is_said:
                expressible |= NOT_NORMAL
        elif mention.status == "uncertain":
            meanings.append(Meaning((), mention.says + mention.opens, irregular))
            doubted.update(mention.says)
        elif mention.status == "negated":
            regions = LABELS_BY_REGION.get(finding.change, {}).values()
            denied.update(set(mention.says).intersection(regions) or finding.denies)
        elif finding.old:
            dated.update(finding.old)
        elif not set(mention.says).intersection(RHYTHMS):
            meanings.append(Meaning((), mention.says))
    said = {name for meaning in meanings for name in meaning.there}
    opened = {name for meaning in meanings for name in meaning.leaves_open}
    if said.intersection(RHYTHMS):
        expressible.update(RHYTHMS)
    labels = labels_from(meanings, expressible)
    set_labels(labels, 0, *(denied - said - doubted), *(dated - said - opened))
    set_labels(labels, 1, *said)
    return labels


def considered(found: Sequence[Mention]) -> NDArray[np.bool_]:
    """(77,) labels that the mentions name, but only as uncertain."""
    doubted = {name for m in found if m.status == "uncertain" for name in m.says}
    said = {name for m in found if m.status == "affirmed" for name in m.says}
    return np.array([label.name in doubted - said for label in LABELS])


def labels_of_report(text: str, language: str | None = None, *, closed: bool = False) -> Labels:
    """(77,) int8 labels of a report: 1 said, 0 denied or excluded by what is said, -1 unknown or uncertain.

    What a report does not mention is unknown, but for what its words exclude (a stated rhythm the others, "otherwise
    normal" every finding that is not named). With ``closed`` it is 0 for each label that the author would have named
    (`EXPRESSIBLE`): right for reports that aim at completeness, wrong for a one-line impression.

    Raises:
        ValueError: there is no dictionary for the language.
    """
    return labels_of_mentions(mentions(text, language), closed=closed)
