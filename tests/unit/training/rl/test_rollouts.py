import pytest
import torch
from tests.rl_tasks import BANDIT, TOOL_TASKS, OneTurn, Shop, random_policy, tool_policy

from sage.libs.finetune.agent.chatml import to_messages
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import TrainingError
from sage.libs.finetune.agent.tokenization.render import render
from sage.libs.finetune.agent.training.rl.lessons import episodes_of
from sage.libs.finetune.agent.training.rl.rollouts import PolicyAgent, play
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector

STOPS = ["<|im_end|>", "<|endoftext|>"]
KEEP_ALL = CollectorConfig(require_success=False, max_steps=10)


class Script:
    """A generator that answers with given tokens: replies[key] are those of an episode, turn by turn."""

    def __init__(self, replies):
        self.replies = {key: list(turns) for key, turns in replies.items()}
        self.prompts = {}

    def generate(self, prompts, *, max_new_tokens, keys, choose):
        for key, prompt in zip(keys, prompts, strict=True):
            self.prompts.setdefault(key, []).append(prompt)
        return [self.replies[key].pop(0) for key in keys]


def scripted(replies, max_length=4096):
    policy = random_policy()
    policy.model.generation_config.eos_token_id = policy.tokenizer.convert_tokens_to_ids(STOPS)
    agent = PolicyAgent(policy, max_new_tokens=400, max_length=max_length)
    agent.generator = Script(replies)
    return agent


@pytest.mark.parametrize("batch", [1, 8])
def test_replies_in_the_form_of_our_rows_give_the_tokens_and_labels_of_our_rows(batch):
    tokenizer, tasks = random_policy().tokenizer, desk_tasks("train", 8)
    experts = TrajectoryCollector(DeskExpert(), KEEP_ALL, DeskEnvironment).collect(tasks)
    rows = {
        one.task_id: render({"messages": to_messages(one), "tools": one.tools}, tokenizer)
        for one in experts
    }  # fmt: skip
    agent = scripted(
        {(name, 0): [row.input_ids[start:stop] for start, stop in row.turns] for name, row in rows.items()}
    )
    settings = CollectorConfig(require_success=False, max_steps=10, batch_size=batch)
    played = TrajectoryCollector(agent, settings, DeskEnvironment).collect(tasks)
    assert len(played) == 8 and all(one.success for one in played)
    assert max(len(one.steps) for one in played) > 2
    for one in played:
        rollout, row = agent.rollout(one), rows[one.task_id]
        end = row.turns[-1][1]  # what the template writes after the last turn, nobody reads
        assert rollout.ids == row.input_ids[:end]
        assert rollout.labels == row.labels[:end]
        assert set(row.labels[end:]) <= {-100}
        assert [(turn.start, turn.stop) for turn in rollout.turns] == row.turns
        assert rollout.prompt_length == row.turns[0][0] and not rollout.truncated


CALL = '{"name": "find", "arguments": {"query": "tea"}}'
ODD = {
    "extra spaces": f"  {CALL}  \n <|im_end|>",
    "spaces in the call": '{"name" :"find",  "arguments":{ "query":"tea" }}<|im_end|>',
    "broken": '{"name": "find", "arguments": {"query": <|im_end|>',
    "cut off": '{"name": "find", "argu',
    "two calls": f"{CALL}\n{CALL}<|im_end|>",
    "unknown tool": '{"name": "fly", "arguments": {}}<|im_end|>',
    "nothing": "<|im_end|>",
    "another turn within": f"so<|im_start|>user\nhi{CALL}<|im_end|>",
    "another stop token": f"{CALL}<|endoftext|>",
}


@pytest.mark.parametrize("name", ODD)
def test_the_policys_tokens_stay_as_it_wrote_them_whatever_they_say(name):
    tokenizer = random_policy().tokenizer
    odd = tokenizer.encode(ODD[name], add_special_tokens=False)
    answer = tokenizer.encode("12<|im_end|>", add_special_tokens=False)
    agent = scripted({("tea-0", 0): [odd, odd, answer]})
    [played] = TrajectoryCollector(agent, KEEP_ALL, Shop).collect(TOOL_TASKS[:1])
    assert played.error is None and len(played.steps) == 3
    rollout = agent.rollout(played)
    assert [rollout.ids[turn.start : turn.stop] for turn in rollout.turns] == [odd, odd, answer]
    assert [label for label in rollout.labels if label != -100] == [*odd, *odd, *answer]
    for turn, prompt in zip(rollout.turns, agent.generator.prompts["tea-0", 0], strict=True):
        assert prompt == rollout.ids[: turn.start]
    first, second = rollout.turns[:2]
    between = tokenizer.decode(rollout.ids[first.stop : second.start])
    opening = "<|im_end|>\n<|im_start|>" if name == "cut off" else "\n<|im_start|>"
    assert between.startswith(opening) and between.endswith("<|im_start|>assistant\n")
    assert between.count("<|im_start|>") == 2  # what it was answered, and its next turn


def test_the_tokens_that_a_greedy_policy_wrote_are_the_likeliest_after_those_before_them():
    policy = tool_policy()
    played = play(policy, TOOL_TASKS, Shop, temperature=0.0, max_new_tokens=60, max_steps=3)
    assert played.broken == 0 and len(played.rollouts) == 2
    assert played.tokens == sum(label != -100 for one in played.rollouts for label in one.labels)
    for rollout in played.rollouts:
        assert len(rollout.turns) >= 2
        likeliest = policy.model(input_ids=torch.tensor([rollout.ids])).logits[0].argmax(-1).tolist()
        for turn in rollout.turns:
            assert rollout.ids[turn.start : turn.stop] == likeliest[turn.start - 1 : turn.stop - 1]


def by_name(played):
    return {rollout.name: (rollout.ids, rollout.turns, rollout.truncated) for rollout in played.rollouts}


def test_what_is_played_depends_on_neither_batch_size_nor_order_and_samples_differ():
    policy, tasks = random_policy(), episodes_of(TOOL_TASKS, 10, 1, 0)
    options = {"max_new_tokens": 10, "max_steps": 3, "seed": "0 1"}
    played = play(policy, tasks, Shop, **options)
    first = by_name(played)
    assert [rollout.name for rollout in played.rollouts] == [
        f"{task['task_id']}, sample {task['metadata']['sample']}" for task in tasks
    ]
    assert len({tuple(ids) for ids, _, _ in first.values()}) == 10
    for size, order in ((1, tasks), (3, tasks[::-1]), (64, tasks[5:] + tasks[:5])):
        assert by_name(play(policy, order, Shop, batch_size=size, **options)) == first
    assert by_name(play(policy, tasks, Shop, **{**options, "seed": "0 2"})) != first


def test_whatever_a_wild_policy_writes_no_episode_breaks_off():
    played = play(
        random_policy(), episodes_of(TOOL_TASKS, 40, 1, 0), Shop, temperature=5.0, max_new_tokens=12, max_steps=4
    )
    assert played.broken == 0 and len(played.rollouts) == 40
    assert {len(rollout.turns) for rollout in played.rollouts} >= {4}
    assert any(rollout.truncated for rollout in played.rollouts)


def test_an_episode_ends_where_another_turn_would_not_fit():
    prompt = play(random_policy(), TOOL_TASKS[:1], Shop, max_new_tokens=8, max_steps=1).rollouts[0].prompt_length
    played = play(random_policy(), TOOL_TASKS[:1], Shop, max_new_tokens=8, max_steps=9, max_length=prompt + 8)
    [rollout] = played.rollouts
    assert len(rollout.ids) <= prompt + 8 and len(rollout.turns) == 1 and rollout.truncated
    assert rollout.trajectory.metadata["ended"] == "gave_up" and played.too_long == 0


def test_a_prompt_without_room_for_a_turn_is_counted_or_if_all_are_so_refused():
    long = {**TOOL_TASKS[0], "task_id": "long", "instruction": "tea " * 300}
    played = play(random_policy(), [long, TOOL_TASKS[1]], Shop, max_new_tokens=8, max_length=300)
    assert (played.too_long, [rollout.trajectory.task_id for rollout in played.rollouts]) == (1, ["tea-1"])
    with pytest.raises(TrainingError, match=r"no episode had room for a single turn.*max_seq_length \(300\); raise it"):
        play(random_policy(), [long], Shop, max_new_tokens=8, max_length=300)


class Closed(Shop):
    """Fails at the first task's answer, and at once where `always`."""

    always = False

    def reset(self, task):
        super().reset(task)
        self.fails = task["task_id"] == "tea-0"
        if self.always:
            raise OSError("the shop is closed")

    def step(self, action, action_input):
        if self.fails and action == "finish":
            raise OSError("the shop is closed")
        return super().step(action, action_input)


class AlwaysClosed(Closed):
    always = True


def test_broken_episodes_are_left_out():
    played = play(tool_policy(), TOOL_TASKS, Closed, max_new_tokens=60, temperature=0.0)
    assert played.broken == 1
    assert [rollout.trajectory.task_id for rollout in played.rollouts] == ["tea-1"]


def test_when_all_episodes_break_off_the_first_error_is_told():
    with pytest.raises(TrainingError, match=r"all 2 episodes broke off; the first, of task 'tea-0': OSError: the shop"):
        play(random_policy(), TOOL_TASKS, AlwaysClosed)


def test_a_policy_that_computes_nan_is_no_matter_of_one_episode():
    policy = random_policy()
    policy.model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(
        TrainingError, match=r"^the policy computes NaN: if it has learned already, lower learning_rate"
    ):
        play(policy, TOOL_TASKS, Shop)


def test_an_episode_without_a_stop_at_its_end_is_not_given_one():
    [rollout] = play(random_policy(), BANDIT, OneTurn, max_new_tokens=2, max_steps=1).rollouts
    assert len(rollout.ids) == rollout.prompt_length + 2
    assert rollout.labels[: rollout.prompt_length] == [-100] * rollout.prompt_length
    assert rollout.labels[rollout.prompt_length :] == rollout.ids[rollout.prompt_length :]
