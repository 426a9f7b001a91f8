from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import tiny_tokenizer
from tests.unit.tokenization.conftest import call
from tests.unit.tokenization.templates import family_tokenizer

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.tokenization import truncate as truncate_module
from sage.libs.finetune.agent.tokenization.render import IGNORED, render
from sage.libs.finetune.agent.tokenization.truncate import truncate, windows


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


def test_a_question_of_several_turns_stays_whole(tokenizer: Any, messages: Any) -> None:
    """A document, then what is asked about it: the answer would be trained without the document."""
    document = {"role": "user", "content": "A document."}
    asked = [messages[1], messages[7], document, messages[8], *messages[2:4], messages[9]]
    expected = render({"messages": [messages[1], document, messages[8], messages[9]]}, tokenizer)
    truncated = truncate({"messages": asked}, tokenizer, len(expected.input_ids))
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


def trained(rendered: Any) -> int:
    return sum(label != IGNORED for label in rendered.labels)


def test_what_went_is_told_in_messages_exchanges_and_tokens(tokenizer: Any, messages: Any) -> None:
    whole, shorter = render({"messages": messages}, tokenizer), render(kept(messages, 0, 1, 7, 8, 9), tokenizer)
    row = truncate({"messages": messages}, tokenizer, len(shorter.input_ids))
    assert (row.dropped_messages, row.dropped_exchanges) == (5, 2)
    assert row.dropped_tokens == len(whole.input_ids) - len(shorter.input_ids)
    assert row.trained_tokens_lost == trained(whole) - trained(shorter) > 0
    assert row.messages == kept(messages, 0, 1, 7, 8, 9)["messages"]


def test_turns_without_weight_lose_no_trained_tokens(tokenizer: Any, messages: Any) -> None:
    messages[2]["weight"] = 0.0
    row = truncate({"messages": messages}, tokenizer, len(render({"messages": messages}, tokenizer).input_ids) - 1)
    assert (row.dropped_exchanges, row.trained_tokens_lost) == (1, 0)


@st.composite
def numbered(draw: st.DrawFn) -> Any:
    """A conversation of up to nine exchanges in which each message says its own number."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "0 " + "task " * draw(st.integers(0, 4))}]
    if draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": "Be brief."})
    for _ in range(draw(st.integers(1, 9))):
        content = f"{len(messages)} " + "think " * draw(st.integers(0, 6))
        turn = {"role": "assistant", "content": content, "weight": draw(st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.0]))}
        calls = draw(st.integers(0, 2))
        messages.append({**turn, "tool_calls": [call("noop")] * calls} if calls else turn)
        for _ in range(calls):
            messages.append({"role": "tool", "content": f"{len(messages)} " + "seen " * draw(st.integers(0, 9))})
        if not calls and draw(st.booleans()):
            messages.append({"role": "user", "content": f"{len(messages)} and?"})
    return messages


def fits_alone(messages: Any, start: int, tokenizer: Any, limit: int) -> bool:
    """Whether an exchange fits with what stands in every row."""
    head = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
    question = [message for message in messages[head:start] if message["role"] == "user"][-1:]
    end = start + 1
    while end < len(messages) and messages[end]["role"] == "tool":
        end += 1
    sample: Any = {"messages": [*messages[:head], *question, *messages[start:end]]}
    return len(render(sample, tokenizer).input_ids) <= limit


@given(messages=numbered(), share=st.floats(0.2, 1.1), family=st.sampled_from(["ours", "qwen2.5"]))
@settings(max_examples=150, deadline=None)
def test_windows_train_each_turn_once_and_cut_nothing(messages: Any, share: float, family: str) -> None:
    tokenizer = tiny_tokenizer() if family == "ours" else family_tokenizer(family)
    before = copy.deepcopy(messages)
    whole = render({"messages": messages}, tokenizer)
    limit = int(share * len(whole.input_ids))
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    wanted = [index for index in turns if messages[index]["weight"]]
    try:
        rows = windows({"messages": messages}, tokenizer, limit)
    except DataError as error:
        assert re.search(rf"needs \d+ tokens .* {limit} are allowed", str(error))
        assert not wanted or not all(fits_alone(messages, index, tokenizer, limit) for index in wanted)
        return
    assert messages == before
    head = messages[: turns[0]]
    found: list[int] = []
    for row in rows:
        assert len(row.rendered.input_ids) <= limit
        assert list(row.messages[: len(head)]) == head
        body = [messages.index({**message, **_weight(messages, message)}) for message in row.messages[len(head) :]]
        if body and messages[body[0]]["role"] == "user":  # the newest question before the window
            assert body[0] == max(i for i in range(turns[0], body[1]) if messages[i]["role"] == "user")
            body = body[1:]
        assert body == list(range(body[0], body[-1] + 1)) and body[0] in turns
        following = body[-1] + 1
        assert following == len(messages) or messages[following]["role"] != "tool"
        found += [index for index, message in zip(body, row.messages[-len(body) :], strict=True)
                  if message["role"] == "assistant" and message["weight"]]  # fmt: skip
    assert sorted(found) == found == wanted
    if wanted:
        assert sum(trained(row.rendered) for row in rows) == trained(whole)
        assert sum(row.trained_tokens_lost for row in rows) == 0


def _weight(messages: Any, message: Any) -> dict[str, Any]:
    """The weight a row's message has in the sample, found by its number."""
    return next(({"weight": m["weight"]} for m in messages if m["content"] == message["content"] and "weight" in m), {})


def long_sample(exchanges: int) -> Any:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "The task."}]
    for number in range(exchanges):
        messages.append({"role": "assistant", "content": f"Thought {number}.", "tool_calls": [call("noop", n=number)]})
        messages.append({"role": "tool", "content": f"Result {number}: " + "x " * (number % 7)})
    return {"messages": [*messages, {"role": "assistant", "content": "Done."}]}


def test_a_window_holds_as_much_context_as_fits(tokenizer: Any) -> None:
    sample = long_sample(30)
    messages = sample["messages"]
    rows = windows(sample, tokenizer, 400)
    assert len(rows) > 2
    for row in rows[1:]:
        assert row.messages[1]["weight"] == 0.0  # context comes first
        start = messages.index(next(message for message in row.messages if message["role"] == "tool")) - 1
        longer = [messages[0], *messages[start - 2 : start], *row.messages[1:]]
        assert len(render({"messages": longer}, tokenizer).input_ids) > 400
    assert [row.dropped_exchanges for row in rows] == [31 - len(row.rendered.turns) for row in rows]


def test_a_row_that_fits_is_one_window(tokenizer: Any, messages: Any) -> None:
    rendered = render({"messages": messages}, tokenizer)
    [row] = windows({"messages": messages}, tokenizer, len(rendered.input_ids))
    assert (row.rendered, row.dropped_messages) == (rendered, 0)


def test_a_sample_without_trained_turns_gives_the_row_of_truncate(tokenizer: Any) -> None:
    sample = long_sample(10)
    for message in sample["messages"]:
        if message["role"] == "assistant":
            message["weight"] = 0
    assert windows(sample, tokenizer, 300) == [truncate(sample, tokenizer, 300)]


def test_an_exchange_that_cannot_fit_names_its_message_and_both_numbers(tokenizer: Any) -> None:
    sample = long_sample(10)
    sample["messages"][6]["content"] = "long " * 300
    alone = {"messages": [sample["messages"][0], *sample["messages"][5:7]]}
    needed = len(render(alone, tokenizer).input_ids)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"message 5: its exchange needs {needed} tokens .* 300 are allowed; raise"):
        windows(sample, tokenizer, 300)


def test_long_rows_are_rendered_a_few_times_not_once_an_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(sample: Any, tokenizer: Any) -> Any:
        sizes.append(len(sample["messages"]))
        return render(sample, tokenizer)

    monkeypatch.setattr(truncate_module, "render", counted)
    sample = long_sample(200)
    truncate(sample, tiny_tokenizer(), 400)
    assert len(sizes) <= 3 and sizes[0] == 402
    sizes.clear()
    rows = windows(sample, tiny_tokenizer(), 400)
    assert len(sizes) <= 1 + 2 * len(rows)
    assert sum(sizes[1:]) <= 2 * sum(len(row.messages) for row in rows) + 100
