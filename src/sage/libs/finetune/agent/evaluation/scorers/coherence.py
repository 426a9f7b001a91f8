"""How coherent a chain of reasoning is in itself, without a reference: three parts and their mean.

equations      Of the equations in it, the share that holds when computed again (`equations`). None without equations.
grounded       Of the steps that name values, the share whose every value is known by then. Values are figures, names
               (capitalised words within a sentence) and quoted words. Known is what stands in the prompt, tools'
               observations included, or in an earlier step, what a right equation of the step itself gives, and what
               the words of the prompt imply (a dozen, twice, half, 20% as 0.2, 0.8 and 1.2, the 60 of minutes). The
               final answer counts as a step. None without such steps.
no_repetition  1 minus the largest overlap of a step with an earlier one: shared word trigrams over those of the
               smaller (ROSCOE's Repetition-Step, Golovneva et al., 2023, with trigrams in the place of embeddings).
               None below two steps.

Steps are sentences and lines. `coherence` is the plain mean of the parts that are not None; an answer alone, and
one sentence without an equation, is no chain and has None.

It measures whether a chain computes rightly, uses what it has and moves on. It does not measure whether the chain is
to the point or leads to the right answer: a flawless chain about another question is coherent. A step that nothing
later uses can be missing unseen, and so can the order of steps that do not need one another. Like other measures of
chains it is validated by perturbation (ROSCOE; ReCEval, Prasad et al., 2023): see the tests, which corrupt a number,
delete, shuffle and repeat steps of 240 generated chains and state in what share of them the figure falls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from sage.libs.finetune.agent.evaluation.scorers.equations import find_equations, numbers_in, plain_arithmetic
from sage.libs.finetune.agent.evaluation.scorers.number_text import plain_text

MAX_STEPS = 200
"""Steps looked at; a reply of more is judged by its first ones, since repetition compares all with all."""

_STEP = re.compile(r"(?<=[.!?;])\s+|\n+")
_LABEL = re.compile(r"^\s*(?:[-*•>#]+\s+|\(?\d{1,2}[.)]\s+(?=\D)|\**step\s+\d+\s*[:.)-]*\**\s*)+", re.IGNORECASE)
_ANSWER = re.compile(
    r"^\W*(?:####(?!\s*\**step\b)"
    r"|(?:(?:so|thus|therefore|hence),?\s+)?(?:the |my )?(?:final )?answer\**\s*(?:is\b|[:=≡]))",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+")
_NAME = re.compile(r"(?<=[^.!?:;\"“\s] )[A-Z][^\W\d_]+")
_ANSWER_NAME = re.compile(r"\b[A-Z][^\W\d_]+")
_QUOTED = re.compile(r"[\"“`]([^\"“”`\n]{1,60})[\"”`]")
_PERCENT = re.compile(r"(?<!\d)(\d{1,12}(?:\.\d{1,12})?)\s?(?:%|percent|per cent)")
_NO_NAMES = frozenset(
    "i a an the and or but so then if it he she they we you his her their this that these those there step yes no true "
    "false none not answer finally therefore thus hence total option choice since because first next now".split()
)
_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split()
)
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_IMPLIED: dict[str, tuple[Fraction | int, ...]] = {
    **{word: (number,) for number, word in enumerate(_TO_TWENTY)},
    **{word: (number,) for word, number in _TENS.items()},
    **dict.fromkeys(("half", "halves", "halve", "halved"), (2, Fraction(1, 2))),
    **dict.fromkeys(("twice", "double", "doubles", "doubled", "both", "pair", "pairs", "couple"), (2,)),
    **dict.fromkeys(("triple", "triples", "tripled", "thrice"), (3,)),
    **dict.fromkeys(("third", "thirds"), (3, Fraction(1, 3))),
    **dict.fromkeys(("quarter", "quarters", "fourth"), (4, Fraction(1, 4))),
    **dict.fromkeys(("fifth", "fifths"), (5, Fraction(1, 5))),
    **dict.fromkeys(("dozen", "dozens", "year", "years", "month", "months"), (12,)),
    **dict.fromkeys(("hundred", "percent", "cent", "cents", "percentage"), (100,)),
    **dict.fromkeys(("thousand", "kilometres", "kilometers", "kg", "km", "kilograms"), (1000,)),
    **dict.fromkeys(("hour", "hours", "minute", "minutes", "seconds"), (60,)),
    **dict.fromkeys(("week", "weeks"), (7,)),
    **dict.fromkeys(("day", "days"), (24, 7)),
}  # fmt: skip
_ALWAYS: frozenset[Fraction | int] = frozenset({0, 1})


def coherence(reasoning: str, context: str) -> dict[str, Any]:
    """The figures of one chain.

    Args:
        reasoning: What the model wrote: thought and answer, without calls and stop tokens.
        context: What it was told: all messages of the prompt, observations included.

    Returns:
        `coherence`, and its parts `equations`, `grounded` and `no_repetition`, each 0 to 1 or None; `steps` (the final
        answer not counted), `equations_right`, `equations_found`, and `ungrounded`, the values from nowhere (first 5).

    Example:
        >>> told = "Ida has 3 bags of 4 plums and eats 5."
        >>> coherence("3 bags hold 3 * 4 = 12 plums. Without 5 of them 12 - 5 = 7. Answer: 7", told)["coherence"]
        1.0
        >>> coherence("She eats 5. That leaves 9. Answer: 9", told)["ungrounded"]
        ['9']
    """
    steps, answers = split_steps(_plain(reasoning))
    equations: list[bool] = []
    known = _Known(context)
    grounded: list[bool] = []
    missing: list[str] = []
    if len(steps) + len(answers) < 2 and not find_equations("".join(steps)):
        steps, answers = [], []  # an answer alone
    for step in steps + answers if steps else []:
        values = known.missing(step, equations)
        if values is not None:
            grounded.append(not values)
            missing += values
    parts = {
        "equations": sum(equations) / len(equations) if equations else None,
        "grounded": sum(grounded) / len(grounded) if grounded else None,
        "no_repetition": 1 - _repetition(steps) if len(steps) > 1 else None,
    }
    figures = [figure for figure in parts.values() if figure is not None]
    return {
        "coherence": sum(figures) / len(figures) if figures else None,
        **parts,
        "steps": len(steps),
        "equations_right": sum(equations),
        "equations_found": len(equations),
        "ungrounded": missing[:5],
    }


def split_steps(reasoning: str) -> tuple[list[str], list[str]]:
    r"""The steps of a chain, without bullets and numbering, and the sentences that give the final answer.

    Example:
        >>> split_steps("1. Add 3 and 4.\n2. Double it. It is 14.\nAnswer: 14")
        (['Add 3 and 4.', 'Double it.', 'It is 14.'], ['Answer: 14'])
    """
    steps: list[str] = []
    answers: list[str] = []
    for line in reasoning.split("\n"):
        for part in _STEP.split(line if _ANSWER.match(line) else _LABEL.sub("", line)):
            if _WORD.search(part):
                (answers if _ANSWER.match(part) else steps).append(part.strip())
        if len(steps) > MAX_STEPS:
            break
    return steps[:MAX_STEPS], answers[:MAX_STEPS]


class _Known:
    """What a chain may use so far: figures and words."""

    def __init__(self, context: str) -> None:
        text = _plain(context)
        self._words = set(_WORD.findall(text.lower()))
        self._figures: set[Fraction | int] = {*_ALWAYS, *numbers_in(text)}
        for word in self._words & _IMPLIED.keys():
            self._figures.update(_IMPLIED[word])
        for figure in _PERCENT.findall(text):
            share = Fraction(figure) / 100
            self._figures.update((share, 1 - share, 1 + share, 100, 100 - share * 100, 100 + share * 100))

    def missing(self, text: str, equations: list[bool]) -> list[str] | None:
        """The values of a step that are not known yet, None when it has no values at all; from now on they are known.

        The step is as `_plain` gives it. Its equations are appended to `equations`, each as whether it is right.
        """
        figures = numbers_in(text)
        results: set[Fraction | int] = set()
        for equation in find_equations(text):
            equations.append(equation.right)
            if equation.right:
                results.update(numbers_in(text[equation.split : equation.end]))
        words = set(_WORD.findall(text.lower()))
        names = [name for name in _names(text) if name.lower() not in _NO_NAMES]
        values = [str(float(figure)).removesuffix(".0") for figure in figures if figure not in self._figures | results]
        values += [name for name in names if name.lower() not in self._words]
        self._figures |= {*figures, *results}
        for word in words & _IMPLIED.keys():
            self._figures.update(_IMPLIED[word])
        self._words |= words
        return list(dict.fromkeys(values)) if figures or names else None


def _plain(text: str) -> str:
    return plain_arithmetic(plain_text(text))


def _names(step: str) -> list[str]:
    """The capitalised words but the first of a sentence, and the words in quotes."""
    answer = _ANSWER.match(step)
    names = _ANSWER_NAME.findall(step, answer.end()) if answer else _NAME.findall(step)
    if '"' in step or "“" in step or "`" in step:
        names += [word for quoted in _QUOTED.findall(step) for word in _WORD.findall(quoted) if not word.isdecimal()]
    return names


def _repetition(steps: Sequence[str]) -> float:
    """The largest share of trigrams that a step has in common with an earlier one."""
    seen: list[frozenset[Any]] = []
    largest = 0.0
    for step in steps:
        words = ["", *_WORD.findall(step.lower()), ""]
        grams = frozenset(zip(words, words[1:], words[2:], strict=False))
        if grams in seen:
            return 1.0
        for earlier in seen:
            shared = len(grams & earlier)
            if shared:
                largest = max(largest, shared / min(len(grams), len(earlier)))
        seen.append(grams)
    return largest
