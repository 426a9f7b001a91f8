r"""The final answer of a chain of reasoning: found in a reply, and compared with what is right.

A reply marks its answer in one of these ways, and the last mark in it counts, since that is what it settled on:

    #### 72            as GSM8K does (Cobbe et al., 2021)
    \boxed{72}         as MATH does (Hendrycks et al., 2021)
    Answer: 72         on a line of its own, also `**Final answer:** 72`
    the answer is 72   in running text; of a choice also `the correct option is B`

Without a mark a number is the last one in the reply, text is the last line, and a choice is
named in the last line or else in the first. What was found is compared by kind:

number    Exactly, as fractions (`number_text`): 1,000 is 1000, 1/2 is 0.5, 25 is not 5. Units behind the number do not
          count. `3 + 4 = 7` gives 7. Two different numbers offered as the answer (`5 or 6`, `5-6`) are no answer.
text      Exact match after normalising (`text_overlap`) with any of the acceptable answers; of a yes-or-no question the
          first word counts.
choice    The letter, standing alone (`B`, `(b)`, `B.`, `option B`), or the words of the choice. Two different letters
          offered are no answer, except that `B, not A` is B.
auto      choice where the item has choices, number where every acceptable answer is one, else text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sage.libs.finetune.agent.answers import same_answer
from sage.libs.finetune.agent.evaluation.scorers.number_text import (
    Number,
    find_numbers,
    plain_text,
    read_number,
    same_number,
)
from sage.libs.finetune.agent.evaluation.scorers.text_overlap import exact_match, f1_score, normalize_answer

KINDS = ("number", "text", "choice", "auto")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_MARK = re.compile(
    r"(?P<gsm>####)|(?P<box>\\f?boxed\s*\{)"
    r"|\b(?:(?:correct|right|best) (?:option|choice)|answer)\**\s*(?:(?:is|was|would be|must be)\b|[:=：])"
    r"(?!\s*(?:not|n't)\b)\s*[:*]*",
    re.IGNORECASE,
)
_WRAPPING = " \t\r\n*_`\"'“”‘’$"
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")
_ANOTHER = re.compile(r"(?:\s[a-zA-Z°]+){0,2}\s*(?:\b(?:or|and)\b|[,;/])\s*(?:(?:or|and)\s+)?\Z|[-:^]\Z|\s*\bto\s+\Z")
_NEGATED = re.compile(r"\b(?:not|n't|never|rather than|instead of)\s+(?:option |choice )?\(?[A-Z]\b\)?", re.IGNORECASE)
_NAMING = re.compile(r"^\s*(?:(?:option|choice|answer)\s+)+", re.IGNORECASE)
_NO_WORD = r"(?!(?<=[AI])\s+(?!or\b|and\b|is\b)[a-z])"  # `A man` and `I think` name no choice
_TRUTH = {"yes": "yes", "no": "no", "true": "yes", "false": "no"}


@dataclass(frozen=True)
class GoldAnswer:
    """What is right.

    Attributes:
        kind: number, text or choice.
        accepted: The acceptable answers as text; of a choice its label.
        numbers: The same as numbers, when kind is number.
        choices: Label -> words of the choice, empty where they are not known; when kind is choice.
    """

    kind: str
    accepted: tuple[str, ...]
    numbers: tuple[Number, ...] = ()
    choices: Mapping[str, str] | None = None


@dataclass(frozen=True)
class FoundAnswer:
    """The final answer of a reply.

    Attributes:
        text: The answer, None when there is none.
        why: How it was found, or why there is none.
        right: Whether it is the true one.
        f1: Overlap with the closest acceptable answer, for text; else 1 or 0 as `right`.
    """

    text: str | None
    why: str
    right: bool = False
    f1: float = 0.0


def marked_answer(reply: str) -> str | None:
    r"""What follows the last mark of a final answer, up to the end of the line; None when nothing is marked.

    Example:
        >>> marked_answer("3 + 4 = 7\n#### 7"), marked_answer(r"So \boxed{\frac{1}{2}}."), marked_answer("7")
        ('7', '\\frac{1}{2}', None)
    """
    for mark in reversed(list(_MARK.finditer(reply))):
        rest = reply[mark.end() :]
        answer = _braced(rest) if mark["box"] else rest.lstrip(_WRAPPING).partition("\n")[0]
        if answer.strip(_WRAPPING):
            return answer.strip()
    return None


def find_answer(reply: str, gold: GoldAnswer, *, marked_only: bool = False) -> FoundAnswer:
    """The final answer of a reply, and whether it is right.

    Args:
        reply: The words of the reply, without calls and thoughts.
        gold: What is right.
        marked_only: Take an answer only where the reply marks one.

    Example:
        >>> gold = GoldAnswer("number", ("1000",), (read_number("1000"),))
        >>> find_answer("That makes $1,000.", gold)
        FoundAnswer(text='1,000', why='right number', right=True, f1=1.0)
    """
    marked = marked_answer(reply)
    if marked is None and (marked_only or not reply.strip()):
        return FoundAnswer(None, "no answer found")
    if gold.kind == "number":
        return _number_answer(reply, marked, gold)
    lines = [line for line in reply.split("\n") if line.strip()]
    answer = (lines[-1] if marked is None else marked).strip(_WRAPPING)
    if gold.kind == "text":
        return _text_answer(answer, gold)
    found = _choice_answer(answer, gold)
    return found if marked is not None or found.text is not None else _choice_answer(lines[0].strip(_WRAPPING), gold)


def _number_answer(reply: str, marked: str | None, gold: GoldAnswer) -> FoundAnswer:
    text = plain_text(reply if marked is None else marked)
    if marked is not None and "=" in text and find_numbers(text.rpartition("=")[2]):
        text = text.rpartition("=")[2]
    numbers = find_numbers(text)
    if not numbers:
        return FoundAnswer(None, "no number found")
    number = numbers[-1]
    if marked is not None:
        number = numbers[0]
        for other in numbers[1:2]:
            if other.value != number.value and _ANOTHER.match(text, number.end, other.start):
                return FoundAnswer(marked, "several numbers")
    right = any(same_number(number, true) for true in gold.numbers)
    written = text[number.start : number.end].strip(" $€£¥")
    return FoundAnswer(written, "right number" if right else "another number", right, float(right))


def _text_answer(answer: str, gold: GoldAnswer) -> FoundAnswer:
    answer = plain_text(answer) if "\\" in answer else answer
    tried = [answer, _SENTENCE_END.split(answer)[0]]
    words = normalize_answer(answer).split()
    if words and words[0] in _TRUTH and all(normalize_answer(true) in _TRUTH for true in gold.accepted):
        tried.append(words[0])
    for text in tried:
        if any(_same_text(text, true) for true in gold.accepted):
            return FoundAnswer(text, "right answer", True, 1.0)
    return FoundAnswer(answer, "another answer", False, max(f1_score(answer, true) for true in gold.accepted))


def _same_text(answer: str, true: str) -> bool:
    """Signs alone (`+`, `{}`) are nothing once normalised; they are compared as they stand."""
    return exact_match(answer, true) if normalize_answer(true) else same_answer(answer, true)


def _choice_answer(answer: str, gold: GoldAnswer) -> FoundAnswer:
    labels = chosen_labels(answer, gold.choices or dict.fromkeys(LETTERS[:10], ""))
    if len(labels) != 1:
        return FoundAnswer(answer, "several choices") if labels else FoundAnswer(None, "no choice found")
    right = labels[0] in gold.accepted
    return FoundAnswer(labels[0], "right choice" if right else "another choice", right, float(right))


def chosen_labels(answer: str, choices: Mapping[str, str]) -> list[str]:
    """The labels of the choices that an answer names.

    Args:
        answer: The answer, not the whole reply.
        choices: Label -> words of the choice.

    Example:
        >>> choices = {"A": "Paris", "B": "Rome"}
        >>> [chosen_labels(text, choices) for text in ("(b)", "B. Rome", "Rome.", "A or B", "A man", "B, not A")]
        [['B'], ['B'], ['B'], ['A', 'B'], [], ['B']]
    """
    bare = _NAMING.sub("", answer).strip(_WRAPPING + "()[].,:;!")
    whole = normalize_answer(bare)
    by_label = [label for label in choices if bare.casefold() == label.casefold()]
    by_words = [label for label, words in choices.items() if whole and whole == normalize_answer(words)]
    if by_label or by_words:
        return by_label or by_words
    names = "|".join(sorted(map(re.escape, choices), key=len, reverse=True))
    leading = re.match(rf"\(?({names})(?:\)|[.:](?=\s|\Z)|\s-\s|,?\s(?:because|since|as|is)\b)", answer, re.IGNORECASE)
    if leading:
        return [_label(leading[1], choices)]
    alone = rf"(?<![\w'’.-])({names})(?![\w'’-]){_NO_WORD}|\(({names})\)|(?:option|choice|answer)\s+({names})\b"
    found = {_label("".join(names), choices) for names in re.findall(alone, _NEGATED.sub(" ", answer))}
    return sorted(found) or _named(answer, choices)


def _label(text: str, choices: Mapping[str, str]) -> str:
    return text if text in choices else next(label for label in choices if label.casefold() == text.casefold())


def _named(text: str, choices: Mapping[str, str]) -> list[str]:
    """The choices whose words stand in the text; longest first, so that York is not found in New York."""
    rest = f" {normalize_answer(text)} "
    found = []
    for label, words in sorted(choices.items(), key=lambda choice: -len(choice[1])):
        wanted = f" {normalize_answer(words)} "
        if wanted.strip() and wanted in rest:
            found.append(label)
            rest = rest.replace(wanted, " | ")
    return sorted(found)


def _braced(text: str) -> str:
    """What stands before the brace that closes the one already open; up to the end where none does."""
    depth = 1
    for position, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return text[:position]
    return text


def number_of(answer: object) -> Number | None:
    """The number that an acceptable answer is, None when it is none; a unit behind it is not allowed.

    Example:
        >>> number_of(0.5).value, number_of("12 apples")
        (Fraction(1, 2), None)
    """
    if isinstance(answer, bool) or not isinstance(answer, int | float | str):
        return None
    return read_number(answer if isinstance(answer, str) else repr(answer))


def gold_answer(answer: object, kind: str, choices: object) -> GoldAnswer:
    """What is right, from the `gold` of an item.

    Args:
        answer: Text, number, true or false, or a list of acceptable ones; of a choice its label or its words.
        kind: One of `KINDS`.
        choices: Label -> words, or a list of words that get the labels A, B ...; None without.

    Raises:
        ValueError: saying which field is wrong and what was expected.

    Example:
        >>> gold_answer("Rome", "auto", ["Paris", "Rome"]).accepted
        ('B',)
    """
    answers = list(answer) if isinstance(answer, list | tuple) else [answer]
    if not answers or not all(isinstance(one, str | int | float) for one in answers):
        raise ValueError(f"gold.answer: expected text, a number or a list of them, found {answer!r:.60}")
    if not any(str(one).strip() for one in answers) or any(one != one for one in answers):
        raise ValueError(f"gold.answer: {answer!r:.60} is no answer; leave out rows without one")
    if kind not in KINDS:
        raise ValueError(f"gold.kind: expected one of {', '.join(KINDS)}, found {kind!r:.60}")
    if kind == "choice" or (kind == "auto" and choices is not None):
        known = labelled(choices)
        labels = [_gold_label(one, known) for one in answers]
        return GoldAnswer("choice", tuple(labels), choices=known or None)
    numbers = [number_of(one) for one in answers]
    if kind == "number" and None in numbers:
        raise ValueError(f"gold.answer: expected a number, found {answers[numbers.index(None)]!r:.60}")
    if kind != "text" and None not in numbers:
        return GoldAnswer("number", tuple(map(str, answers)), tuple(number for number in numbers if number))
    texts = [{True: "yes", False: "no"}[one] if isinstance(one, bool) else str(one) for one in answers]
    meant = {_TRUTH[one.lower()] for one in texts if one.lower() in _TRUTH}
    return GoldAnswer("text", (*texts, *(word for word in _TRUTH if _TRUTH[word] in meant and word not in texts)))


def labelled(choices: object) -> dict[str, str]:
    """Choices as label -> words.

    Raises:
        ValueError: saying what was expected.
    """
    if choices is None:
        return {}
    if isinstance(choices, Mapping) and choices and all(isinstance(words, str) for words in choices.values()):
        return {str(label): str(words) for label, words in choices.items()}
    if isinstance(choices, Sequence) and not isinstance(choices, str) and 0 < len(choices) <= len(LETTERS):
        return {LETTERS[index]: str(words) for index, words in enumerate(choices)}
    raise ValueError(f"gold.choices: expected label -> words, or a list of words, found {choices!r:.60}")


def _gold_label(answer: object, choices: Mapping[str, str]) -> str:
    text = str(answer).strip()
    if not choices:
        if len(text) == 1 and text.upper() in LETTERS:
            return text.upper()
        raise ValueError(f"gold.answer: expected a letter, as there are no choices, found {answer!r:.60}")
    for label in choices:
        if text.casefold() == label.casefold():
            return label
    for label, words in choices.items():
        if normalize_answer(text) == normalize_answer(words):
            return label
    raise ValueError(f"gold.answer: {answer!r:.60} is none of the choices {', '.join(choices)}")
