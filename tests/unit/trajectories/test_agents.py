import pytest
from tests.tiny import tiny_model, tiny_tokenizer

from sage.libs.finetune.agent import AgentTrajectory, TrajectoryCollector, TrajectoryStep
from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.tokenization.render import render
from sage.libs.finetune.agent.tokenization.template import TemplateChoice
from sage.libs.finetune.agent.trajectories.agents import ModelAgent, read_reply
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig


@pytest.fixture
def loaded():
    return LoadedModel(tiny_model(), tiny_tokenizer(), TemplateChoice("chatml_tools", "compact", "test"), "tiny")


def spoken(agent, replies):
    """Let the agent say these texts in turn, and keep the prompts it was given."""
    prompts = []

    def generate(given, **_):
        prompts.extend(given)
        return [tiny_tokenizer()(replies.pop(0) + "<|im_end|>")["input_ids"] for _ in given]

    agent.generator.generate = generate
    return prompts


def test_the_prompts_of_an_episode_are_those_of_its_training_row(loaded):
    """Train tokens == serve tokens: a model that says what the expert says sees exactly the training row."""
    task = desk_tasks("train", 1)[0]
    expert = TrajectoryCollector(DeskExpert(), environment=DeskEnvironment()).collect_single(task)
    row = to_chatml(expert)
    rendered = render(row, tiny_tokenizer())
    turns = [tiny_tokenizer().decode(rendered.input_ids[start:end]) for start, end in rendered.turns]
    agent = ModelAgent(loaded)
    prompts = spoken(agent, [turn.removesuffix("<|im_end|>") for turn in turns])
    again = TrajectoryCollector(agent, environment=DeskEnvironment()).collect_single(task)
    assert again.success and [s.action for s in again.steps] == [s.action for s in expert.steps]
    assert prompts == [rendered.input_ids[:start] for start, _ in rendered.turns]


def test_after_a_mistake_the_prompt_is_that_of_the_training_row_too(loaded):
    task = desk_tasks("train", 1)[0]
    agent = ModelAgent(loaded)
    prompts = spoken(agent, ['{"name": "find_customer", "arguments": {', "none"])
    episode = TrajectoryCollector(agent, environment=DeskEnvironment()).collect_single(task)
    rendered = render(to_chatml(episode), tiny_tokenizer())
    assert prompts == [rendered.input_ids[:start] for start, _ in rendered.turns]
    assert "unreadable call" in tiny_tokenizer().decode(prompts[1])


def test_an_unreadable_call_is_a_step_and_the_episode_goes_on(loaded):
    task = desk_tasks("train", 1)[0]
    agent = ModelAgent(loaded)
    spoken(agent, ['{"name": "find_customer", "arguments": {', "none"])
    episode = TrajectoryCollector(agent, environment=DeskEnvironment()).collect_single(task)
    assert [step.action for step in episode.steps] == ["invalid", "finish"]
    assert episode.steps[0].error.startswith("unreadable call") and not episode.success
    assert episode.steps[0].reply == '{"name": "find_customer", "arguments": {'


def test_a_reply_cut_off_at_the_limit_is_no_answer(loaded):
    task = desk_tasks("train", 1)[0]
    agent = ModelAgent(loaded)
    agent.generator.generate = lambda given, **_: [tiny_tokenizer()("none")["input_ids"] for _ in given]
    episode = TrajectoryCollector(agent, CollectorConfig(max_errors=2), DeskEnvironment()).collect_single(task)
    assert [step.action for step in episode.steps] == ["invalid", "invalid"]
    assert "cut off at the token limit" in episode.steps[0].error


def test_the_thought_before_an_answer_is_kept():
    decision = read_reply("2 + 2 is 4.\nAnswer: 4<|im_end|>")
    assert (decision["thought"], decision["action_input"]) == ("2 + 2 is 4.", {"answer": "4"})


def test_of_several_calls_the_first_is_made():
    reply = '{"name": "a", "arguments": {}}\n{"name": "b", "arguments": {}}'
    assert read_reply(reply)["action"] == "a"


def test_examples_stand_between_system_and_task(loaded):
    task = desk_tasks("train", 1)[0]
    example = AgentTrajectory("e", "What is 1 + 1?", [TrajectoryStep("", "finish", {"answer": "2"})])
    agent = ModelAgent(loaded, examples=lambda _: [example])
    prompts = spoken(agent, ["none"])
    agent.act_batch([task], [[]])
    text = tiny_tokenizer().decode(prompts[0])
    order = [text.index(part) for part in (task["system_prompt"], "What is 1 + 1?", "2<|im_end|>", task["instruction"])]
    assert order == sorted(order)


def test_a_real_model_in_lockstep_equals_one_task_at_a_time(loaded):
    tasks = desk_tasks("train", 4)

    def run(batch):
        agent = ModelAgent(loaded, max_new_tokens=12)
        settings = CollectorConfig(max_steps=2, require_success=False, batch_size=batch)
        return TrajectoryCollector(agent, settings, DeskEnvironment).collect(tasks)

    assert [t.steps for t in run(4)] == [t.steps for t in run(1)]


def test_an_empty_reply_is_no_answer(loaded):
    agent = ModelAgent(loaded)
    spoken(agent, [""])
    [decision] = agent.act_batch(desk_tasks("train", 1), [[]])
    assert (decision["action"], decision["error"]) == ("invalid", "unreadable reply: it says nothing")


def test_strategies_work_for_local_models(loaded):
    task = desk_tasks("train", 1)[0]
    agent = ModelAgent(loaded, strategy="react", calls="text")
    prompts = spoken(agent, ["Thought: Look.\nAction: find_customer\nAction Input: {}\nObservation: no"])
    [decision] = agent.act_batch([task], [[]])
    assert (agent.method, decision["action"], decision["thought"]) == ("react", "find_customer", "Look.")
    assert "Action Input: its arguments as one JSON object" in tiny_tokenizer().decode(prompts[0])


def test_samples_of_a_task_differ_and_do_not_depend_on_the_batch(loaded):
    task = desk_tasks("train", 1)[0]
    samples = [{**task, "metadata": {"sample": sample}} for sample in range(3)]

    def replies(tasks, seed=0):
        agent = ModelAgent(loaded, max_new_tokens=12, temperature=1.0, seed=seed)
        return [decision["reply"] for decision in agent.act_batch(tasks, [[] for _ in tasks])]

    together = replies(samples)
    assert len(set(together)) == 3
    assert together == [replies([sample])[0] for sample in samples]
    assert replies([task]) == together[:1]  # a task without a number is its first sample
    assert replies(samples, seed=1) != together


def test_sampled_episodes_in_lockstep_equal_one_at_a_time(loaded):
    tasks = desk_tasks("train", 4)

    def run(batch):
        agent = ModelAgent(loaded, max_new_tokens=12, temperature=1.0)
        settings = CollectorConfig(max_steps=2, require_success=False, batch_size=batch)
        return TrajectoryCollector(agent, settings, DeskEnvironment).collect(tasks)

    assert [t.steps for t in run(4)] == [t.steps for t in run(1)]


def test_a_temperature_below_zero_is_refused(loaded):
    with pytest.raises(ConfigError, match="ModelAgent: temperature=-1: expected a number of at least 0"):
        ModelAgent(loaded, temperature=-1)
