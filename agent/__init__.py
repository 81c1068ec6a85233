"""DeepECG Bedside: the edge daemon. Advisory software, not a medical device and never the primary alarm."""

__version__ = "0.1.0"
