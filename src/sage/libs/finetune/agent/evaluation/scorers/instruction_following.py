"""Does a reply follow the instructions that a program can verify: IFEval's four figures (Zhou et al. 2023).

A prompt holds one or more instructions. Strictly, a reply follows one when the check says so of the reply as it is;
loosely, when it says so of any of eight forms of it, without the first line, the last line, both, and each without
asterisks. The value of a reply is its prompt-level strict figure: 1 when it follows every instruction, else 0.

What cannot be checked (an unknown type, a language that is not known here) is left out and counted as skipped. A blank
reply follows nothing. A thought before the reply and a stop token after it are no part of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.instructions.check import BadArgument
from sage.libs.finetune.agent.evaluation.instructions.known import INSTRUCTIONS
from sage.libs.finetune.agent.evaluation.instructions.writer import write_reply
from sage.libs.finetune.agent.evaluation.score import Capability, Score
from sage.libs.finetune.agent.tokenization.parse import parse_reply, without_stop

_FIGURES = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")


def score_instruction_following(reply: str, item: Mapping[str, Any]) -> Score:
    """Check a reply against each instruction of the item.

    Args:
        reply: The model's text.
        item: Its `gold` is `{"instructions": [{"type": "keywords:existence", "keywords": [...]}, ...]}`, with the ids
            and arguments that IFEval published.

    Returns:
        Value 1.0 when all that could be checked is followed, 0.0 when something is not, None when nothing could be
        checked. Details: `instructions` (type, strict, loose, skipped of each), `prompt_strict`, `prompt_loose`.

    Raises:
        ScoringError: when the item has no instructions, or one of them lacks an argument or has an impossible one.

    Example:
        >>> gold = {"instructions": [{"type": "punctuation:no_comma"}, {"type": "startend:quotation"}]}
        >>> score = score_instruction_following('Tea, please.', {"id": "1", "gold": gold})
        >>> score.value, score.reason
        (0.0, 'not followed: punctuation:no_comma, startend:quotation')
    """
    said = _said(reply)
    checked = [_check(said, *instruction) for instruction in _instructions(item)]
    told = [one for one in checked if not one["skipped"]]
    followed = [one["type"] for one in told if one["strict"]]
    strict = len(followed) == len(told) if told else None
    loose = all(one["loose"] for one in told) if told else None
    details = {"instructions": checked, "prompt_strict": strict, "prompt_loose": loose}
    return Score(None if strict is None else float(strict), followed, _reason(checked), details)


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """IFEval's four figures, the strict share by type, and how many instructions could not be checked.

    Returns:
        `prompt_strict`, `prompt_loose` (shares of replies), `instruction_strict`, `instruction_loose` (of
        instructions), `by_type` ({type: {"strict", "loose", "n"}}), `skipped_instructions` ({type: how many}).
        The figures are left out when nothing could be checked.
    """
    if not scores:
        return {}
    prompts = [score.details for score in scores if score.value is not None]
    every = [one for score in scores for one in score.details["instructions"]]
    told = [one for one in every if not one["skipped"]]
    by_type: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in told:
        by_type[one["type"]].append(one)
    figures: dict[str, Any] = {}
    if told:
        shares = [_share(prompts, "prompt_strict"), _share(prompts, "prompt_loose")]
        shares += [_share(told, "strict"), _share(told, "loose")]
        figures = dict(zip(_FIGURES, shares, strict=True))
    figures["by_type"] = {
        name: {"strict": _share(ones, "strict"), "loose": _share(ones, "loose"), "n": len(ones)}
        for name, ones in sorted(by_type.items())
    }
    figures["skipped_instructions"] = dict(sorted(Counter(one["type"] for one in every if one["skipped"]).items()))
    return figures


def read_gold(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The instructions of a row: `instructions` as in an item, or IFEval's `instruction_id_list` and `kwargs`.

    Entries of `kwargs` that are null are dropped, since a table has a column for every argument of any instruction.

    Raises:
        DataError: when the row has neither form, or one of them is broken.

    Example:
        >>> read_gold({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"relation": None}]}, "row 1")
        {'instructions': [{'type': 'punctuation:no_comma'}]}
    """
    expected = row if row.get("expected") is None else row["expected"]
    form = expected if isinstance(expected, Mapping) else {}
    if "instruction_id_list" in form:
        types, arguments = form["instruction_id_list"], form.get("kwargs")
        arguments = [{}] * len(types) if arguments is None and isinstance(types, list) else arguments
        if not (isinstance(types, list) and isinstance(arguments, list) and len(types) == len(arguments)):
            raise DataError(f"{where}: instruction_id_list and kwargs must be lists of the same length")
        if not all(isinstance(one, Mapping) for one in arguments):
            raise DataError(f"{where}: each entry of kwargs must be an object of arguments")
        found = [{**one, "type": name} for name, one in zip(types, arguments, strict=True)]
    else:
        found = form.get("instructions", [])
    if not (isinstance(found, list) and found):
        raise DataError(f"{where}: no instructions; expected a list 'instructions', or instruction_id_list and kwargs")
    for one in found:
        if not (isinstance(one, Mapping) and isinstance(one.get("type"), str)):
            raise DataError(f"{where}: an instruction must be an object with a 'type' such as 'keywords:existence'")
    return {"instructions": [_without_nulls(one) for one in found]}


def gold_reply(item: Mapping[str, Any]) -> str:
    """A reply that follows every instruction of the item.

    Raises:
        ScoringError: when an instruction is unusable, or no such reply can be written.

    Example:
        >>> gold = {"instructions": [{"type": "startend:quotation"}]}
        >>> gold_reply({"id": "1", "gold": gold, "metadata": {"topic": "tea"}})
        '"Many people like tea."'
    """
    topic = (item.get("metadata") or {}).get("topic", "this")
    reply = write_reply([(name, arguments) for name, arguments in _instructions(item) if arguments is not None], topic)
    if reply is None:
        raise ScoringError(f"item '{item.get('id')}': no reply could be written that follows all its instructions")
    return reply


def _instructions(item: Mapping[str, Any]) -> list[tuple[str, dict[str, Any] | None]]:
    """Type and arguments of each instruction; no arguments for a type that is not known."""
    gold, name = item.get("gold"), f"item '{item.get('id')}'"
    entries = gold.get("instructions") if isinstance(gold, Mapping) else None
    if not (isinstance(entries, (list, tuple)) and entries):
        raise ScoringError(f"{name}: field 'gold' needs a list 'instructions' with at least one entry")
    found: list[tuple[str, dict[str, Any] | None]] = []
    for number, entry in enumerate(entries, 1):
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if not isinstance(kind, str):
            raise ScoringError(f"{name}: instruction {number} needs a 'type' such as 'keywords:existence'")
        if kind not in INSTRUCTIONS:
            found.append((kind, None))
            continue
        try:
            arguments = INSTRUCTIONS[kind].read({key: value for key, value in entry.items() if key != "type"})
        except BadArgument as fault:
            raise ScoringError(f"{name}: instruction {number} ({kind}): {fault}") from None
        found.append((kind, arguments))
    return found


def _check(reply: str, kind: str, arguments: dict[str, Any] | None) -> dict[str, Any]:
    if arguments is None:
        return {"type": kind, "strict": None, "loose": None, "skipped": True}
    follows = INSTRUCTIONS[kind].follows
    strict = follows(reply, arguments)
    if strict is None:
        return {"type": kind, "strict": None, "loose": None, "skipped": True}
    strict = strict and bool(reply.strip())
    loose = strict or any(follows(form, arguments) for form in _loose_forms(reply) if form.strip())
    return {"type": kind, "strict": strict, "loose": loose, "skipped": False}


def _loose_forms(reply: str) -> Iterator[str]:
    """The other seven forms that may follow loosely, each once."""
    lines = reply.split("\n")
    cut = (reply, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip())
    return iter(dict.fromkeys((*cut, *(form.replace("*", "") for form in cut))))


def _said(reply: str) -> str:
    """The reply without a thought before it and a stop token after it; JSON that looks like a call belongs to it."""
    if "<" not in reply:
        return reply
    parsed = parse_reply(reply)
    return without_stop(reply) if parsed.calls else parsed.content


def _reason(checked: Sequence[Mapping[str, Any]]) -> str:
    missed = [one["type"] for one in checked if not one["skipped"] and not one["strict"]]
    skipped = sum(one["skipped"] for one in checked)
    if skipped == len(checked):
        return f"nothing could be checked: {checked[0]['type']}"
    told = f"not followed: {', '.join(missed)}" if missed else f"followed {len(checked) - skipped}"
    return f"{told}; skipped {skipped}" if skipped else told


def _share(ones: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(bool(one[key]) for one in ones) / len(ones)


def _without_nulls(entry: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in entry.items() if key != "type" and value is not None}
    return {"type": entry["type"], **rest}


CAPABILITY = Capability("instruction_following", score_instruction_following, read_gold, summarise, gold_reply)
