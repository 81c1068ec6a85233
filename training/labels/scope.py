"""What bears on what in a sentence: cues on findings, leads on waves.

The method is NegEx's (Chapman et al., J Biomed Inform 2001;34:301) as ConText widened it (Harkema et al., J Biomed
Inform 2009;42:839): cues of negation, uncertainty and history before or after a finding, within their scope; and
pseudo-cues that look like one ("no change in"). Reports of ECGs are telegraphic, so the scopes here are narrow:

- a cue bears on the nearest finding on its side, over at most `REACH` words and not over the sentence's end, another
  finding, a new line or a breaking word ("but"); and from there on the rest of a list ("no A, B or C");
- a comma alone carries no cue ("keine ES, Linksschenkelblock"), unless the list ends with a conjunction;
- a phrase is taken whole where a shorter one lies within it ("incomplete left bundle branch block").
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from training.labels.findings import FINDINGS
from training.labels.lexicon import Hit, Lexicon, corrected
from training.labels.places import LEADS, REGIONS, labels_at_leads, leads_of
from training.labels.text import Folded, sentence_ends

Status = Literal["affirmed", "negated", "uncertain", "historical"]

REACH = 4
"""Words that may stand between a cue and its finding."""

PLACE_REACH = 3
"""Words that may stand between a wave's change and its leads."""


@dataclass(frozen=True, slots=True)
class Mention:
    """One finding in a report."""

    finding: str
    """Key of `FINDINGS`."""
    says: tuple[str, ...]
    """Labels that it names where it is affirmed, implied ones too; the regions' where leads are named."""
    opens: tuple[str, ...]
    """Labels on which it bears without naming them."""
    span: tuple[int, int]
    """In the report."""
    text: str
    """The report there."""
    language: str
    status: Status
    acute: bool
    """Called acute or new."""
    phrase: str
    """As in the dictionary's file."""
    cues: tuple[str, ...] = ()
    """The words that made its status, as in the dictionary's file."""


@dataclass(frozen=True, slots=True)
class _Place:
    start: int
    end: int
    leads: tuple[str, ...]


def longest(hits: Sequence[Hit]) -> list[Hit]:
    """Hits that do not overlap, in order: the longest; of equal ones findings, then cues, then what is spelled out.

    A cue that is found on both sides ("chronisch") becomes one of either side.
    """
    ranked = sorted(
        hits,
        key=lambda h: (h.start - h.end, h.meaning not in FINDINGS, h.meaning[0] == "@", -len(h.phrase.rstrip("*"))),
    )
    taken: list[Hit] = []
    for hit in ranked:
        same = next((i for i, t in enumerate(taken) if (t.start, t.end) == (hit.start, hit.end)), None)
        if same is None:
            if all(hit.end <= other.start or other.end <= hit.start for other in taken):
                taken.append(hit)
        elif hit.is_cue and taken[same].kind == hit.kind and taken[same].meaning != hit.meaning:
            taken[same] = replace(hit, meaning=f"{hit.kind}/either")
    return sorted(taken, key=lambda h: h.start)


def blanked(text: str, hits: Sequence[Hit]) -> str:
    """The text with blanks in the place of the hits, so that they count as no words between others."""
    for hit in hits:
        text = text[: hit.start] + " " * (hit.end - hit.start) + text[hit.end :]
    return text


def _words(text: str) -> int:
    return len(re.findall(r"\w+", text))


def _links(text: str, findings: Sequence[Hit], places: Sequence[_Place], lex: Lexicon) -> list[bool]:
    """For each finding but the last: is it in one list with the next?"""
    kinds = []
    for left, right in itertools.pairwise(findings):
        between = text[left.end : right.start]
        for place in places:
            if left.end <= place.start and place.end <= right.start:
                between = between.replace(text[place.start : place.end], " ")
        words = re.findall(r"[\w/']+|&", lex.light.sub(" ", between))
        joined = [word for word in words if word in lex.joins or word in ("/", "&")]
        if len(joined) == len(words) and (joined or "/" in between):
            kinds.append("and")
        elif not words and "," in between and "\n" not in between:
            kinds.append("comma")
        else:
            kinds.append("")
    linked = [kind == "and" for kind in kinds]
    for i in reversed(range(len(kinds) - 1)):
        linked[i] |= kinds[i] == "comma" and linked[i + 1]
    return linked


def _clear(gap: str, lex: Lexicon, reach: int) -> bool:
    """May a cue act over these words? Other cues and places among them are blank."""
    if _words(gap) > reach or lex.breaks.search(gap):
        return False
    if "(" in gap and _words(gap.rpartition("(")[2]):
        return False
    return "\n" not in gap.strip(" ") or not gap.strip("\n ,:(")


def _bears(cue: Hit, finding: Hit, gap: str, lex: Lexicon) -> bool:
    """Can the cue act on the finding over what stands between them?"""
    about = FINDINGS[finding.meaning]
    if cue.kind in ("old", "acute") and not (about.old or about.acute):
        return False
    return _clear(gap, lex, 0 if about.alone else REACH)


def _targets(cue: Hit, findings: Sequence[Hit], text: str, lex: Lexicon) -> list[int]:
    """Which findings of the sentence a cue bears on first, by their index.

    One of either side bears on what follows at once, else on what it follows, else on what follows within reach.
    """
    after = next((i for i, f in enumerate(findings) if f.start >= cue.end), None)
    before = next((i for i in reversed(range(len(findings))) if findings[i].end <= cue.start), None)
    at_once = False
    if after is not None:
        gap = text[cue.end : findings[after].start]
        at_once = not gap.strip(" ")
        if not _bears(cue, findings[after], gap, lex):
            after, at_once = None, False
    if before is not None:
        gap = text[findings[before].end : cue.start]
        remark = text[cue.end :].partition(")")[0] if gap.rstrip().endswith("(") else ""
        if _words(remark) or not _bears(cue, findings[before], gap, lex):  # "(fragl. respiratorisch)" is of its own
            before = None
    if cue.side == "before" or (cue.side == "either" and (before is None or at_once)):
        before = None
    elif cue.side in ("after", "either"):
        after = None
    return [i for i in (before, after) if i is not None]


def _places(text: str, hits: Sequence[Hit], findings: Sequence[Hit]) -> list[_Place]:
    """Lists of leads and names of walls, in order; those in a finding's own words only where it has a gap."""
    found = [_Place(m.start(), m.end(), leads_of(m.group())) for m in LEADS.finditer(text)]
    found += [_Place(h.start, h.end, REGIONS[h.meaning[1:]]) for h in hits if h.meaning.startswith("@")]
    closed = [f for f in findings if "..." not in f.phrase]
    apart = [p for p in found if all(p.end <= f.start or f.end <= p.start for f in closed)]
    return sorted(apart, key=lambda p: p.start)


def _leads(
    findings: Sequence[Hit], places: Sequence[_Place], text: str, begin: int, end: int, known: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """Leads of each finding of a sentence: those that follow it, and those at once before it.

    A place that stands at once before the next finding and apart from this one is the next one's ("T neg. in V4-6,
    inferiore ST-Senkung"). Places within a finding's words are its own unless others follow at once ("T in V2-4
    negativ, in II biphasisch"). "These leads" are those of the finding before, at first `known`.
    """
    out: list[tuple[str, ...]] = []
    used = begin
    for i, finding in enumerate(findings):
        following = findings[i + 1].start if i + 1 < len(findings) else end
        inside = [p for p in places if finding.start <= p.start and p.end <= finding.end]
        leads: list[str] = []
        for place in places:
            if used <= place.start and place.end <= finding.start:
                gap = text[place.end : finding.start]
                if not _words(gap) and "\n" not in gap and "," not in gap:
                    leads += place.leads or known
        position = finding.end
        for place in places:
            if not (position <= place.start and place.end <= following):
                continue
            gap = text[position : place.start]
            to_next = text[place.end : following]
            next_ones = (
                not to_next.strip(" ") and following < end and bool(re.search(r"[,\n]|\b(?:und|and|et|och)\b", gap))
            )
            reach = PLACE_REACH if position == finding.end else PLACE_REACH - 1
            if next_ones or _words(gap) > reach or (inside and "," in gap):
                break
            leads += place.leads or known
            position = used = place.end
        leads = leads or [lead for place in inside for lead in place.leads or known]
        out.append(tuple(dict.fromkeys(leads)))
        known = out[-1] or known
    return out


def _statuses(
    text: str, findings: Sequence[Hit], cues: Sequence[Hit], linked: Sequence[bool], lex: Lexicon
) -> list[list[Hit]]:
    """For each finding of a sentence the cues that bear on it."""
    bearing: list[list[Hit]] = [[] for _ in findings]
    for cue in cues:
        inside = next((i for i, f in enumerate(findings) if f.start <= cue.start and cue.end <= f.end), None)
        if inside is not None:
            bearing[inside].append(cue)
            continue
        for first in _targets(cue, findings, text, lex):
            forward, i = findings[first].start >= cue.end, first
            bearing[i].append(cue)
            while forward and i < len(linked) and linked[i]:
                i += 1
                bearing[i].append(cue)
            while not forward and i > 0 and linked[i - 1]:
                i -= 1
                bearing[i].append(cue)
    return bearing


def _status(finding: str, cues: Sequence[Hit], questioned: bool) -> tuple[Status, bool]:
    """What the cues make of a finding, and whether it is called acute."""
    kinds = {cue.kind for cue in cues}
    acute = "acute" in kinds
    if "negated" in kinds:
        return "negated", acute
    if "historical" in kinds or ("old" in kinds and FINDINGS[finding].old and not acute):
        return "historical", acute
    if "uncertain" in kinds or questioned:
        return "uncertain", acute
    return "affirmed", acute


def read(report: Folded, source: str, lex: Lexicon) -> list[Mention]:
    """Mentions of one language."""
    report = corrected(report, lex.language)
    text = report.text
    hits = lex.hits(text)
    chosen = longest([hit for hit in hits if not (hit.is_cue and hit.side == "inside")])
    findings = [hit for hit in chosen if hit.meaning in FINDINGS]
    loose = [f for f in findings if "..." in f.phrase]
    inner = [h for h in hits if h.is_cue and any(f.start < h.start and h.end < f.end for f in loose)]
    cues = [hit for hit in chosen if hit.is_cue] + inner
    places = _places(text, chosen, findings)
    plain = blanked(text, [hit for hit in chosen if hit not in findings])
    mentions: list[Mention] = []
    known: tuple[str, ...] = ()
    begin = 0
    for end in sentence_ends(text, lex.abbreviations):
        here = [f for f in findings if begin <= f.start < end]
        linked = _links(text, here, places, lex)
        bearing = _statuses(plain, here, [c for c in cues if begin <= c.start < end], linked, lex)
        leads = _leads(here, places, text, begin, end, known)
        for i, hit in enumerate(here):
            finding = FINDINGS[hit.meaning]
            where = leads[i]
            if not where and finding.change and i < len(linked) and linked[i]:
                where = leads[i + 1]  # "ST depressed and T inverted in I, aVL"
            known = where or known
            questioned = bool(re.match(r"\s*\(?\?", text[hit.end : hit.end + 3]))
            status, acute = _status(hit.meaning, bearing[i], questioned)
            meaning = finding.acute if acute and finding.acute else finding.meaning
            says, opens = meaning.there + finding.implies, meaning.leaves_open
            if finding.change:
                at_leads, maybe = labels_at_leads(finding.change, where or finding.usual)
                says, opens = (*says, *at_leads), (*opens, *maybe)
            span = report.span(hit.start, hit.end)
            mentions.append(
                Mention(
                    finding=hit.meaning,
                    says=tuple(dict.fromkeys(says)),
                    opens=tuple(dict.fromkeys(opens)),
                    span=span,
                    text=source[slice(*span)],
                    language=lex.language,
                    status=status,
                    acute=acute,
                    phrase=hit.phrase,
                    cues=tuple(cue.phrase for cue in bearing[i]),
                )
            )
        begin = end
    return mentions
