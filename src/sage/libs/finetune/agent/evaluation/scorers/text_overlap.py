"""Exact match and F1 of short answers, as SQuAD, HotpotQA and FireAct count them.

Both sides are normalised first (Rajpurkar et al., 2016): lower case, no punctuation, no articles, single blanks. F1 is
that of the two bags of words. HotpotQA (Yang et al., 2018), and with it FireAct (Chen et al., 2023), adds a rule: when
one side is yes, no or noanswer and the other side is not the same, F1 is 0, whatever words they share.

Where we differ: two sides of which nothing is left after normalising are the same (F1 1, as in SQuAD 2.0; HotpotQA's
rule gives exact match 1 and F1 0). A prediction that is missing (None) is a failure, also against an empty gold.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from sage.libs.finetune.agent.answers import answer_text

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_CLOSED = frozenset({"yes", "no", "noanswer"})


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation (ASCII) and articles, single blanks.

    Example:
        >>> normalize_answer("The  Rhine, a river!")
        'rhine river'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: object, gold: object) -> bool:
    """Whether both are the same once normalised.

    Args:
        prediction: Text; None is a missing one and matches nothing, any other value is compared as JSON.
        gold: The true answer.

    Example:
        >>> exact_match("the Rhine.", "Rhine"), exact_match(None, ""), exact_match(1969, "1969")
        (True, False, True)
    """
    return prediction is not None and normalize_answer(answer_text(prediction)) == normalize_answer(answer_text(gold))


def f1_score(prediction: object, gold: object) -> float:
    """Harmonic mean of the shares of words that the two have in common; 0 to 1.

    Args:
        prediction: As for `exact_match`.
        gold: The true answer.

    Example:
        >>> f1_score("Paris in France", "Paris"), f1_score("yes it is", "yes")
        (0.5, 0.0)
    """
    if prediction is None:
        return 0.0
    one, other = normalize_answer(answer_text(prediction)), normalize_answer(answer_text(gold))
    if one == other:
        return 1.0
    if one in _CLOSED or other in _CLOSED:
        return 0.0
    words, true_words = one.split(), other.split()
    shared = sum((Counter(words) & Counter(true_words)).values())
    return 2 * shared / (len(words) + len(true_words)) if shared else 0.0


def answer_metrics(predictions: Sequence[object], golds: Sequence[object]) -> dict[str, float]:
    """Mean exact match and mean F1 over a test set.

    Args:
        predictions: One per question, None where there is none: that one failed.
        golds: The true answers in the same order; for a missing prediction anything.

    Returns:
        `em` and `f1`, 0 to 1, and `n`, how many questions there were.

    Raises:
        ValueError: when the two differ in length, or are empty.

    Example:
        A file of episodes by index, of which some are missing:

        >>> episodes = {"0": {"pred": "Rhine", "gt": "the Rhine"}, "2": {"pred": None, "gt": "Elbe"}}
        >>> rows = [episodes.get(str(index), {}) for index in range(4)]
        >>> answer_metrics([row.get("pred") for row in rows], [row.get("gt") for row in rows])
        {'em': 0.25, 'f1': 0.25, 'n': 4}
    """
    if not golds:
        raise ValueError("there are no answers to compare; give at least one")
    pairs = list(zip(predictions, golds, strict=True))
    return {
        "em": fmean(exact_match(prediction, gold) for prediction, gold in pairs),
        "f1": fmean(f1_score(prediction, gold) for prediction, gold in pairs),
        "n": len(pairs),
    }
