"""The one base class of every error that this project raises for somebody to act on.

An error's text is one sentence that says what is wrong and how to mend it, and holds no patient data. So whoever stands
at a door (a command, a reload, a page) catches `DeepECGError` and shows it as it is; whatever else arrives there is a
fault of ours and keeps its traceback.
"""

from __future__ import annotations


class DeepECGError(Exception):
    """Something that a person can mend; ``str(error)`` is the sentence for them."""
