"""Arbitrary conversations of an agent: thoughts, words, parallel calls with any arguments, answers, later questions."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
TRICKY = st.lists(
    st.sampled_from([*'{}[]"\\\né:,💡 ', "<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "name"]),
    max_size=12,
).map("".join)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS | TRICKY
VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(WORDS | st.sampled_from(["name", "arguments", "</think>"]), VALUES, max_size=3)
NAMES = st.sampled_from(["find", "noop", "a.b", "get_price"])


def _call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "call00001", "type": "function", "function": {"name": name, "arguments": arguments}}


CALLS = st.lists(st.builds(_call, NAMES, ARGUMENTS), max_size=3)


@st.composite
def conversations(draw: st.DrawFn, *, words: Any = WORDS, thoughts: bool = True, most_calls: int = 3) -> Any:
    """Messages: perhaps a system message, a question, then exchanges; each call is answered by a tool message."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": draw(words)}]
    if draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": draw(words)})
    for _ in range(draw(st.integers(1, 4))):
        turn: dict[str, Any] = {"role": "assistant", "content": draw(words)}
        if thoughts and draw(st.booleans()):
            turn["reasoning_content"] = draw(words)
        calls = draw(CALLS)[:most_calls]
        if calls:
            turn["tool_calls"] = calls
        messages.append(turn)
        messages += [{"role": "tool", "content": draw(words), "tool_call_id": "call00001"} for _ in calls]
        if not calls:
            messages.append({"role": "user", "content": draw(words)})
    return messages
