"""DeepECG Bedside: the edge daemon. Advisory software, not a medical device and never the primary alarm."""

__version__ = "0.2.0"
