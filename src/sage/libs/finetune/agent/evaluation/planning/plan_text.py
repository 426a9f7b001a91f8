r"""The steps of a plan, read out of a reply.

A reply may hold a plan as tool calls, as JSON (a list of steps, or one object a line) or as lines, the first of these
that is there counts. What stands before a heading "Plan:" or "Answer:" is not read. A line is taken for a step when

- it has a list mark: a number, or a bullet where no line has a number (a bullet below a number explains the step);
- or it begins with the name of an action: `pick-up a`, `pick_up(a)`, `(pick-up a)`, `Then pick up a`;
- or it only looks like a step: `lift(a)`, or a word and then nothing but known things and small words (`lift the a`);
- or, where no line has a list mark, it stands between two steps and is neither a sentence nor in brackets.

A line that ends in a colon is a heading. All other lines are words around the plan and ignored. So a step that names no
action is kept, as a step that cannot be right, and is never skipped quietly. `;` and "then" part steps on a line; what
follows a step after ` # `, ` - ` or in brackets is a remark. Names are compared without case, `_`, `-` and blanks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sage.libs.finetune.agent.answers import answer_text
from sage.libs.finetune.agent.tokenization.parse import parse_reply

_HEADING = re.compile(r"^[#*\t ]*(?:(?:the|my|final)[ \t]+)*(?:plan|answer)[*\t ]*(?::\**|$)", re.I | re.M)
_NUMBER = re.compile(r"(?:step ?)?\(?\d+(?:\.\d+)* ?[.):](?=\D|$)|step \d+\b", re.I)
_BULLET = re.compile(r"(?:[-+•]|\*(?!\*)) ")
_DECORATION = " *_`>#"
_PARTING = re.compile(r";|,? (?:and )?then ", re.I)
_REMARK = re.compile(r" (?:#|//|--? |–|—|\().*")
_NOTATION = re.compile(r"(?P<name>[\w-]+)? ?\((?P<inner>[^()]*)\)")
_CALL = re.compile(r"[\w-]+\([^()]*\)")
_SEVERAL = re.compile(r"(?:(?:[\w-]+ ?)?\([^()]*\)[ ,]*){2,}")
_KEYWORD = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(.*\S)\s*", re.S)
_WORD = re.compile(r"[^\s()\[\]{},:=\"`*<>→]+")
_LETTER = re.compile(r"[^\W_]")
_JSON_BEGINS = re.compile(r"(?:^|:)[ \t]*(?=[\[{])", re.M)
_SEPARATORS = str.maketrans("", "", "_- \t\r\n")
_LEADING = frozenset("first then next finally lastly now and i we you will should action".split())
SMALL_WORDS = frozenset(
    "a an the this that it from to into onto in on off at of out with by using for and is block table place".split()
)
"""Words that a step may hold besides its arguments; one that is the name of a thing in the problem is that thing."""

_LONGEST_NAME = 5
_MOST_OPENINGS = 200
_DECODER = json.JSONDecoder()


class Step(NamedTuple):
    """One step: as it was written, the name of what is done, and with what.

    `name` is "" where the step names no known action; `arguments` are words, or values by name.
    """

    text: str
    name: str
    arguments: tuple[str, ...] | dict[str, Any]


class PlanText(NamedTuple):
    """The steps of a reply, and why they cannot be read (then there are none), None otherwise."""

    steps: list[Step]
    error: str | None = None


class _Line(NamedTuple):
    text: str
    marked: bool


def name_key(text: str) -> str:
    """A name as names are compared: without case, `_`, `-` and blanks.

    Example:
        >>> name_key("pick-up") == name_key("Pick Up") == name_key("pick_up")
        True
    """
    return text.casefold().translate(_SEPARATORS)


def read_plan(reply: str, names: Mapping[str, str], things: Collection[str] | None = None) -> PlanText:
    r"""The steps of a reply, by the rule above.

    Args:
        reply: The model's text; a stop token at its end and a thought at its beginning are ignored.
        names: The known actions by `name_key`.
        things: What steps can be about, as `name_key`s. None: unknown, as where any words may be a step; then every
            line of a reply without list marks is one, headings left out.

    Example:
        >>> known = {name_key(name): name for name in ("pick-up", "stack")}
        >>> plan = read_plan("Easy:\n1. Pick up a\n2. stack(a, b)\n3. rest a", known)
        >>> [(step.name, step.arguments) for step in plan.steps]
        [('pick-up', ('a',)), ('stack', ('a', 'b')), ('', ('rest', 'a'))]
    """
    parsed = parse_reply(reply)
    if parsed.calls:
        return PlanText([_called(call.name, call.arguments, names) for call in parsed.calls])
    content = parsed.content
    if not names.keys() & {"plan", "answer"}:
        content = _HEADING.split(content)[-1]
    elements = _json_elements(content)
    if elements:
        return PlanText([_element(element, names) for element in elements])
    if parsed.error is not None:
        return PlanText([], f"unreadable call: {parsed.error}")
    lines = _lines(content)
    read = [(line, step) for line in lines for step in _written(line.text, names)]
    sure = [bool(step.name) or line.marked or _looks_like_a_step(step, things) for line, step in read]
    if not any(line.marked for line in lines):
        inside = range(sure.index(True), len(sure) - sure[::-1].index(True)) if any(sure) else range(0)
        for index, (line, _) in enumerate(read):
            sure[index] |= things is None or (index in inside and line.text[0] != "(" and line.text[-1] not in ".!?")
    return PlanText([step for (_, step), is_step in zip(read, sure, strict=True) if is_step])


def read_step(text: str, names: Mapping[str, str]) -> Step:
    """One step out of its text; `name` is "" when it begins with no known name.

    Example:
        >>> read_step("Then put down the red one - it is in the way", {"putdown": "put-down"}).arguments
        ('the', 'red', 'one')
    """
    text = " ".join(text.split())
    if notation := _NOTATION.match(text):
        name, inner = notation["name"] or "", notation["inner"]
        named = [keyword for piece in inner.split(",") if (keyword := _KEYWORD.fullmatch(piece))]
        if name and named and len(named) == len(inner.split(",")):
            return _called(name, {keyword[1]: keyword[2].strip("\"'") for keyword in named}, names)
        return _of_words(notation.group(), _words(f"{name} {inner}"), names)
    return _of_words(text, _words(_REMARK.sub("", text)), names)


def step_words(text: str) -> list[str]:
    """The words of a text without marks; words that only lead to a step ("then") are left out at its beginning."""
    words = _words(text)
    while len(words) > 1 and words[0].casefold() in _LEADING:
        words = words[1:]
    return words


def _lines(content: str) -> list[_Line]:
    """The pieces of text that could be steps, without their list marks."""
    raw = [" ".join(line.split()) for line in content.splitlines() if not line.lstrip().startswith("```")]
    numbered = any(_NUMBER.match(line.strip(_DECORATION)) for line in raw)
    lines = []
    for text in raw:
        bullet = _BULLET.match(text)
        bare = text[bullet.end() if bullet else 0 :].strip(_DECORATION)
        number = _NUMBER.match(bare)
        if number:
            bare = bare[number.end() :].strip(_DECORATION)
        marked = bool(number) if numbered else bool(bullet)
        if not bare.endswith(":"):
            lines += [
                _Line(piece.strip(_DECORATION), marked) for piece in _PARTING.split(bare) if _LETTER.search(piece)
            ]
    return lines


def _written(text: str, names: Mapping[str, str]) -> list[Step]:
    """The step that a line is, or the steps when it is several in call notation."""
    if _SEVERAL.fullmatch(text):
        return [read_step(notation.group(), names) for notation in _NOTATION.finditer(text)]
    return [read_step(text, names)]


def _looks_like_a_step(step: Step, things: Collection[str] | None) -> bool:
    if _CALL.fullmatch(step.text):
        return True
    if things is None or ":" in step.text:
        return False
    first, *rest = [name_key(word) for word in step.arguments] or [""]
    about = [word for word in rest if word not in SMALL_WORDS]
    return first not in things and first not in SMALL_WORDS and bool(about) and all(word in things for word in about)


def _words(text: str) -> list[str]:
    return [word.strip("'.!?") for word in _WORD.findall(text) if _LETTER.search(word)]


def _of_words(text: str, words: list[str], names: Mapping[str, str]) -> Step:
    keys = [name_key(word) for word in words]
    for start, key in enumerate(keys):
        for end in range(min(start + _LONGEST_NAME, len(keys)), start, -1):
            if name := names.get("".join(keys[start:end])):
                return Step(text, name, tuple(words[end:]))
        if key not in _LEADING:
            break
    return Step(text, "", tuple(words))


def _called(name: str, arguments: Mapping[str, Any], names: Mapping[str, str]) -> Step:
    text = f"{name}({', '.join(f'{key}={answer_text(value)}' for key, value in arguments.items())})"
    known = names.get(name_key(name))
    return Step(text, known, dict(arguments)) if known else Step(text, "", tuple(_words(text)))


def _json_elements(content: str) -> list[Any]:
    """The steps in all JSON that begins a line or follows a colon: lists of steps, and objects that name one."""
    elements: list[Any] = []
    position = 0
    for _ in range(_MOST_OPENINGS):
        opening = _JSON_BEGINS.search(content, position)
        if opening is None:
            break
        try:
            value, position = _DECODER.raw_decode(content, opening.end())
        except (ValueError, RecursionError):
            position = opening.end() + 1
            continue
        if isinstance(value, Mapping) and not _name_in(value):
            value = next((value[key] for key in ("plan", "steps", "actions") if key in value), None)
        many = value if isinstance(value, list) else [value]
        if all(_is_element(each) for each in many):
            elements += many
    return elements


def _is_element(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(word, str | int | float) for word in value)
    return (isinstance(value, str) and bool(value.strip())) or (isinstance(value, Mapping) and bool(_name_in(value)))


def _name_in(record: Mapping[str, Any]) -> str:
    values = (record.get(key) for key in ("name", "action", "tool", "step"))
    return next((value for value in values if isinstance(value, str)), "")


def _element(value: str | list[Any] | Mapping[str, Any], names: Mapping[str, str]) -> Step:
    """One step of a JSON list: its text, its words, or an object with its name and arguments."""
    if isinstance(value, str):
        return read_step(value, names)
    if isinstance(value, list):
        return _of_words(" ".join(map(str, value)), [str(word) for word in value], names)
    name = _name_in(value)
    arguments = next((value[key] for key in ("arguments", "args", "parameters", "input") if key in value), None)
    if isinstance(arguments, Mapping):
        return _called(name, arguments, names)
    if isinstance(arguments, Sequence) and arguments:
        words = [arguments] if isinstance(arguments, str) else [answer_text(each) for each in arguments]
        return read_step(f"{name} {' '.join(words)}", names)
    return read_step(name, names)
