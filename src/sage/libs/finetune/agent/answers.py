"""The final answer of an episode: how it is written into a reply, read out of one, and compared.

A reply that thinks before it answers ends in a line `Answer: ...`; a reply without that line is the answer as a whole.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal

_MARK = re.compile(r"^Answer:[ \t]*", re.MULTILINE)
_NUMBER = re.compile(r"[+-]?([0-9]{1,3}(,[0-9]{3})+|[0-9]+)?(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")


def join_answer(thought: str, answer: str) -> str:
    r"""The reply that gives `answer` after `thought`; `split_answer` reads it back.

    Example:
        >>> join_answer("2 + 2 is 4.", "4")
        '2 + 2 is 4.\nAnswer: 4'
        >>> join_answer("", "4")
        '4'
    """
    return f"{thought}\nAnswer: {answer}" if thought else answer


def split_answer(content: str) -> str:
    r"""The answer in a reply: what follows the last `Answer:` at the start of a line, else the whole reply, stripped.

    Example:
        >>> split_answer("Two pairs make four.\nAnswer: 4")
        '4'
        >>> split_answer(" 4 ")
        '4'
    """
    return _MARK.split(content)[-1].strip()


def split_thought(content: str) -> tuple[str, str]:
    r"""What comes before the last `Answer:` line, and the answer; `join_answer` is the inverse.

    Example:
        >>> split_thought("Two pairs make four.\nAnswer: 4"), split_thought("4")
        (('Two pairs make four.', '4'), ('', '4'))
    """
    marks = list(_MARK.finditer(content))
    if not marks:
        return "", content.strip()
    return content[: marks[-1].start()].strip(), content[marks[-1].end() :].strip()


def answer_text(value: object) -> str:
    """An answer as text: text as it is, every other value as JSON.

    Example:
        >>> answer_text(4), answer_text(["a", 1])
        ('4', '["a", 1]')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def same_answer(one: object, other: object) -> bool:
    """Whether two answers agree: as numbers when both are, else as text without case, extra space and a final stop.

    Example:
        >>> same_answer("1,200.0", 1200), same_answer("The  Hague.", "the hague"), same_answer("25", "5")
        (True, True, False)
    """
    texts = [" ".join(answer_text(value).casefold().split()).rstrip(".").strip() for value in (one, other)]
    numbers = [Decimal(text.replace(",", "")) for text in texts if _is_number(text)]
    return numbers[0] == numbers[1] if len(numbers) == 2 else texts[0] == texts[1]


def _is_number(text: str) -> bool:
    match = _NUMBER.fullmatch(text)
    return match is not None and bool(match[1] or match[3])
