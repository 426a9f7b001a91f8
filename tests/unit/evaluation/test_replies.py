import pytest

from sage.libs.finetune.agent import AgentTrajectory, ScoringError, TrajectoryStep
from sage.libs.finetune.agent.evaluation.episodes import by, score_episodes
from sage.libs.finetune.agent.evaluation.replies import call_fault, score_reply
from sage.libs.finetune.agent.evaluation.statistics import wilson_interval

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
                "additionalProperties": False,
            },
        },
    }
]


def turn(*calls, content=""):
    tool_calls = [{"id": "1", "type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    return {"role": "assistant", "content": content, "tool_calls": tool_calls}


TRUE = turn(("add", {"a": 1, "b": 2}), content="One plus two.")


@pytest.mark.parametrize(
    ("reply", "right", "attempted", "valid", "reason"),
    [
        ('One plus two.\n{"name": "add", "arguments": {"a": 1, "b": 2}}<|im_end|>', True, True, True, "same calls"),
        ('{"name": "add", "arguments": {"b": 2, "a": 1}}', True, True, True, "same calls"),
        ('{"name": "add", "arguments": {"a": 1, "b": 3}}', False, True, True, "other arguments"),
        ('{"name": "add", "arguments": {"a": "1", "b": 2}}', False, True, False, "is not of type"),
        ('{"name": "sub", "arguments": {"a": 1, "b": 2}}', False, True, False, "no tool 'sub'"),
        ('{"name": "add", "arguments": {"a": 1, "b": 2', False, True, False, "unreadable call"),
        ("3", False, False, False, "answered where a call was due"),
    ],
)
def test_a_call_is_right_when_it_is_the_same_call(reply, right, attempted, valid, reason):
    score = score_reply(reply, TRUE, TOOLS)
    assert (score.right, score.attempted, score.valid) == (right, attempted, valid)
    assert reason in score.reason


def test_parallel_calls_match_in_any_order_but_not_in_number():
    expected = turn(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))
    one, two = ('{"name": "add", "arguments": {"a": 1, "b": 2}}', '{"name": "add", "arguments": {"a": 3, "b": 4}}')
    assert score_reply(f"{two}\n{one}", expected, TOOLS).right
    assert not score_reply(one, expected, TOOLS).right
    assert not score_reply(f"{one}\n{one}", expected, TOOLS).right


@pytest.mark.parametrize(
    ("reply", "right"),
    [("84", True), ("84.", True), ("Sum it.\nAnswer: 84<|im_end|>", True), ("85", False), ("", False)],
)
def test_an_answer_is_compared_as_an_answer(reply, right):
    assert score_reply(reply, turn(content="84"), TOOLS).right is right


def test_a_call_where_an_answer_was_due_is_wrong():
    score = score_reply('{"name": "add", "arguments": {"a": 1, "b": 2}}', turn(content="3"), TOOLS)
    assert not score.right and score.valid and score.reason == "called a tool where an answer was due"


def test_a_tool_with_a_broken_schema_is_an_error_not_a_score():
    broken = [{"type": "function", "function": {"name": "f", "parameters": {"type": "no such type"}}}]
    with pytest.raises(ScoringError, match="tool 'f'"):
        call_fault("f", {}, broken)


def test_wilson_interval_against_published_values():
    """Newcombe (1998), table I: 81 of 263 and 0 of 20."""
    interval = wilson_interval(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    interval = wilson_interval(0, 20)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.0, 0.1611)
    assert (wilson_interval(0, 0).low, wilson_interval(0, 0).high) == (0.0, 1.0)
    with pytest.raises(ValueError):
        wilson_interval(3, 2)


def test_episodes_are_counted_broken_ones_included():
    good = AgentTrajectory("a", "?", [TrajectoryStep("", "add", {"a": 1, "b": 2})], success=True, tools=TOOLS)
    bad = AgentTrajectory(
        "b", "?",
        [TrajectoryStep("", "add", {"a": "x"}), TrajectoryStep("", "invalid", {}, reply="{", error="unreadable"),
         TrajectoryStep("", "finish", {"answer": "3"})],
        tools=TOOLS,
    )  # fmt: skip
    broken = AgentTrajectory("c", "?", error="KeyError: 'x' (agent, step 1)")
    score = score_episodes([good, bad, broken])
    assert (score.successes, score.n, score.calls_valid, score.calls, score.broken) == (1, 3, 1, 3, 1)
    assert list(by([good, bad, broken], lambda t: str(t.success))) == ["True", "False"]
