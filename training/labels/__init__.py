"""Labels from reports, and the published numbers about labels.

The public interface::

    from training.labels import labels_of_report, mentions

    labels_of_report("Vorhofflimmern, kein Hinweis auf Linkshypertrophie.")   # (77,) int8: 1 said, 0 denied, -1 unknown
    mentions(text)                       # what was read where: finding, labels, span, language, status, phrase, cues

    from training.labels.classifier import ReportClassifier       # the transformer: published or trained here
    from training.models.published import ssl_to_sl, thresholds_sl, thresholds_ssl, bert_thresholds
"""

from training.labels.dictionary import labels_of_mentions, labels_of_report, mentions
from training.labels.scope import Mention

__all__ = ["Mention", "labels_of_mentions", "labels_of_report", "mentions"]
