r"""Equations in running text, computed again: `3 bags × 4 apples = 12 apples` is right, `3 × 4 = 13` is not.

Read are numbers with currencies and units, + - * / × ÷ x · ^, parentheses, the words plus, minus, times, divided by and
per cent of, GSM8K's `<<3*4=12>>`, and chains `3 × 4 + 1 = 12 + 1 = 13`, of which every neighbouring pair is an
equation. `is`, `equals`, `makes`, `gives` and `leaves` count as = after a computation. What holds a
variable, or no operation at all (`x = 5`, `12 = 12`), is no equation: nothing about it can be computed.

Values are exact. After a division, and with ≈, the right side may be rounded to the decimals that it shows (10 / 3 =
3.33); a division that does not come out even must show one at least.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_FIGURE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(_FIGURE)
_UNIT = r"(?>\s?[a-zA-Z]{2,12}(?![a-zA-Z])\.?|[mghslkL](?![a-zA-Z]))(?>\s[a-zA-Z]{2,12}(?![a-zA-Z]))?"
_OPERAND = rf"(?>(?:\(\s?){{0,4}}-?(?:\(\s?){{0,4}}(?:[$€£]\s?)?{_FIGURE}%?\$?(?:{_UNIT})?(?:\s?\)){{0,8}})"
_SIDE = rf"(?>{_OPERAND}(?:\s?[-+*/^]\s?{_OPERAND}){{0,15}})"
_EQUATION = re.compile(
    rf"(?<![\w.,]){_SIDE}(?:\s?[=≈≡]\s?{_SIDE}){{1,15}}(?![\w%]|[.,]\d|\s?[*/^+]|\s-\s[a-zA-Z]\b|\s?\()"
)
_TOKEN = re.compile(rf"{_FIGURE}|[-+*/^()%]")
_MARK = re.compile(r"[=≈≡]")
_OPERATOR_BEFORE = re.compile(r"[-+*/^]\s?\Z")

_ANNOTATION = re.compile(r"<<[^<>]*>>")
_SIGNS = str.maketrans("×·⋅∗÷−–≃∼≡", "****/--≈≈=")
_LETTER_X = re.compile(r"(?<=[\d)\s])[xX](?=\s?[$€£]?\s?[\d(])")
_OF = re.compile(r"(%|\d ?/ ?\d+) +of +(?=[$€£]?\d)")
_WORDS = re.compile(
    r" (?:(plus)|(minus)|(times|multiplied by)|(divided by|over)|(is|are|equals|makes|gives|leaves)) +(?=[$€£(-]?\d)"
)
_WORD_SIGNS = (" + ", " - ", " * ", " / ", " ≡ ")  # the last: a verb that may stand for =
_LONGEST, _DEEPEST, _LARGEST_POWER = 40, 20, 64


class Equation(NamedTuple):
    """One equation of a text.

    Attributes:
        text: As it was read.
        right: Whether both sides have the same value.
        start: Where its left side begins in the text that was searched.
        split: Where its left side ends.
        end: Where its right side ends.
    """

    text: str
    right: bool
    start: int
    split: int
    end: int


def plain_arithmetic(text: str) -> str:
    """The text with every way to write an operation in one form; `find_equations` wants it so.

    Example:
        >>> plain_arithmetic("3 × 4 is 12, 10% of 50 = 5, 2 times 3<<2*3=6>> = 6")
        '3 * 4 ≡ 12, 10% * 50 = 5, 2 * 3 = 6'
    """
    text = _LETTER_X.sub("*", _ANNOTATION.sub("", text).translate(_SIGNS).replace("**", "^"))
    return _WORDS.sub(lambda match: _WORD_SIGNS[(match.lastindex or 1) - 1], _OF.sub(r"\1 * ", text))


def find_equations(text: str) -> list[Equation]:
    """The equations of a text of `plain_arithmetic`, in order.

    Example:
        >>> [(one.text, one.right) for one in find_equations("So 3 bags * 4 = 12 + 1 = 14, and 2 + x = 5.")]
        [('3 bags * 4 = 12 + 1', False), ('12 + 1 = 14', False)]
    """
    if not _MARK.search(text):
        return []
    equations = []
    for match in _EQUATION.finditer(text):
        marks = [mark.start() for mark in _MARK.finditer(text, match.start(), match.end())]
        begins = [match.start(), *(mark + 1 for mark in marks)]
        ends = [*marks, match.end()]
        sides = [_balanced(_TOKEN.findall(text, begin, end)) for begin, end in zip(begins, ends, strict=True)]
        for index, mark in enumerate(marks):
            if index == 0 and _OPERATOR_BEFORE.search(text, max(0, match.start() - 2), match.start()):
                continue  # `x + 3 = 10`: more stands on the left than was read
            if text[mark] == "≡" and not _computes(sides[index]):
                continue  # `39 less leaves 56 - 39` is no equation
            right = _same(sides[index], sides[index + 1], approximate=text[mark] == "≈")
            if right is not None:
                start, end = begins[index], ends[index + 1]
                equations.append(Equation(text[start:end].strip(), right, start, mark, end))
    return equations


def numbers_in(text: str) -> list[Fraction | int]:
    """The values of all figures of a text, without signs.

    Example:
        >>> numbers_in("1,000 at $2.50 each")
        [1000, Fraction(5, 2)]
    """
    return [_value(figure) for figure in _NUMBER.findall(text) if len(figure) <= _LONGEST]


def _balanced(side: list[str]) -> list[str]:
    """Without the parentheses that belong to the sentence, as in `(3 + 4 = 7)`."""
    surplus = side.count("(") - side.count(")")
    while surplus > 0 and side[0] == "(":
        side, surplus = side[1:], surplus - 1
    while surplus < 0 and side[-1] == ")":
        side, surplus = side[:-1], surplus + 1
    return side


def _same(left: list[str], right: list[str], *, approximate: bool) -> bool | None:
    """Whether both sides have the same value; None where there is nothing to compute, or it cannot be."""
    if not _computes(left) and not _computes(right):
        return None
    one, other = value_of(left), value_of(right)
    if one is None or other is None:
        return None
    if one == other or (right[-1] == "%" and len(right) == 2 and one == other * 100):
        return True
    if len(right) > 2 or not (approximate or "/" in left):
        return False
    decimals = len(right[-1].partition(".")[2])
    return (approximate or decimals > 0) and abs(Fraction(one) - other) * 2 * 10**decimals <= 1


def _computes(side: list[str]) -> bool:
    return any(token in "+-*/^" for token in side[1:])


def value_of(tokens: list[str]) -> Fraction | int | None:
    """The value of an expression; None for a malformed one, a division by zero, or more than a number can hold here."""
    if any(len(token) > _LONGEST for token in tokens):
        return None
    try:
        value, position = _sum(tokens, 0, 0)
    except (_Malformed, IndexError, ZeroDivisionError):
        return None
    return value if position == len(tokens) else None


class _Malformed(Exception):
    """The tokens are no expression."""


def _sum(tokens: list[str], position: int, depth: int) -> tuple[Fraction | int, int]:
    value, position = _product(tokens, position, depth)
    while position < len(tokens) and tokens[position] in "+-":
        other, end = _product(tokens, position + 1, depth)
        value = value + other if tokens[position] == "+" else value - other
        position = end
    return value, position


def _product(tokens: list[str], position: int, depth: int) -> tuple[Fraction | int, int]:
    value, position = _factor(tokens, position, depth)
    while position < len(tokens) and tokens[position] in "*/":
        other, end = _factor(tokens, position + 1, depth)
        value = value * other if tokens[position] == "*" else _quotient(value, other)
        position = end
    return value, position


def _factor(tokens: list[str], position: int, depth: int) -> tuple[Fraction | int, int]:
    """A number or a sum in parentheses, with its sign, its per cent sign and its power."""
    if depth > _DEEPEST:
        raise _Malformed
    token = tokens[position]
    if token == "-":
        value, position = _factor(tokens, position + 1, depth + 1)
        return -value, position
    if token == "(":
        value, position = _sum(tokens, position + 1, depth + 1)
        if tokens[position] != ")":
            raise _Malformed
    elif token[0] in "+*/^)%":
        raise _Malformed
    else:
        value = _value(token)
    position += 1
    if tokens[position : position + 1] == ["%"]:
        value, position = _quotient(value, 100), position + 1
    if tokens[position : position + 1] == ["^"]:
        power, position = _factor(tokens, position + 1, depth + 1)
        if power != int(power) or abs(int(power)) > _LARGEST_POWER or abs(Fraction(value)) > 10**_LONGEST:
            raise _Malformed
        value = Fraction(value) ** int(power)
    return value, position


def _quotient(value: Fraction | int, by: Fraction | int) -> Fraction | int:
    if isinstance(value, int) and isinstance(by, int) and by and value % by == 0:
        return value // by
    return Fraction(value) / by


@lru_cache(4096)
def _value(figure: str) -> Fraction | int:
    figure = figure.replace(",", "")
    return int(figure) if figure.isdecimal() else Fraction(figure)
