from __future__ import annotations

from typing import Any

import pytest

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.tokenization.render import render
from sage.libs.finetune.agent.tokenization.truncate import truncate


def kept(messages: Any, *indices: int) -> Any:
    return {"messages": [messages[i] for i in indices]}


def test_a_row_that_fits_is_left_alone(tokenizer: Any, messages: Any) -> None:
    sample: Any = {"messages": messages}
    rendered = render(sample, tokenizer)
    truncated = truncate(sample, tokenizer, len(rendered.input_ids))
    assert (truncated.rendered, truncated.dropped_messages) == (rendered, 0)


@pytest.mark.parametrize(
    ("remaining", "dropped"),
    [
        ((0, 1, 4, 5, 6, 7, 8, 9), 2),  # the first call goes with its observation
        ((0, 1, 7, 8, 9), 5),  # the parallel calls go with both of theirs
        ((0, 1, 8, 9), 6),  # the last answer keeps the question it answers
    ],
)
def test_whole_exchanges_go_oldest_first(
    tokenizer: Any, messages: Any, remaining: tuple[int, ...], dropped: int
) -> None:
    expected = render(kept(messages, *remaining), tokenizer)
    for limit in (len(expected.input_ids), len(expected.input_ids) + 1):
        truncated = truncate({"messages": messages}, tokenizer, limit)
        assert (truncated.rendered, truncated.dropped_messages) == (expected, dropped)
    assert len(messages) == 10


def test_a_later_question_stays_while_a_turn_answers_it(tokenizer: Any, messages: Any) -> None:
    """user, answer, user, call, observation, answer: without its question the last answer would train guessing."""
    order = (1, 7, 8, 2, 3, 9)
    expected = render(kept(messages, 1, 8, 9), tokenizer)
    truncated = truncate(kept(messages, *order), tokenizer, len(expected.input_ids))
    assert (truncated.rendered, truncated.dropped_messages) == (expected, 3)


def test_tools_are_kept(tokenizer: Any, messages: Any, tools: Any) -> None:
    sample: Any = {"messages": messages, "tools": tools}
    truncated = truncate(sample, tokenizer, len(render(sample, tokenizer).input_ids) - 1)
    assert truncated.dropped_messages == 2
    assert '"noop"' in truncated.rendered.text or "noop()" in truncated.rendered.text


def test_a_row_that_cannot_fit_names_both_numbers(tokenizer: Any, messages: Any) -> None:
    needed = len(render(kept(messages, 0, 1, 8, 9), tokenizer).input_ids)
    with pytest.raises(DataError, match=f"needs {needed} tokens .* {needed - 1} are allowed"):
        truncate({"messages": messages}, tokenizer, needed - 1)
