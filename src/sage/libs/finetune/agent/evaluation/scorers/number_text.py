"""Numbers as they stand in text: found, read exactly, compared.

A number may have a sign (also U+2212), thousands (`1,000`, `1 000`, `1'000`), a decimal point, an exponent, a fraction
bar (`1/2`, `2 1/2`), a currency before it and a unit or a per cent sign behind it. Values are exact fractions, so
1/2 is 0.5 and 0.1 + 0.2 is 0.3. "25" and "5" have nothing to do with each other: a number is read as a whole.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

_PLAIN = str.maketrans(
    {
        "−": "-", "–": "-", "﹣": "-", "－": "-", "⁄": "/", "∕": "/", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
        "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "％": "%", "’": "'",
        **{chr(ord("０") + digit): str(digit) for digit in range(10)},
    }
)  # fmt: skip
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}")
_LATEX_POWER = re.compile(r"\s*(?:\\times|×)\s*10\s*\^\s*(?:\{\s*(-?\d{1,3})\s*\}|(-?\d{1,3}))")
_LATEX_SPACE = re.compile(
    r"\\[,;:! ]|\\(?:left|right|displaystyle|quad|circ|degree)(?![a-zA-Z])|(?<=\d)\{,\}(?=\d)|[{}]"
)
_LATEX_WORDS = {"\\times": "×", "\\cdot": "×", "\\div": "÷", "\\approx": "≈", "\\$": "$", "\\%": "%", "\\neq": "≠"}
_LATEX_WORD = re.compile("|".join(re.escape(word) for word in _LATEX_WORDS))
_SPACED_THOUSANDS = re.compile(r"(?<![\w.,])([1-9]\d{0,2}(?: \d{3})+)(?![\d]|[.,]\d| \d)")

_DIGITS = r"(?:\d{1,3}(?:[,']\d{3})+(?!\d)|\d+)"
NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)\]%])[-+])?(?:[$€£¥]\s?)?(?<![\w.])(?P<inner>-)?"
    rf"(?:(?P<whole>\d{{1,9}}) (?=\d{{1,9}}/\d))?"
    rf"(?P<figure>{_DIGITS}(?:\.\d+)?|\.\d+)"
    rf"(?:[eE](?P<power>[-+]?\d{{1,3}})(?![\w.]))?"
    rf"(?:\s?/\s?(?P<below>{_DIGITS}(?:\.\d+)?)(?!\s?/|[\w]))?"
    rf"(?P<percent>\s?%|\s(?:percent|per cent)\b)?"
)
_LONGEST = 400  # digits; more is noise, and reading it takes time


class Number(NamedTuple):
    """A number in a text: its exact value (of `25%` the 25), whether a per cent sign follows, and where it stands."""

    value: Fraction
    percent: bool
    start: int
    end: int


def plain_text(text: str) -> str:
    r"""The text with LaTeX and typographic forms of numbers in their plain forms.

    Example:
        >>> plain_text(r"\frac{1}{2}\text{ m}, −3, 12 000 and 1{,}000")
        '1/2 m, -3, 12000 and 1000'
    """
    text = text.translate(_PLAIN)
    if "\\" in text or "{" in text:
        text = _LATEX_TEXT.sub(r"\1", _LATEX_FRACTION.sub(r" \1/\2", text))
        text = _LATEX_POWER.sub(lambda match: f"e{match[1] or match[2]}", text)
        text = _LATEX_WORD.sub(lambda match: _LATEX_WORDS[match[0]], text)
        text = _LATEX_SPACE.sub("", text)
    return _SPACED_THOUSANDS.sub(lambda match: match[1].replace(" ", ""), text).strip()


def find_numbers(text: str) -> list[Number]:
    """All numbers of a plain text, in order.

    Example:
        >>> [str(number.value) for number in find_numbers("$1,250.50, -3, 1/2 and 2 1/2; x5 is none")]
        ['2501/2', '-3', '1/2', '5/2']
    """
    return [number for match in NUMBER.finditer(text) if (number := _read(match)) is not None]


def read_number(text: str) -> Number | None:
    """The number that the text as a whole is, a currency, a sign or a per cent sign and a final stop allowed.

    Example:
        >>> str(read_number("$1,000.").value), read_number("3 apples"), read_number("25%").percent
        ('1000', None, True)
    """
    text = plain_text(text).rstrip(".").strip()
    match = NUMBER.fullmatch(text.rstrip("$€£¥").strip())
    return None if match is None else _read(match)


def same_number(answer: Number, gold: Number) -> bool:
    """Whether an answer is the true number.

    A per cent sign on both sides or on neither: the figures are compared. On one side only, 25% is 0.25, and it is 25
    too where the other side can be taken to have left the sign out: an answer `25` to a gold `25%`, and an answer
    `25%` to a gold above 1. So an answer `0.5%` is not 0.5.

    Example:
        >>> def same(answer, gold): return same_number(read_number(answer), read_number(gold))
        >>> same("25%", "25"), same("25%", "0.25"), same("0.5%", "0.5"), same("0.25", "25")
        (True, True, False, False)
    """
    if answer.percent == gold.percent:
        return answer.value == gold.value
    if answer.percent:
        return answer.value / 100 == gold.value or (abs(gold.value) > 1 and answer.value == gold.value)
    return answer.value in (gold.value, gold.value / 100)


def _read(match: re.Match[str]) -> Number | None:
    if match.end() - match.start() > _LONGEST:
        return None
    figure = match["figure"].replace(",", "").replace("'", "")
    value = Fraction(f"{figure}e{match['power']}" if match["power"] else figure)
    if match["below"]:
        below = Fraction(match["below"].replace(",", "").replace("'", ""))
        if not below:
            return None
        value = value / below + int(match["whole"] or 0)
    negative = (match["sign"] or "").startswith("-") or match["inner"] is not None
    return Number(-value if negative else value, match["percent"] is not None, match.start(), match.end())
