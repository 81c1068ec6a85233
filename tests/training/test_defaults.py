"""The defaults that stand beside the code that they are of are that code's."""

from __future__ import annotations

from agent.core.preprocessing import Preprocessing
from training import defaults
from training.data.readers import FORMATS
from training.labels.lexicon import lexicon


def test_copies_are_those_of_their_homes() -> None:
    assert tuple(FORMATS) == defaults.FORMATS
    standard = Preprocessing()
    copied = (defaults.RATE, defaults.SECONDS, defaults.HIGHPASS, defaults.NOTCHES)
    assert copied == (standard.rate, standard.seconds, standard.highpass, standard.notches)


def test_each_language_has_its_dictionary() -> None:
    for language in defaults.LANGUAGES:
        assert lexicon(language)
