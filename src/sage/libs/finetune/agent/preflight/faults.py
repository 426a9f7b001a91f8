"""The kinds of faults a training row can have, and how they are counted. Standard library only.

A fault stops training (or fails `data validate`) unless its kind is allowed; a note is counted and never fails a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.registry import suggestion

FIRST = 5
"""How many places of each kind are kept."""


@dataclass(frozen=True)
class Kind:
    """One way in which a row can be wrong, or worth a note.

    Attributes:
        name: What `--allow` calls it.
        meaning: A few words for a table.
        remedy: What to do about it, and for a fault why it harms.
        severity: `fault` or `note`.
    """

    name: str
    meaning: str
    remedy: str
    severity: Literal["fault", "note"] = "fault"


_ALL = (
    Kind("unreadable", "not a conversation in the form of the file", "mend the row, or name its form with --from"),
    Kind(
        "roles",
        "turns in an order no chat has",
        "templates refuse or misplace a late system message and an answer without a call; of two assistant turns in a "
        "row the first teaches to stop where more is due: join them, or put the missing turn between",
    ),
    Kind(
        "call_ids",
        "calls and answers do not pair",
        "servers refuse a call nobody answers; give each call one answer with its id (the last turn may stay open)",
    ),
    Kind(
        "unknown_tool",
        "a call of a tool the row does not show",
        "it teaches to invent tools; add the tool to 'tools', or give the turn weight 0",
    ),
    Kind("bad_tool", "a tool's schema is not valid", "correct the JSON schema; a tool's name stands once in a row"),
    Kind(
        "arguments",
        "arguments do not fit the schema",
        "it teaches calls that fail; correct the call or the schema, or give the turn weight 0",
    ),
    Kind(
        "null_arguments",
        "arguments padded with null",
        "Arrow (datasets, Parquet) fills calls up with the arguments of other tools; drop these nulls",
    ),
    Kind("empty_turn", "a trained turn says nothing", "it teaches to say nothing; drop the turn or give it weight 0"),
    Kind(
        "half_call",
        "a call in the text breaks off",
        "it teaches broken calls; complete it in 'tool_calls', or give the turn weight 0",
    ),
    Kind(
        "observation_in_turn",
        "an observation among the model's words",
        "it teaches to make observations up; read the rows with --from react, or give the answer a turn of role tool",
    ),
    Kind("untrained", "every assistant turn has weight 0", "drop the row, or give a turn weight 1"),
    Kind("duplicate", "the same row once more", "drop it, or say with --allow duplicate that it shall count twice"),
    Kind(
        "template",
        "the chat template cannot show it",
        "change what it names, or take our template: --tool-format json (or compact)",
    ),
    Kind(
        "tools_hidden",
        "tools missing from the prompt",
        "it teaches calls of tools the model cannot see; take our template: --tool-format json (or compact)",
    ),
    Kind(
        "stop_untrained",
        "a turn's stop token is not trained",
        "the model would not learn to stop; take a template that ends turns with the end-of-turn token",
    ),
    Kind(
        "tokens_differ",
        "other tokens than a server makes",
        "the model would be asked with tokens it was not trained on; take blanks off both ends of the texts, or take "
        "our template: --tool-format json",
    ),
    Kind(
        "special_tokens",
        "text that turns into control tokens",
        "it ends or begins turns inside a text; remove it from the row",
    ),
    Kind(
        "unknown_text",
        "trained text the tokenizer lacks",
        "the model would learn to write its unknown token; remove the text, or take a tokenizer that knows all bytes",
    ),
    Kind("masked", "no trained token is left", "what was to be trained was cut off; raise --max-seq-length"),
    Kind("too_long", "does not fit, even shortened", "raise --max-seq-length, or drop the row"),
    Kind("failed_episode", "of an episode that failed", "drop them with `sage-finetune filter`", "note"),
    Kind(
        "tools_inferred",
        "with tools made up from the calls",
        "give the true ones: sage-finetune convert --tools FILE",
        "note",
    ),
    Kind(
        "call_in_text",
        "with a call in the words",
        "it is trained as text and its arguments are not checked; put it into 'tool_calls'",
        "note",
    ),
    Kind("no_tools", "without tools and calls", "fine for plain chat", "note"),
    Kind(
        "shortened",
        "with exchanges dropped to fit",
        "raise --max-seq-length to keep them, or split the rows: --truncation windows",
        "note",
    ),
    Kind("split", "split into windows to fit", "each turn is trained once, with the context that fits", "note"),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
"""Every kind by name, in the order of reports."""


@dataclass(frozen=True)
class Fault:
    """Something about one row.

    Attributes:
        kind: A name in `KINDS`.
        where: File and line of the row.
        message: What is wrong, with the message by its index; does not repeat `where`. One line, whatever it quotes.
    """

    kind: str
    where: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))


def printable(text: str) -> str:
    r"""The text as one line that a terminal shows and does not obey: rows are foreign, and what they say is quoted.

    Example:
        >>> printable("'\x1b[31m\nü'")
        "'\\x1b[31m\\nü'"
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


@dataclass
class Tally:
    """How many rows have a kind of fault, where first, and what it said there."""

    rows: int = 0
    first: list[str] = field(default_factory=list)
    message: str = ""

    def add(self, fault: Fault) -> None:
        """Count one row."""
        self.rows += 1
        self.message = self.message or fault.message
        if len(self.first) < FIRST:
            self.first.append(fault.where)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"rows": self.rows, "first": list(self.first), "message": self.message}


def is_note(kind: str) -> bool:
    """Whether a kind is counted only."""
    return KINDS[kind].severity == "note"


def count(tallies: dict[str, Tally], faults: Iterable[Fault]) -> None:
    """Add what one row has; a kind counts once a row."""
    for fault in {fault.kind: fault for fault in reversed(list(faults))}.values():
        tallies.setdefault(fault.kind, Tally()).add(fault)


def in_order(tallies: dict[str, Tally]) -> dict[str, Tally]:
    """The tallies in the order of `KINDS`."""
    return {name: tallies[name] for name in KINDS if name in tallies}


def allowed_kinds(text: str | None) -> frozenset[str]:
    """The kinds of faults in a list separated by commas.

    Raises:
        ConfigError: for a name that is no kind of fault.

    Example:
        >>> sorted(allowed_kinds("duplicate, roles"))
        ['duplicate', 'roles']
        >>> allowed_kinds("duplicates")
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.ConfigError: allow: unknown kind of fault 'duplicates'; did you mean \
'duplicate'? known: unreadable, roles, call_ids, unknown_tool, bad_tool, arguments, null_arguments, empty_turn, \
half_call, observation_in_turn, untrained, duplicate, template, tools_hidden, stop_untrained, tokens_differ, \
special_tokens, unknown_text, masked, too_long
    """
    known = [kind.name for kind in _ALL if kind.severity == "fault"]
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in known:
            near = suggestion(name, known)
            raise ConfigError(f"allow: unknown kind of fault '{name}'; {near}known: {', '.join(known)}")
    return frozenset(names)
