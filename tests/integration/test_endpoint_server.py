"""`EndpointAgent` against `transformers serve` with a model that learned some sums by heart, and on a bad line."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import pytest
import torch
from tests.servers import FaultyProxy, serve
from tests.tiny import new_tokenizer, save_tiny, tiny_model

from sage.libs.finetune.agent import AgentTrajectory, CollectorConfig, TrajectoryCollector, TrajectoryStep
from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.tokenization.collate import collate
from sage.libs.finetune.agent.tokenization.render import render
from sage.libs.finetune.agent.tokenization.template import prepare_template
from sage.libs.finetune.agent.trajectories.endpoint import EndpointAgent
from sage.libs.finetune.agent.trajectories.strategies import STRATEGIES
from sage.libs.finetune.agent.types import StepResult

for package in ("openai", "fastapi", "uvicorn"):
    pytest.importorskip(package, reason="the endpoint tests run `transformers serve`: pip install 'sage-libs[dev]'")

PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS}}
SUMS = [(1, 2), (3, 4), (5, 1)]
TASKS = [
    {"task_id": f"{a}+{b}", "instruction": f"What is {a} + {b}?", "tools": [ADD], "answer": a + b} for a, b in SUMS
]


THINK = {"task_id": "think", "instruction": "What is 2 + 2?", "answer": 4}
"""For chain of thought. Only replies learned by heart are sure: the server fails on half a call."""


class Sums:
    """Adds, and has no verdict: the answer is compared with the task's."""

    def reset(self, task):
        return None

    def step(self, action, action_input):
        if action == "finish":
            return StepResult("", done=True)
        return StepResult(str(action_input["a"] + action_input["b"]))


def expected(task):
    """The episode the model learned: one native call, then the answer."""
    a, b = map(int, task["task_id"].split("+"))
    steps = [
        TrajectoryStep("", "add", {"a": a, "b": b}, str(a + b)),
        TrajectoryStep("", "finish", {"answer": str(a + b)}),
    ]
    return AgentTrajectory(task["task_id"], task["instruction"], steps, tools=[ADD])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that knows the episodes by heart; of kind qwen2, whose calls the server can read."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = new_tokenizer()
    prepare_template(tokenizer, "json", small_model=True)
    save_tiny(folder, "qwen2", tokenizer=tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(folder)  # as the server loads it: it splits words in Qwen's way
    thought = AgentTrajectory("think", THINK["instruction"], [TrajectoryStep("Two pairs.", "finish", {"answer": "4"})])
    samples = [*(to_chatml(expected(task)) for task in TASKS)]
    samples.append(to_chatml(thought, system_prompt=STRATEGIES["cot"].instructions))
    rows = [render(sample, tokenizer).row() for sample in samples]
    batch = collate(rows, tokenizer.pad_token_id)
    model = tiny_model(tokenizer, "qwen2").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(600):
        loss = model(**batch).loss
        if loss < 0.01:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.01, "the model did not learn the episodes"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    with serve(folder, tmp_path_factory.mktemp("log") / "server.log") as url:
        yield url


def collect(agent, tasks=TASKS, **settings):
    config = CollectorConfig(**{"require_success": False, "concurrency": 3, "max_steps": 4, **settings})
    return TrajectoryCollector(agent, config, Sums).collect(tasks)


def done(trajectories):
    return [[(step.action, step.action_input) for step in trajectory.steps] for trajectory in trajectories]


def prompt_tokens(folder):
    """How many tokens stand before the turns of the training rows: the server must count as many in its prompts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return sum(start for task in TASKS for start, _ in render(to_chatml(expected(task)), tokenizer).turns)


KNOWN = done(map(expected, TASKS))


@pytest.mark.parametrize("calls", ["native", "text"])
def test_episodes_over_a_real_server(folder, url, calls):
    with FaultyProxy(url) as line:
        agent = EndpointAgent(str(folder), base_url=line.url, calls=calls, temperature=0, max_tokens=60)
        trajectories = collect(agent)
    assert done(trajectories) == KNOWN
    assert all(trajectory.success and trajectory.error is None for trajectory in trajectories)
    assert [t.steps[0].reply.startswith("<tool_call>") for t in trajectories] == [True] * 3
    usage = agent.usage
    assert (usage.requests, usage.retries) == (6, 0)
    assert usage.prompt_tokens == prompt_tokens(folder) and usage.completion_tokens > 6
    assert all(("tools" in request) == (calls == "native") for request in line.requests)
    roles = {message["role"] for request in line.requests for message in request["messages"]}
    assert ("tool" in roles) == (calls == "native")


def test_samples_ask_with_seeds_of_their_own(folder, url):
    with FaultyProxy(url) as line:
        agent = EndpointAgent(str(folder), base_url=line.url, seed=10, max_tokens=60)
        trajectories = collect(agent, TASKS[:1], samples_per_task=3)
    assert done(trajectories) == KNOWN[:1] * 3
    assert sorted(request["seed"] for request in line.requests) == [10, 10, 11, 11, 12, 12]


def test_a_reply_cut_off_at_the_limit_is_recorded_as_cut(folder, url):
    agent = EndpointAgent(str(folder), base_url=url, strategy="cot", max_tokens=2)
    [trajectory] = collect(agent, [THINK], max_errors=1)
    [step] = trajectory.steps
    assert (step.action, step.error) == ("invalid", "unreadable reply: cut off at the token limit")
    assert step.reply and "Two pairs.\nAnswer: 4".startswith(step.reply)
    assert trajectory.error is None and not trajectory.success
    assert agent.usage.completion_tokens == 2


def test_a_strategy_reaches_the_server_and_stays_out_of_the_record(folder, url):
    with FaultyProxy(url) as line:
        agent = EndpointAgent(str(folder), base_url=line.url, strategy="cot", max_tokens=20)
        [trajectory] = collect(agent, [{**THINK, "tools": [ADD]}])
    [request] = line.requests
    assert request["messages"][0]["content"].startswith("No tools are at hand") and "tools" not in request
    assert trajectory.success and trajectory.steps[0].thought == "Two pairs."
    assert trajectory.system_prompt is None and trajectory.tools == [ADD]


FAULTS = ["429", "429", "500", "500", "timeout", "cut", "cut", "refused", "broken_json", "error_200"]


def test_a_bad_line_costs_retries_and_no_episode(folder, url):
    faults = random.Random(0).sample(FAULTS, len(FAULTS))
    with FaultyProxy(url, faults, silence=3) as line:
        agent = EndpointAgent(
            str(folder), base_url=line.url, temperature=0, max_tokens=60, timeout=2, max_retries=len(faults)
        )
        trajectories = collect(agent)
    assert done(trajectories) == KNOWN and all(trajectory.success for trajectory in trajectories)
    assert sorted(fault for fault in line.seen if fault != "pass") == sorted(FAULTS)
    asked = len(line.seen)  # at least 16; a machine under load may be late by itself
    assert asked >= 16 and (agent.usage.requests, agent.usage.retries) == (asked, asked - 6)


def test_a_server_that_says_when_to_come_back_is_obeyed(folder, url):
    """0.8 s is longer than the first pause of the back-off, 0.5 s at most."""
    with FaultyProxy(url, ["later"]) as line:
        agent = EndpointAgent(str(folder), base_url=line.url, max_tokens=60)
        assert done(collect(agent, TASKS[:1])) == KNOWN[:1]
    assert line.seen[:2] == ["later", "pass"] and line.times[1] - line.times[0] >= 0.8


def test_an_episode_whose_retries_run_out_says_so_and_the_others_go_on(folder, url):
    """The second step of one task fails for good; its first step is kept."""
    with FaultyProxy(url, ["500"] * 9, only='"content":"7"') as line:
        agent = EndpointAgent(str(folder), base_url=line.url, temperature=0, max_tokens=60, max_retries=2)
        good, broken, also_good = collect(agent)
    assert done([good, broken, also_good]) == [KNOWN[0], KNOWN[1][:1], KNOWN[2]]
    assert good.error is None and also_good.error is None
    assert broken.error == (
        f"EndpointError: {line.url}, asked 3 times: status 500: out of memory; see the server's log (agent, step 2)"
    )
    assert (agent.usage.requests, agent.usage.retries) == (5 + 3, 2)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("401", "status 401: Incorrect API key ***; give the right api_key, or set OPENAI_API_KEY"),
        ("html", "expected a chat completion with choices, found '<html>It works!</html>'; check base_url and the"),
    ],
)
def test_what_cannot_get_better_is_not_asked_again(folder, url, fault, error, caplog):
    caplog.set_level(logging.DEBUG)
    with FaultyProxy(url, [fault]) as line:
        agent = EndpointAgent(str(folder), base_url=line.url, api_key="sk-secret")
        [trajectory] = collect(agent, TASKS[:1])
    assert trajectory.error.startswith(f"EndpointError: {line.url}: {error}")
    assert trajectory.error.endswith("(agent, step 1)") and "sk-secret" not in trajectory.error
    assert "openai" in {record.name.split(".")[0] for record in caplog.records} and "sk-secret" not in caplog.text
    assert line.seen == [fault] and agent.usage.retries == 0


@pytest.mark.parametrize("fault", ["timeout", "refused", "cut", "broken_json", "error_200"])
def test_with_no_retries_left_the_error_says_what_was_wrong(folder, url, fault):
    says = {
        "timeout": "no reply within 0.5 s; raise timeout, or run fewer episodes at once",
        "refused": "no connection (RemoteProtocolError: Server disconnected without sending a response.); is the",
        "cut": "no connection (RemoteProtocolError: peer closed connection without sending complete message body",
        "broken_json": 'expected a chat completion with choices, found \'{"choices": [{"message": ',
        "error_200": "expected a chat completion with choices, found upstream is asleep; check base_url",
    }
    with FaultyProxy(url, [fault], silence=1) as line:
        patience = 0.5 if fault == "timeout" else 30
        agent = EndpointAgent(str(folder), base_url=line.url, max_retries=0, timeout=patience, max_tokens=60)
        [trajectory] = collect(agent, TASKS[:1])
    assert trajectory.error.startswith(f"EndpointError: {line.url}: {says[fault]}")


def test_an_address_without_v1_says_so(folder, url):
    [trajectory] = collect(EndpointAgent(str(folder), base_url=url.removesuffix("/v1")), TASKS[:1])
    assert f"status 404: Not Found; most servers want a base_url that ends in /v1: try {url} " in trajectory.error
    [trajectory] = collect(EndpointAgent(str(folder), base_url=f"{url}/v2"), TASKS[:1])
    assert "; check the model's name, and base_url (most servers' ends in /v1) (agent" in trajectory.error


def test_each_event_loop_has_connections_of_its_own(folder, url):
    """Those of a loop that was closed would fail; they go when the next one comes."""
    agent = EndpointAgent(str(folder), base_url=url, max_retries=0, max_tokens=60)
    assert [asyncio.run(agent.act(TASKS[0], []))["action"] for _ in range(3)] == ["add"] * 3
    assert len(agent._clients) == 1


def test_a_server_that_is_not_there(url):
    agent = EndpointAgent("m", base_url="http://127.0.0.1:9/v1", max_retries=0)
    [trajectory] = collect(agent, TASKS[:1])
    assert "http://127.0.0.1:9/v1: no connection (ConnectError: " in trajectory.error
    assert "is the server running, and base_url right?" in trajectory.error


def test_the_server_s_own_refusal_is_told(folder, url):
    [trajectory] = collect(EndpointAgent("another", base_url=url), TASKS[:1])
    assert f"status 400: Server is pinned to '{folder}'; requested 'another'.; check the model's" in trajectory.error
