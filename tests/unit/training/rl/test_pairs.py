"""Pairs: what exploring makes of episodes, and what of a pair is learned from."""

import json

import pytest
from tests import rl_tasks
from tests.tiny import tiny_tokenizer

from sage.libs.finetune.agent.chatml import to_messages
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.jsonl import write_jsonl
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.tokenization.render import IGNORED, render
from sage.libs.finetune.agent.training.rl import pairs
from sage.libs.finetune.agent.trajectories.io import save_trajectories
from sage.libs.finetune.agent.types import FINISH, AgentTrajectory, TrajectoryStep


def episode(task, tool, answer="12"):
    arguments = {"query": "tea"} if tool == rl_tasks.FIND else {"a": 1, "b": 2}
    found = tool == rl_tasks.FIND
    steps = [
        TrajectoryStep("", tool, arguments, "12" if found else "nothing"),
        TrajectoryStep("", FINISH, {"answer": answer}, reward=float(found)),
    ]
    return AgentTrajectory(
        task["task_id"], task["instruction"], steps, success=found, total_reward=float(found), tools=rl_tasks.TOOLS
    )


def pair(number=0):
    """A row as `preference_pairs` makes it: `find` is right, `add` is wrong, answers of different length."""
    task = rl_tasks.TOOL_TASKS[number]
    good, bad = (to_messages(episode(task, tool, answer)) for tool, answer in (("find", "12"), ("add", "It is 12.")))
    return {"prompt": good[:1], "chosen": good[1:], "rejected": bad[1:], "tools": rl_tasks.TOOLS}


def config(tmp_path, **settings):
    defaults = {"max_steps": 3, "max_new_tokens": 40, "samples_per_task": 4, "output_dir": tmp_path}
    return RLTrainingConfig(algorithm="dpo", **{**defaults, **settings})


class Played:
    """Stands for the policy: `play` is replaced by one that returns these trajectories."""

    def __init__(self, trajectories):
        self.rollouts = [type("Rollout", (), {"trajectory": each}) for each in trajectories]
        self.broken = self.too_long = 0


def explored(tmp_path, monkeypatch, trajectories, **settings):
    monkeypatch.setattr(pairs, "play", lambda *_, **__: Played(trajectories))
    context = rl_tasks.context(tmp_path, rl_tasks.TOOL_TASKS, rl_tasks.Shop)
    context.agents = settings.pop("agents", {})
    return pairs.explored(None, config(tmp_path, **settings), context, 1)


def test_a_side_has_the_tokens_that_supervised_training_would_have():
    [found], _ = pairs.token_pairs([pair()], tiny_tokenizer(), 512)
    for side, row in (("chosen", found.chosen), ("rejected", found.rejected)):
        whole = render({"messages": [*pair()["prompt"], *pair()[side]], "tools": rl_tasks.TOOLS}, tiny_tokenizer())
        assert row == {"input_ids": whole.input_ids, "labels": whole.labels}
    words = tiny_tokenizer().decode([label for label in found.rejected["labels"] if label != IGNORED])
    assert "nothing" not in words  # the observation
    assert "It is 12." in words


def test_turns_of_the_prompt_are_not_learned_and_refused_ones_only_as_rejected():
    row = pair()
    later = {**row, "prompt": [*row["prompt"], *row["chosen"][:2]], "chosen": row["chosen"][2:],
             "rejected": [{"role": "assistant", "content": "Wrong.", "weight": 0.0}, *row["rejected"][2:]]}  # fmt: skip
    [found], _ = pairs.token_pairs([later], tiny_tokenizer(), 512)
    decoded = [
        tiny_tokenizer().decode([label for label in side["labels"] if label != IGNORED])
        for side in (found.chosen, found.rejected)
    ]
    assert decoded == ["12<|im_end|>", "Wrong.<|im_end|>It is 12.<|im_end|>"]


def test_a_pair_that_does_not_fit_or_teaches_nothing_is_left_out_and_counted():
    said = {"role": "assistant", "content": "?"}
    silent = {**pair(), "chosen": [{**said, "weight": 0.0}], "rejected": [said]}
    [fits], _ = pairs.token_pairs([pair()], tiny_tokenizer(), 512)
    rows = [pair(), silent]
    assert pairs.token_pairs(rows, tiny_tokenizer(), fits.length)[1] == {"too_long": 0, "untrained": 1}
    found, left_out = pairs.token_pairs(rows, tiny_tokenizer(), fits.length - 1)
    assert (found, left_out["too_long"]) == ([], 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": "12"}, "p.jsonl:1: field 'chosen': expected a list of messages, found '12'"),
        ({"prompt": []}, "p.jsonl:1: field 'prompt': expected a list of messages, found"),
        ({"rejected": [{"role": "robot", "content": ""}]}, r"p.jsonl:1, rejected: messages\[1\].role"),
    ],
)
def test_what_is_no_pair_is_named_with_its_line(change, said):
    with pytest.raises(DataError, match=said):
        pairs.token_pairs([{**pair(), **change}], tiny_tokenizer(), 512, "p.jsonl")


def test_only_a_success_and_a_failure_make_a_pair(tmp_path, monkeypatch):
    both, solved = rl_tasks.TOOL_TASKS
    played = [episode(both, "find"), episode(both, "add"), episode(solved, "find"), episode(solved, "find", "It is 12")]
    [row], counts = explored(tmp_path, monkeypatch, played)
    assert row["metadata"]["task_id"] == both["task_id"]
    assert (counts["both"], counts["only_successes"], counts["pairs"], counts["tasks_solved"]) == (1, 1, 1, 2)
    assert (counts["reward"], counts["success"], counts["episodes"]) == (0.75, 0.75, 8)


def test_what_was_never_solved_is_paired_with_the_expert(tmp_path, monkeypatch):
    solved, unsolved = rl_tasks.TOOL_TASKS
    played = [episode(solved, "find"), episode(unsolved, "add")]
    file = tmp_path / "expert.jsonl"
    save_trajectories(file, [episode(task, "find", "The expert says 12") for task in rl_tasks.TOOL_TASKS])
    assert explored(tmp_path, monkeypatch, played)[0] == []
    [row], counts = explored(tmp_path, monkeypatch, played, expert=str(file))
    assert row["chosen"][-1]["content"] == "The expert says 12"
    assert (counts["expert"], counts["pairs"], row["metadata"]["task_id"]) == (1, 1, unsolved["task_id"])


def test_the_environments_own_expert_plays_what_was_never_solved(tmp_path, monkeypatch):
    asked = []

    def agent(task, history):
        asked.append(task["task_id"])
        return {"action": FINISH, "action_input": {"answer": "12"}} if history else {
            "action": "find", "action_input": {"query": "tea"},
        }  # fmt: skip

    played = [episode(task, "add") for task in rl_tasks.TOOL_TASKS]
    rows, counts = explored(tmp_path, monkeypatch, played, expert="scripted", agents={"expert": lambda **_: agent})
    assert (len(rows), counts["expert"], set(asked)) == (2, 2, {"tea-0", "tea-1"})


def test_an_expert_that_is_not_there_is_told_before_anything_is_played(tmp_path):
    context = rl_tasks.context(tmp_path, rl_tasks.TOOL_TASKS, rl_tasks.Shop)
    with pytest.raises(ConfigError, match="'expert': desk has no scripted expert"):
        pairs.require_expert(config(tmp_path, expert="scripted"), context)
    with pytest.raises(DataError, match="nowhere"):
        pairs.require_expert(config(tmp_path, expert="nowhere.jsonl"), context)


def test_replies_that_nobody_could_read_make_no_pair(tmp_path, monkeypatch):
    task = rl_tasks.TOOL_TASKS[0]
    mumbled = AgentTrajectory(
        task["task_id"], task["instruction"],
        [TrajectoryStep("", "invalid", {}, "what?", error="unreadable", reply="{{")], tools=rl_tasks.TOOLS,
    )  # fmt: skip
    rows, counts = explored(tmp_path, monkeypatch, [episode(task, "find"), mumbled, mumbled])
    assert (rows, counts["unreadable"], counts["only_successes"]) == ([], 2, 1)


def test_a_success_that_the_reward_ranks_lower_makes_no_pair(tmp_path, monkeypatch):
    task = rl_tasks.TOOL_TASKS[0]
    monkeypatch.setattr(pairs, "play", lambda *_, **__: Played([episode(task, "find"), episode(task, "add")]))
    context = rl_tasks.context(
        tmp_path, rl_tasks.TOOL_TASKS, rl_tasks.Shop, lambda one: float(one.steps[0].action == "add")
    )
    rows, counts = pairs.explored(None, config(tmp_path), context, 1)
    assert (rows, counts["too_close"]) == ([], 1)


def test_a_round_goes_on_with_what_it_wrote_down(tmp_path, monkeypatch):
    file = tmp_path / "pairs.jsonl"
    write_jsonl(file, [pair(0), pair(1)])
    settings = config(tmp_path, preferences=str(file))
    context = rl_tasks.context(tmp_path, rl_tasks.TOOL_TASKS, rl_tasks.Shop)
    loaded = rl_tasks.random_policy()
    first = pairs.pairs_of_round(loaded, settings, context, 1)
    file.write_text("")
    again = pairs.pairs_of_round(loaded, settings, context, 1)
    assert len(first) == 2
    assert first == again
    [counts] = json.loads((tmp_path / "pairs.json").read_text())
    assert (counts["pairs"], counts["learned_from"], counts["left_out"]) == (2, 2, {"too_long": 0, "untrained": 0})
