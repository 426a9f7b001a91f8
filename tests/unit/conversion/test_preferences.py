"""Pairs of one task's success and failure, and why there are not more of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent.chatml import to_messages
from sage.libs.finetune.agent.conversion.preferences import PairStats, pair_stats, preference_pairs
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, NoisyDeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep

TOOLS = [{"type": "function", "function": {"name": "find", "description": "Find.", "parameters": {"type": "object"}}}]


def found(query: str, observation: str = "42", error: str | None = None) -> TrajectoryStep:
    return TrajectoryStep(f"I look for {query}.", "find", {"q": query}, observation, error=error)


def answered(answer: str) -> TrajectoryStep:
    return TrajectoryStep("", "finish", {"answer": answer})


def episode(*steps: TrajectoryStep, success: bool = True, task_id: str = "t", **fields: Any) -> AgentTrajectory:
    values: dict[str, Any] = {"total_reward": float(success), "tools": TOOLS, "system_prompt": "Be brief.", **fields}
    return AgentTrajectory(task_id, "How many?", list(steps), success, **values)


def counts(*trajectories: AgentTrajectory, **settings: Any) -> dict[str, int]:
    return {name: n for name, n in pair_stats(trajectories, **settings).to_dict().items() if n}


def test_a_row_is_the_two_conversations_cut_at_the_first_turn() -> None:
    good = episode(found("desks"), answered("42"), total_reward=1.0)
    bad = episode(found("desks"), answered("41"), success=False, total_reward=0.25)
    [row] = preference_pairs([bad, good])
    assert row["prompt"] + row["chosen"] == to_messages(good) and row["prompt"] + row["rejected"] == to_messages(bad)
    assert row["prompt"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    assert [message["role"] for message in row["chosen"]] == ["assistant", "tool", "assistant"]
    assert row["chosen"][0]["tool_calls"][0]["function"] == {"name": "find", "arguments": {"q": "desks"}}
    assert row["tools"] == TOOLS
    assert row["metadata"] == {"task_id": "t", "chosen_reward": 1.0, "rejected_reward": 0.25, "common_turns": 0}
    assert json.loads(json.dumps(row)) == row


def test_the_prompt_may_go_up_to_where_they_part() -> None:
    good = episode(found("desks"), found("lamps"), answered("42"))
    bad = episode(found("desks"), answered("41"), success=False)
    [row] = preference_pairs([good, bad], divergence="step")
    assert [message["role"] for message in row["prompt"]] == ["system", "user", "assistant", "tool"]
    assert row["chosen"][0]["content"] == "I look for lamps." and row["rejected"][0]["content"] == "41"
    assert row["metadata"]["common_turns"] == 1
    assert row["prompt"] + row["rejected"] == to_messages(bad)


@pytest.mark.parametrize(
    ("good", "bad", "common"),
    [
        ([found("a", "1"), answered("1")], [found("a", "2"), answered("2")], 0),  # answered in two ways
        ([found("a"), found("b"), answered("1")], [found("a"), found("b")], 1),  # cut off
        ([found("a"), found("b")], [found("a"), found("b"), answered("1")], 1),  # the environment ended the one
        ([found("a"), found("b")], [found("a"), found("b", error="no")], None),  # the agent did the same
    ],
)
def test_both_sides_have_something_to_say(
    good: list[TrajectoryStep], bad: list[TrajectoryStep], common: int | None
) -> None:
    pair = [episode(*good), episode(*bad, success=False)]
    rows = preference_pairs(pair, divergence="step")
    if common is None:
        assert rows == [] and counts(*pair)["same"] == 1
        return
    [row] = rows
    assert row["metadata"]["common_turns"] == common
    assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"
    assert row["prompt"][-1]["role"] in ("user", "tool")


def test_a_pair_is_of_one_task() -> None:
    good, answer = episode(answered("42")), answered("41")
    others = [
        episode(answer, success=False, task_id="u"),
        episode(answer, success=False, system_prompt=None),
        episode(answer, success=False, tools=[]),
        episode(answer, success=False, metadata={"opening": "Another room."}),
    ]
    assert preference_pairs([good, *others]) == []
    assert counts(good, *others) == {"trajectories": 5, "tasks": 5, "only_successes": 1, "only_failures": 4}


def test_what_is_no_evidence_is_left_out_and_counted() -> None:
    everything = [
        episode(answered("42")),
        episode(answered("41"), success=False, error="Timeout: x (agent, step 2)"),
        episode(answered("41"), success=False, metadata={"judged": False}),
        episode(success=False),
    ]
    assert preference_pairs(everything) == []
    assert counts(*everything) == {
        "trajectories": 4, "broken": 1, "unjudged": 1, "empty": 1, "tasks": 1, "only_successes": 1,
    }  # fmt: skip


def test_two_successes_are_no_pair_whatever_their_rewards() -> None:
    everything = [episode(answered("42"), total_reward=1.0), episode(answered("43"), total_reward=0.0)]
    assert preference_pairs(everything) == [] and counts(*everything)["only_successes"] == 1


def test_the_gap_of_the_rewards() -> None:
    pair = [episode(answered("42")), episode(answered("41"), success=False, total_reward=0.5)]
    assert len(preference_pairs(pair, min_reward_gap=0.5)) == 1
    assert preference_pairs(pair, min_reward_gap=0.6) == [] and counts(*pair, min_reward_gap=0.6)["too_close"] == 1
    upside_down = [episode(answered("42"), total_reward=0.0), episode(answered("41"), success=False, total_reward=0.5)]
    assert preference_pairs(upside_down) == []


def test_episodes_take_turns() -> None:
    good = [episode(answered(f"right {n}")) for n in range(2)]
    bad = [episode(answered(f"wrong {n}"), success=False) for n in range(3)]
    pairs = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in
             preference_pairs([*good, *bad], max_pairs_per_task=9)]  # fmt: skip
    assert len(set(pairs)) == 6
    assert len({one for one, _ in pairs[:2]}) == len({other for _, other in pairs[:2]}) == 2
    assert [row["chosen"][0]["content"] for row in preference_pairs([*good, *bad], max_pairs_per_task=2)] == [
        one for one, _ in pairs[:2]
    ]


def test_the_seed_decides_and_nothing_else() -> None:
    everything = [episode(answered(str(n)), success=n < 10) for n in range(20)]
    rows = preference_pairs(everything, seed=1)
    assert rows == preference_pairs(everything, seed=1)
    assert len({preference_pairs(everything, seed=seed)[0]["chosen"][0]["content"] for seed in range(20)}) > 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_pairs_per_task": 0}, "max_pairs_per_task=0: expected a whole number of at least 1"),
        ({"min_reward_gap": "1"}, "min_reward_gap='1': expected a number"),
        ({"divergence": "turn"}, "divergence='turn': expected trajectory or step"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preference_pairs([], **setting)


def test_nothing_in_nothing_out() -> None:
    assert preference_pairs([]) == [] and pair_stats([]) == PairStats()


STEPS = st.lists(st.sampled_from([found("a"), found("a", "7"), found("b", error="no"), answered("1"), answered("2")]),
                 min_size=1, max_size=4)  # fmt: skip


@given(st.lists(st.tuples(STEPS, st.booleans(), st.sampled_from("tu")), max_size=8), st.integers(1, 4))
def test_what_holds_for_all_pairs(drawn: list[tuple[list[TrajectoryStep], bool, str]], most: int) -> None:
    everything = []
    for steps, success, task_id in drawn:
        end = next((i for i, step in enumerate(steps, 1) if step.action == "finish"), len(steps))
        everything.append(episode(*steps[:end], success=success, task_id=task_id))
    told = {json.dumps(to_messages(one)): (one.success, one.task_id) for one in reversed(everything)}
    for divergence in ("trajectory", "step"):
        rows = preference_pairs(everything, max_pairs_per_task=most, divergence=divergence)  # type: ignore[arg-type]
        stats = pair_stats(everything, max_pairs_per_task=most, divergence=divergence)  # type: ignore[arg-type]
        assert stats.pairs == len(rows) <= most * stats.both
        assert stats.tasks == stats.both + stats.only_successes + stats.only_failures
        for row in rows:
            assert row["chosen"] and row["rejected"] and row["chosen"] != row["rejected"]
            assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"
            for side in ("chosen", "rejected"):
                assert json.dumps(row["prompt"] + row[side]) in told


def test_pairs_from_the_desk() -> None:
    """Two samples of each task, by experts that err on different tasks."""
    episodes = []
    for seed in range(2):
        expert = NoisyDeskExpert(0.5, seed)
        for task in desk_tasks("train", 40):
            desk, steps, success = DeskEnvironment(), [], False
            desk.reset(task)
            for _ in range(10):
                step = expert.act(task, steps)
                result = desk.step(step.action, step.action_input)
                steps.append(TrajectoryStep("", step.action, step.action_input, result.observation, error=result.error))
                if result.done:
                    success = bool(result.success)
                    break
            episodes.append(AgentTrajectory(task["task_id"], task["instruction"], steps, success, tools=task["tools"]))
    stats = pair_stats(episodes, divergence="step")
    assert stats.tasks == 40 == stats.both + stats.only_successes + stats.only_failures
    assert stats.pairs == stats.both > 10
