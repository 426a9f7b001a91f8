r"""ReAct text (Yao et al. 2022, https://arxiv.org/abs/2210.03629) as thoughts, actions and observations.

An episode is a sequence of fields, each a label at the start of a line and the text up to the next field:

    Thought: I look it up.              Thought 1: ... (numbered) and a missing thought are read as well
    Action: search[Louvre]              or the two lines `Action: search` and `Action Input: {"query": "Louvre"}`
    Observation: It is in Paris.
    Thought: That is the answer.
    Action: finish[Paris]               or the line `Final Answer: Paris`, or `Answer: Paris`

A line that looks like a label is one only where the field may stand. An observation may quote `Action: Comedy` and a
thought may hold `Thought:` or an `Answer:` that it takes back; they stay text. What cannot be told apart is an
observation that holds a line `Thought:`: the next thought begins there. A whole action at the end of a thought's own
line counts where no other follows. Fields are stripped of the blanks around them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.strict import parse
from sage.libs.finetune.agent.types import FINISH

THOUGHT, ACTION, INPUT, OBSERVATION, ANSWER = "Thought", "Action", "Action Input", "Observation", "Answer"
LABELS = frozenset((THOUGHT, ACTION, INPUT, OBSERVATION, ANSWER))

_LABEL = re.compile(
    r"^[ \t]*(Thought|Action Input|Action|Observation|Final Answer|Answer)(?:[ \t]*[0-9]+)?[ \t]*:", re.MULTILINE
)
_INLINE = re.compile(r"(?<=\S)[ \t]+(Action)(?:[ \t]*[0-9]+)?[ \t]*:")
_BRACKET = re.compile(r"([^\W\d][\w.\-]*)[ \t]*\[(.*)\]", re.DOTALL)
_OPENING = re.compile(r"[^\W\d][\w.\-]*[ \t]*\[")
_NAME = re.compile(r"[^\W\d][\w.\-]*")
_PLAIN_NAME = re.compile(r"[^\n\[\]{}]{1,64}")


@dataclass
class Block:
    """One action, what was thought before it and what came of it.

    Attributes:
        thought: Empty when there was none.
        action: Name of the tool, or `finish`.
        arguments: The call's arguments; `{"input": text}` for `name[text]`, `{"answer": text}` for `finish`.
        observation: None when none was written.
    """

    thought: str
    action: str
    arguments: dict[str, Any] = field(default_factory=dict)
    observation: str | None = None


def looks_like_react(text: object) -> bool:
    """Whether a text plainly is ReAct: an action that can be read, or a thought before a final answer.

    Example:
        >>> looks_like_react("Action: search[Louvre]"), looks_like_react("Action: get some sleep")
        (True, False)
    """
    if not isinstance(text, str):
        return False
    marks = list(_LABEL.finditer(text))
    if any(_name(mark) == ACTION and _opens_call(text, marks, index) for index, mark in enumerate(marks)):
        return True
    labels = [_name(mark) for mark in marks]
    return ANSWER in labels and labels[0] == THOUGHT and not text[: marks[0].start()].strip()


def is_bare_answer(text: object) -> bool:
    """Whether a text opens with its final answer; so do many that are no ReAct, and whose `Answer:` is to be trained.

    Example:
        >>> is_bare_answer("Answer: B"), looks_like_react("Answer: B")
        (True, False)
    """
    mark = _LABEL.match(text.lstrip()) if isinstance(text, str) else None
    return mark is not None and _name(mark) == ANSWER


def parse_react(text: str, where: str, labels: Collection[str] = LABELS) -> list[Block]:
    r"""The blocks of a text in their order; none for a text without any field.

    Args:
        text: An episode or a part of one.
        where: File, line and field, for the error.
        labels: The labels that count; the others are text.

    Raises:
        DataError: naming `where` and the line within the text, for half an action, a thought without an action or
            answer after it, an observation of nothing, fields after the end, or arguments that are broken JSON.

    Example:
        >>> parse_react("Action: search[Louvre]\nObservation: Paris", "a.jsonl:1: output")
        [Block(thought='', action='search', arguments={'input': 'Louvre'}, observation='Paris')]
        >>> parse_react("Thought: Hm.", "row 1")
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.DataError: row 1, line 1: a thought without an action or an answer after it
    """
    return _Reader(text, where, labels).blocks()


def observation_text(text: str) -> str:
    r"""What stands in a turn that holds an observation alone: its label, if any, is taken off.

    Example:
        >>> observation_text("Observation: Paris\nAction: none"), observation_text("Paris")
        ('Paris\nAction: none', 'Paris')
    """
    mark = _LABEL.match(text.lstrip("\n"))
    if mark is None or mark[1] != OBSERVATION:
        return text.strip()
    return text.lstrip("\n")[mark.end() :].strip()


class _Reader:
    """Finds which labels are fields, then puts the fields together."""

    def __init__(self, text: str, where: str, labels: Collection[str]) -> None:
        self.text = text
        self.where = where
        self.labels = labels
        self.marks = [mark for mark in _LABEL.finditer(text) if _name(mark) in labels]

    def blocks(self) -> list[Block]:
        fields = self._fields()
        if not fields:
            return []
        blocks: list[Block] = []
        thought = self.text[: fields[0][1].start()].strip()  # a thought whose label was left out
        ended = False
        for index, (label, mark) in enumerate(fields):
            end = fields[index + 1][1].start() if index + 1 < len(fields) else len(self.text)
            value = self.text[mark.end() : end].strip()
            if ended and label != OBSERVATION:
                raise self._fault(mark, f"'{mark[0].strip()}' after '{FINISH}', which ends an episode; cut it there")
            if label == THOUGHT:
                thought = "\n".join(filter(None, (thought, value)))
            elif label == OBSERVATION:
                blocks[-1].observation = value
            elif label == INPUT:
                self._set_input(blocks[-1], value, mark)
            else:
                blocks.append(self._action(thought, value) if label == ACTION else _finish(thought, value))
                thought = ""
            if blocks and blocks[-1].action == FINISH and (label != ACTION or blocks[-1].arguments):
                ended = True
        if fields[-1][0] == THOUGHT:
            raise self._fault(fields[-1][1], "a thought without an action or an answer after it")
        return blocks

    def _fields(self) -> list[tuple[str, re.Match[str]]]:
        """The labels that stand where their field may stand."""
        calls = [_name(mark) == ACTION and _opens_call(self.text, self.marks, i) for i, mark in enumerate(self.marks)]
        last_call = max((index for index, call in enumerate(calls) if call), default=-1)
        answers = [i for i, mark in enumerate(self.marks) if _name(mark) == ANSWER and i > last_call]
        fields: list[tuple[str, re.Match[str]]] = []
        for index, mark in enumerate(self.marks):
            label, before = _name(mark), fields[-1][0] if fields else ""
            if before == ACTION and self._is_open(fields[-1][1], mark):
                if label not in (ACTION, OBSERVATION, INPUT):
                    continue  # a line of the action's input
                if label != INPUT or not _PLAIN_NAME.fullmatch(self._text(fields[-1][1], mark)):
                    raise self._half(fields[-1][1], mark)
            if label == ACTION:
                stands = calls[index] or self._is_half_action(index, before)
            elif label == INPUT:
                stands = before == ACTION
            elif label == OBSERVATION:
                if before in ("", THOUGHT) and not self._add_inline(fields, mark):
                    raise self._fault(mark, "an observation, but no action before it")
                before = fields[-1][0]
                stands = before in (ACTION, INPUT, ANSWER)
            elif label == ANSWER:
                stands = bool(answers) and index == answers[-1]
            else:
                stands = before != THOUGHT
            if stands:
                fields.append((label, mark))
        self._add_inline(fields, None)
        if fields and fields[-1][0] == ACTION and self._is_open(fields[-1][1], None):
            raise self._half(fields[-1][1], None)
        return fields

    def _add_inline(self, fields: list[tuple[str, re.Match[str]]], upto: re.Match[str] | None) -> bool:
        """Take a whole action that ends the line of the last thought for one, where none follows the thought."""
        if not fields or fields[-1][0] != THOUGHT:
            return False
        end = upto.start() if upto else len(self.text)
        for mark in reversed(list(_INLINE.finditer(self.text, fields[-1][1].end(), end))):
            if _is_call(self.text, mark.end(), end):
                fields.append((ACTION, mark))
                return True
        return False

    def _is_half_action(self, index: int, before: str) -> bool:
        """Whether an `Action:` that cannot be read was meant as one, rather than quoted by an observation."""
        after = self.marks[index + 1] if index + 1 < len(self.marks) else None
        first, _, rest = self._text(self.marks[index], after).partition("\n")
        if not (_OPENING.match(first) or _NAME.fullmatch(first)):
            return before == ""
        ends = after is None and not rest
        # A bare name is an action only in a form that has `Action Input`; a genre or the like in one that has not.
        meant = INPUT in self.labels or _OPENING.match(first) is not None
        answered = meant and after is not None and _name(after) == OBSERVATION
        return before != OBSERVATION or ends or answered

    def _is_open(self, action: re.Match[str], upto: re.Match[str] | None) -> bool:
        """Whether the text of an action, as far as it goes, is not yet `name[input]`."""
        return not _is_call(self.text, action.end(), upto.start() if upto else len(self.text))

    def _action(self, thought: str, value: str) -> Block:
        bracket = _BRACKET.fullmatch(value)
        if bracket is None:  # the input is the next field
            return Block(thought, FINISH if value.lower() == FINISH else value)
        name, text = bracket[1], bracket[2].strip()
        if name.lower() == FINISH:
            return _finish(thought, text)
        return Block(thought, name, {"input": text})

    def _set_input(self, block: Block, value: str, mark: re.Match[str]) -> None:
        if block.arguments:
            raise self._fault(mark, f"a second input for '{block.action}', which has its input in brackets")
        arguments: Any = None
        if value.startswith("{"):
            try:
                arguments = parse(value)
            except ValueError as error:
                raise self._fault(mark, f"the input of '{block.action}' is broken JSON: {error}") from None
        if block.action == FINISH:
            block.arguments = {"answer": value}
            if isinstance(arguments, dict) and arguments.keys() == {"answer"}:
                block.arguments = arguments
            elif isinstance(arguments, dict) and "return_type" in arguments:  # ToolBench
                if arguments["return_type"] != "give_answer" or "final_answer" not in arguments:
                    raise self._fault(mark, f"'{FINISH}' gives up (return_type), so there is no answer to learn")
                block.arguments = {"answer": arguments["final_answer"]}
        elif isinstance(arguments, dict):
            block.arguments = arguments
        else:
            block.arguments = {"input": value} if value else {}

    def _text(self, mark: re.Match[str], upto: re.Match[str] | None) -> str:
        return self.text[mark.end() : upto.start() if upto else len(self.text)].strip()

    def _half(self, action: re.Match[str], upto: re.Match[str] | None) -> DataError:
        value = self._text(action, upto)
        return self._fault(
            action, f"half an action: {value!r:.80}; expected name[input], or a name and a line 'Action Input: ...'"
        )

    def _fault(self, mark: re.Match[str], message: str) -> DataError:
        return DataError(f"{self.where}, line {self._line(mark)}: {message}")

    def _line(self, mark: re.Match[str]) -> int:
        return self.text.count("\n", 0, mark.start(1)) + 1


def _finish(thought: str, answer: str) -> Block:
    return Block(thought, FINISH, {"answer": answer})


def _name(mark: re.Match[str]) -> str:
    return ANSWER if mark[1] == "Final Answer" else mark[1]


def _opens_call(text: str, marks: list[re.Match[str]], index: int) -> bool:
    """Whether the `Action:` at `index` is a whole call: name[input], or a name with its input in the next field."""
    end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
    value = text[marks[index].end() : end].strip()
    if index + 1 < len(marks) and _name(marks[index + 1]) == INPUT and _PLAIN_NAME.fullmatch(value):
        return True
    if not _OPENING.match(value):
        return False
    for number in range(index + 1, len(marks) + 1):  # the input may hold lines that look like fields
        after = marks[number] if number < len(marks) else None
        if _is_call(text, marks[index].end(), after.start() if after else len(text)):
            return True
        if after is not None and _name(after) in (ACTION, OBSERVATION):
            return False
    return False


def _is_call(text: str, start: int, end: int) -> bool:
    """Whether a part of the text is `name[input]`."""
    last = text[max(start, end - 100) : end].rstrip()[-1:]
    if last and last != "]":  # spares long texts the search
        return False
    return _BRACKET.fullmatch(text[start:end].strip()) is not None
