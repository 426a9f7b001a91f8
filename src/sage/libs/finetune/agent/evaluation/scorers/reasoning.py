"""Reasoning: whether the final answer is right; how it was reached is told beside it.

The value is 1 when the final answer is right and 0 when it is not (`final_answers` says what is found and how it is
compared; exact match for text, as FireAct uses it). F1 and the coherence of the chain (`coherence`) are figures in the
details: a chain that reads well does not make a wrong answer better.

A thought (`<think>`) counts as part of the chain, not as a place for the answer. A reply that calls a tool has an
answer only where it marks one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sage.libs.finetune.agent.answers import join_answer
from sage.libs.finetune.agent.errors import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.score import Capability, Score
from sage.libs.finetune.agent.evaluation.scorers.coherence import coherence
from sage.libs.finetune.agent.evaluation.scorers.final_answers import (
    FoundAnswer,
    find_answer,
    gold_answer,
    labelled,
    marked_answer,
)
from sage.libs.finetune.agent.tokenization.parse import ParsedReply, parse_reply


def score_reasoning(reply: str, item: Mapping[str, Any]) -> Score:
    r"""Score the final answer of a reply.

    Args:
        reply: The model's text; a stop token at its end is ignored.
        item: With `gold`: `answer` (text, number, or a list of acceptable ones), `kind` (number, text, choice or auto,
            the default) and, for a choice, `choices` (label -> words, or a list).

    Returns:
        Value 1 or 0. Details: em and f1 (0 to 1), kind, found (whether there was an answer), and the figures of
        `coherence`.

    Raises:
        ScoringError: naming the item and the field that it cannot be scored against.

    Example:
        >>> item = {"id": "1", "messages": [{"role": "user", "content": "3 bags of 4?"}], "gold": {"answer": 12}}
        >>> score = score_reasoning("3 bags × 4 = 12.\nThe answer is 12.", item)
        >>> score.value, score.extracted, score.details["coherence"]
        (1.0, '12', 1.0)
    """
    gold = item.get("gold")
    if not isinstance(gold, Mapping) or "answer" not in gold:
        raise ScoringError(f"item '{item.get('id')}': gold.answer is missing; a reasoning item needs the true answer")
    try:
        true = gold_answer(gold["answer"], gold.get("kind", "auto"), gold.get("choices"))
    except ValueError as error:
        raise ScoringError(f"item '{item.get('id')}': {error}") from None
    parsed = parse_reply(reply)
    if parsed.content.lstrip().startswith("<think>"):
        found = FoundAnswer(None, "the thought has no end")
    else:
        found = find_answer(parsed.content, true, marked_only=bool(parsed.calls) or parsed.error is not None)
    details = {
        "em": float(found.right),
        "f1": found.f1,
        "kind": true.kind,
        "found": found.text is not None,
        **coherence(_chain(parsed), _told(item, true.choices or {})),
    }
    return Score(float(found.right), found.text, found.why, details)


def read_gold(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    r"""What is right, from a row of a test set.

    Known are `answer` or `expected` (of GSM8K what follows ####), with `choices` as label -> words, a list of words
    (the answer then a label, a position from 0, or the words) or ARC's `{"text", "label"}` with `answerKey`; and a chat
    row, whose last assistant message gives the answer.

    Args:
        row: The row.
        where: File and line for the error message.

    Raises:
        DataError: naming `where` and what was expected.

    Example:
        >>> read_gold({"question": "3 × 4?", "answer": "3 × 4 = 12\n#### 12"}, "row 1")
        {'answer': '12', 'kind': 'auto'}
        >>> read_gold({"question": "Capital of Italy?", "choices": ["Paris", "Rome"], "answer": 1}, "row 2")
        {'answer': 'B', 'kind': 'choice', 'choices': {'A': 'Paris', 'B': 'Rome'}}
    """
    if isinstance(row.get("gold"), Mapping):
        gold = dict(row["gold"])
    else:
        answer = next((row[name] for name in ("answer", "expected", "answerKey") if row.get(name) is not None), None)
        gold = {"answer": _chat_answer(row, where) if answer is None else answer, "kind": "auto"}
        if row.get("choices") is not None:
            gold = {**gold, **_choices(row["choices"], gold["answer"], where)}
        elif isinstance(gold["answer"], str) and "####" in gold["answer"]:
            gold["answer"] = marked_answer(gold["answer"]) or ""
    try:
        gold_answer(gold.get("answer"), gold.get("kind", "auto"), gold.get("choices"))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    return gold


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """Figures of a test set.

    Returns:
        accuracy, em, f1 and answers_found as means over the replies; coherence and its parts as means over the replies
        that have one, None where none has; equations_right, the share of all equations that hold.
    """
    scored = [score for score in scores if score.value is not None]
    if not scored:
        return {}
    details = [score.details for score in scored]
    equations = sum(one["equations_found"] for one in details)
    return {
        "accuracy": fmean(float(score.value or 0) for score in scored),
        "em": fmean(one["em"] for one in details),
        "f1": fmean(one["f1"] for one in details),
        "answers_found": fmean(one["found"] for one in details),
        "coherence": _mean_of(details, "coherence"),
        "grounded": _mean_of(details, "grounded"),
        "no_repetition": _mean_of(details, "no_repetition"),
        "equations_right": sum(one["equations_right"] for one in details) / equations if equations else None,
    }


def gold_reply(item: Mapping[str, Any]) -> str:
    r"""The worked solution (`metadata.solution`) with the answer behind it, or the answer alone.

    Example:
        >>> gold_reply({"gold": {"answer": 12}, "metadata": {"solution": "3 × 4 = 12."}})
        '3 × 4 = 12.\nAnswer: 12'
    """
    answer = item["gold"]["answer"]
    first = answer[0] if isinstance(answer, list) else answer
    if isinstance(first, bool):
        first = "yes" if first else "no"
    return join_answer((item.get("metadata") or {}).get("solution") or "", str(first))


def _chain(parsed: ParsedReply) -> str:
    return f"{parsed.reasoning}\n{parsed.content}" if parsed.reasoning else parsed.content


def _told(item: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """All that the item says: its messages, and the choices where they are not among them."""
    said = [str(message.get("content") or "") for message in item.get("messages") or ()]
    return "\n".join([*said, *choices.values()])


def _mean_of(details: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [one[name] for one in details if one[name] is not None]
    return fmean(known) if known else None


def _choices(choices: Any, answer: Any, where: str) -> dict[str, Any]:
    if isinstance(choices, Mapping) and isinstance(choices.get("text"), list) and "label" in choices:
        choices = dict(zip(map(str, choices["label"]), choices["text"], strict=False))
    try:
        labels = labelled(choices)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if isinstance(choices, list) and isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(choices):
            raise DataError(f"{where}: answer: expected a choice's position, 0 to {len(choices) - 1}, found {answer}")
        answer = list(labels)[answer]
    return {"answer": answer, "kind": "choice", "choices": labels}


def _chat_answer(row: Mapping[str, Any], where: str) -> str:
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, Mapping) and last.get("role") == "assistant" else None
    if not isinstance(content, str) or not content.strip() or (isinstance(last, Mapping) and last.get("tool_calls")):
        raise DataError(
            f"{where}: expected 'answer' or 'expected', or 'messages' that end in an assistant's answer; found fields "
            f"{', '.join(map(str, row))}"
        )
    answer = parse_reply(content).content
    return (marked_answer(answer) or answer).strip()


CAPABILITY = Capability("reasoning", score_reasoning, read_gold, summarise, gold_reply)
