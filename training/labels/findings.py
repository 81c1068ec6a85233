"""What a report can find, in any language, and what each finding says of the 77 labels.

A finding's meaning is that of the codes wherever there is a code for it (`training.data.codes`), so that a report and
the codes of the same recording are read alike. The phrases stand in ``de.toml``, ``en.toml`` and ``fr.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.data.codes import SCP, SNOMED, Meaning
from training.data.codes import vocabulary as c
from training.labels.places import LABELS_BY_REGION

NOTHING = Meaning()


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding."""

    meaning: Meaning = NOTHING
    """What it says where it is affirmed; where it is uncertain, all of that is left open."""
    implies: tuple[str, ...] = ()
    """Labels that go with it unless another finding excludes them."""
    excludes: tuple[str, ...] = ()
    """Labels that it denies where it is affirmed ("PQ normal")."""
    denied: tuple[str, ...] | None = None
    """Labels that are 0 where it is negated; None = all that ``meaning`` says."""
    acute: Meaning | None = None
    """What it says where it is called acute."""
    old: tuple[str, ...] = ()
    """Labels that it denies where it is called old."""
    change: str = ""
    """Key of `LABELS_BY_REGION`: its labels depend on the leads that are named with it."""
    usual: tuple[str, ...] = ()
    """Leads that are meant where none are named."""
    all_is_said: bool = False
    """"(Otherwise) normal ECG": what it does not name is not there."""
    alone: bool = False
    """Only a cue directly beside it bears on it ("no definite evidence …; normal ECG")."""

    @property
    def denies(self) -> tuple[str, ...]:
        """Labels that are 0 where it is negated."""
        if self.denied is not None:
            return self.denied
        return tuple(LABELS_BY_REGION[self.change].values()) if self.change else self.meaning.there


def _is(*labels: str, opens: tuple[str, ...] = (), irregular: bool = False) -> Finding:
    return Finding(Meaning(labels, opens, irregular))


_AXES = (c.LAD, c.RAD, c.SUPERIOR)
_ANY_BLOCK = SNOMED["6374002"]

FINDINGS: Mapping[str, Finding] = {
    # The whole recording.
    "normal_ecg": Finding(all_is_said=True, alone=True),
    "verdict": Finding(alone=True),  # abnormal, borderline, probably normal: of no single label
    # Rhythm.
    "sinus_rhythm": Finding(SCP["SR"]),
    "sinus_bradycardia": Finding(SCP["SBRAD"], denied=(c.BRADY,)),
    "sinus_tachycardia": Finding(SCP["STACH"], excludes=(c.BRADY,), denied=()),
    "sinus_arrhythmia": Finding(SCP["SARRH"], denied=()),
    "bradycardia": _is(c.BRADY),
    "tachycardia": Finding(excludes=(c.BRADY,)),
    "normal_rate": Finding(excludes=(c.BRADY,)),
    "atrial_fibrillation": Finding(Meaning((c.AF,), (c.BRADY,), irregular=True), implies=(c.IRREGULAR,)),
    "fibrillation_or_flutter": Finding(SCP["AFIB"], denied=(c.AF, c.FLUTTER)),
    "atrial_flutter": Finding(SCP["AFLT"]),
    "supraventricular_tachycardia": Finding(SCP["SVTAC"]),
    "reentrant_tachycardia": Finding(SNOMED["233896004"]),
    "atrial_tachycardia": Finding(SNOMED["713422000"]),
    "supraventricular_arrhythmia": Finding(SCP["SVARR"], denied=()),
    "ventricular_tachycardia": Finding(SNOMED["164895002"]),
    "broad_tachycardia": Finding(Meaning((), (c.VT, c.SVT, c.AT)), excludes=(c.BRADY,)),
    "ventricular_rhythm": Finding(SNOMED["49260003"]),
    "ventricular_fibrillation": Finding(Meaning((), (c.VT,), irregular=True), excludes=(c.SINUS,)),
    "junctional_rhythm": _is(c.JUNCTIONAL),
    "ectopic_atrial_rhythm": Finding(SNOMED["106068003"]),
    "wandering_pacemaker": Finding(SNOMED["195101003"]),
    "regular_rhythm": Finding(Meaning((c.REGULAR,)), excludes=(c.IRREGULAR,)),
    "irregular_rhythm": Finding(
        Meaning((), (c.IRREGULAR, c.REGULARLY_IRREGULAR), irregular=True), excludes=(c.REGULAR,), denied=()
    ),
    "irregularly_irregular": Finding(Meaning((c.IRREGULAR,), (c.AF,), irregular=True), excludes=(c.REGULAR,)),
    "regularly_irregular": Finding(Meaning((c.REGULARLY_IRREGULAR,), irregular=True), excludes=(c.REGULAR,)),
    "asystole": _is("no_qrs"),
    "pause": Finding(Meaning((), (c.REGULARLY_IRREGULAR, c.IRREGULAR), irregular=True)),
    # Ectopy.
    "ventricular_ectopy": Finding(SCP["PVC"]),
    "atrial_ectopy": Finding(SCP["PAC"]),
    "ectopy": Finding(SCP["PRC(S)"], denied=(c.PVC, c.PAC)),
    "escape_beats": Finding(Meaning((), (c.JUNCTIONAL, c.VR, c.IRREGULAR), irregular=True), denied=()),
    "bigeminy": Finding(SCP["BIGU"]),
    "trigeminy": Finding(SCP["TRIGU"]),
    "ventricular_bigeminy": Finding(SNOMED["11157007"]),
    "atrial_bigeminy": _is(c.PAC, c.REGULARLY_IRREGULAR, irregular=True),
    "monomorphic": _is(c.MONOMORPH),
    "polymorphic": Finding(Meaning((c.POLYMORPH,)), excludes=(c.MONOMORPH,)),
    # Pacing.
    "paced": Finding(SCP["PACE"]),
    "atrial_paced": Finding(SNOMED["251268003"]),
    "dual_paced": Finding(Meaning((c.V_PACED, c.A_PACED), (c.SINUS, c.AF, c.FLUTTER, c.BRADY, *c.PACING_HIDES))),
    "biventricular_paced": Finding(Meaning((c.V_PACED, c.LV_PACED), (c.SINUS, c.AF, c.BRADY, *c.PACING_HIDES))),
    # Conduction.
    "left_bundle_branch_block": Finding(SCP["CLBBB"]),
    "incomplete_left_bundle_branch_block": Finding(SCP["ILBBB"], denied=(c.LBBB,)),
    "right_bundle_branch_block": Finding(SCP["CRBBB"]),
    "incomplete_right_bundle_branch_block": Finding(SCP["IRBBB"]),
    "rsr": Finding(Meaning((), (c.RBBB,)), denied=(c.RSR,), change="rsr", usual=("v1", "v2")),
    "bundle_branch_block": Finding(_ANY_BLOCK, denied=(c.LBBB, c.RBBB)),
    "intraventricular_delay": Finding(SCP["IVCD"]),
    "wide_qrs": Finding(Meaning((), (c.IVCD, c.LBBB, c.RBBB))),
    "narrow_qrs": Finding(excludes=(c.LBBB, c.RBBB, c.IVCD)),
    "left_anterior_block": Finding(Meaning((c.LAFB,)), implies=(c.LAD,)),  # as in the codes
    "left_posterior_block": Finding(SCP["LPFB"]),
    "fascicular_block": Finding(Meaning((), (c.LAFB, c.LPFB)), denied=(c.LAFB, c.LPFB)),
    "bifascicular_block": Finding(Meaning((), (c.RBBB, c.LAFB, c.LPFB, c.LBBB))),
    "trifascicular_block": Finding(Meaning((), (c.RBBB, c.LAFB, c.LPFB, c.LBBB, c.AVB1))),
    "first_degree_block": Finding(SCP["1AVB"]),
    "second_degree_block": Finding(SCP["2AVB"], denied=(c.MOBITZ1, c.MOBITZ2)),
    "mobitz_1": Finding(SNOMED["54016002"]),
    "mobitz_2": Finding(SNOMED["426183003"]),
    "third_degree_block": Finding(SCP["3AVB"]),
    "higher_degree_block": Finding(
        Meaning((), (c.MOBITZ1, c.MOBITZ2, c.AVB3), irregular=True), denied=(c.MOBITZ1, c.MOBITZ2, c.AVB3)
    ),
    "av_block": Finding(SNOMED["233917008"], denied=(c.AVB1, c.MOBITZ1, c.MOBITZ2, c.AVB3)),
    "av_dissociation": Finding(Meaning((), (c.AVB3, c.VT, c.JUNCTIONAL, c.VR))),
    "normal_pq": Finding(excludes=(c.AVB1,)),
    "short_pq": Finding(Meaning((), (c.WPW, c.DELTA)), excludes=(c.AVB1,), denied=()),
    "conduction_abnormality": Finding(denied=(c.LBBB, c.RBBB, c.IVCD, c.AVB1, c.MOBITZ1, c.MOBITZ2, c.AVB3)),
    "preexcitation": Finding(SCP["WPW"]),
    "delta_wave": Finding(Meaning((c.DELTA,), (c.WPW,))),
    "long_qt": Finding(SCP["LNGQT"]),
    "normal_qt": Finding(excludes=(c.QT,)),
    "normal_intervals": Finding(excludes=(c.AVB1, c.QT, c.LBBB, c.RBBB, c.IVCD)),
    "u_wave": _is(c.U_WAVE),
    # Axis. German types: Linkstyp reaches from about +30 to -30 degrees, of which only the rest is a deviation.
    "left_axis": Finding(SNOMED["39732003"]),
    "left_type": Finding(Meaning((), (c.LAD,)), excludes=(c.RAD, c.SUPERIOR)),
    "right_axis": Finding(SNOMED["47665007"], excludes=(c.LAD,)),
    "far_right_axis": Finding(Meaning((c.RAD,), (c.SUPERIOR, c.LPFB)), excludes=(c.LAD,)),
    "superior_axis": Finding(Meaning((c.SUPERIOR,), (c.RAD,)), excludes=(c.LAD,)),
    "normal_axis": Finding(excludes=_AXES),
    "unclear_axis": Finding(SNOMED["251200008"]),
    "axis_deviation": Finding(Meaning((), _AXES), denied=_AXES),
    # Chambers and voltage.
    "left_ventricular_hypertrophy": Finding(SCP["LVH"]),
    "left_ventricular_voltage": Finding(SCP["VCLVH"]),
    "high_voltage": Finding(SCP["HVOLT"]),
    "left_strain": Finding(Meaning((), (c.LVH,)), denied=()),
    "high_r_avl": _is("RaVL > 11 mm", opens=(c.LVH,)),
    "right_ventricular_hypertrophy": Finding(SCP["RVH"]),
    "right_ventricular_voltage": Finding(Meaning((c.RV_VOLTAGE,), (c.RVH,))),
    "right_strain": Finding(Meaning((), (c.RVH,)), denied=()),
    "biventricular_hypertrophy": _is(c.LVH, c.RVH),
    "ventricular_hypertrophy": Finding(Meaning((), (c.LVH, c.RVH)), denied=(c.LVH, c.RVH)),
    "left_atrial_enlargement": Finding(SCP["LAO/LAE"]),
    "wide_p": Finding(Meaning((), (c.LAE, c.BAE)), denied=()),
    "right_atrial_enlargement": Finding(SCP["RAO/RAE"]),
    "biatrial_enlargement": _is(c.BAE, c.LAE, c.RAE),
    "atrial_enlargement": Finding(SNOMED["195126007"], denied=(c.LAE, c.RAE, c.BAE)),
    "low_voltage": Finding(SCP["LVOLT"]),
    # Infarction.
    "infarction": Finding(
        Meaning((), (c.ACUTE_MI,)), denied=(c.ACUTE_MI,), acute=Meaning((c.ACUTE_MI,)), old=(c.ACUTE_MI,)
    ),
    "acute_infarction": _is(c.ACUTE_MI),
    "ischaemia": Finding(acute=Meaning((), (c.ACUTE_MI,))),
    "injury": Finding(SCP["INJAS"], denied=(c.ACUTE_MI,)),
    # Waves.
    "st_elevation": Finding(change="st_elevation"),
    "st_depression": Finding(change="st_depression"),
    "t_inversion": Finding(change="t_inversion"),
    "q_wave": Finding(change="q_wave"),
    "qs_complex": Finding(change="qs"),
    "tall_r": _is("R/S ratio in V1-V2 >1"),
    "qrs_shape": Finding(change="qrs_shape"),
    "r_wave": Finding(change="r_wave"),
    "negative_qrs_iii": _is("QRS complex negative in III"),
    "st_change": Finding(
        denied=tuple(n for k in ("st_elevation", "st_depression") for n in LABELS_BY_REGION[k].values())
    ),
    "repolarisation": Finding(
        denied=tuple(n for k in ("st_elevation", "st_depression", "t_inversion") for n in LABELS_BY_REGION[k].values())
    ),
    "t_change": Finding(),
    "st_downsloping": _is("ST downslopping"),
    "st_upsloping": _is("ST upslopping"),
    "early_repolarisation": _is(c.EARLY),
    "pericarditis": Finding(Meaning((c.PERICARDITIS,)), old=(c.PERICARDITIS,)),
    "brugada": _is(c.BRUGADA),
    "digitalis": Finding(),
    "misplaced_leads": _is(c.MISPLACED),
    # Neither of these bears on a label; named so that a cue stops at them.
    "r_progression": Finding(),
    "artefact": Finding(),
    "no_report": Finding(),
    "other": Finding(),
}

WITHOUT_PHRASE: Mapping[str, str] = {
    "Monomorph": "rarely written of the QRS complexes themselves; else inferred from sinus rhythm as in the codes",
    "R complex in V5-V6": "a normal appearance, which readers leave unmentioned",
    "qRS in V5-V6-I, aVL": "a normal appearance, which readers leave unmentioned",
    "QRS complex negative in III": "written only as a shorthand of the waves (rS in III)",
    "R/S ratio in V1-V2 >1": "readers name its cause (hypertrophy, posterior infarct), not the ratio",
    "RaVL > 11 mm": "readers name the hypertrophy, not the millimetres",
    "RV1 + SV6 > 11 mm": "readers name the hypertrophy or the Sokolow-Lyon index",
    "QS complex in V1-V2-V3": "readers write the leads, in every combination",
}
"""Labels for which the field has no usual phrase: the literal wording alone is recognised."""
