"""How good a model is, for whom, and at what cost: from plain arrays to a report.

Everything works on `cases.Cases` (probabilities, truth, who and where), so that it serves any model and any data set::

    cases       predictions with the truth; .npz and .csv
    ranking     AUROC and average precision under any weights: the kernel of what follows
    metrics     figures per label, category, severity class and over all
    intervals   resamples of records (the paper's) and of patients (the ordinary bootstrap)
    delong      paired AUROCs of two models; Holm's correction
    thresholds  operating points, chosen on validation data only
    calibration reliability, ECE, Brier decomposition, temperature and Platt scaling
    prevalence  another ward has other priors: correction, estimation, predictive values
    severity    the worst finding of a record: normal, borderline, pathological
    fairness    the same figures by sex, age band and both
    resources   parameters, MACs, latency, memory, energy
    assess      all of it
    study       the result, as one plain value
    plots, report   that value as one HTML file, JSON and a model card

    evidence, alerts   what the shipped bundle stands on: figures over patients, alert rules on continuous recordings

A figure that cannot be estimated is None and has a reason; it is never a number.
"""
