"""FireAct's release: its own files where they are at hand, and its format."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.chatml import from_chatml, task_key
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.fireact import FIREACT, LOOKUP, SEARCH
from sage.libs.finetune.agent.sources.importers.known import ORDER
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.sources.stream import import_rows
from sage.libs.finetune.agent.trajectories.filter import TrajectoryFilter
from sage.libs.finetune.agent.types import AgentTrajectory

DATA = Path(__file__).parents[4] / "shared" / "data" / "fireact"
FILES = {
    "hotpotqa": "gpt_hotpotqa.jsonl",
    "chat": "gpt_hotpotqa_multimethod.jsonl",
    "alpaca": "alpaca_hotpotqa_multimethod.json",
}
released = pytest.mark.skipif(not DATA.exists(), reason="FireAct's files are not at ../shared/data/fireact")


def read(row: dict[str, Any]) -> AgentTrajectory:
    return from_chatml(read_sample(FIREACT.read(row, "a:1"), "a:1"))


@pytest.fixture(scope="module")
def trajectories() -> dict[str, list[AgentTrajectory]]:
    rows = {name: list(import_rows(DATA / file)) for name, file in FILES.items()}
    assert {row.source for found in rows.values() for row in found} == {"fireact"}
    assert not [row.error for found in rows.values() for row in found if row.error]
    return {name: [from_chatml(row.sample) for row in found if row.sample] for name, found in rows.items()}


def key(trajectory: AgentTrajectory) -> str:
    return json.dumps(trajectory.to_dict(), sort_keys=True)


@released
def test_the_counts_of_the_release(trajectories: dict[str, list[AgentTrajectory]]) -> None:
    assert {name: len(found) for name, found in trajectories.items()} == {"hotpotqa": 500, "chat": 733, "alpaca": 734}
    single = trajectories["hotpotqa"]
    assert Counter(step.action for t in single for step in t.steps) == {"search": 885, "finish": 500}
    assert Counter(len(t.steps) for t in single) == {2: 176, 3: 273, 4: 37, 5: 13, 1: 1}
    assert all(t.success and t.total_reward == 1.0 == t.steps[-1].reward for t in single)


@released
def test_methods_and_rewards_of_the_release(trajectories: dict[str, list[AgentTrajectory]]) -> None:
    found = trajectories["alpaca"]
    assert Counter(t.metadata["method"] for t in found) == {"react": 499, "cot": 188, "reflexion": 47}
    assert Counter((t.metadata["method"], t.success) for t in found) == {
        ("react", True): 499, ("cot", True): 188, ("reflexion", False): 40, ("reflexion", True): 7
    }  # fmt: skip
    verdicts = Counter(t.steps[-1].observation for t in found)
    assert verdicts == {
        f"Episode finished, reward = {reward}": n for reward, n in (("True", 507), ("1", 187), ("False", 40))
    }
    assert all(t.total_reward == t.success for t in found)
    assert len(TrajectoryFilter(min_reward=0.5, require_success=True).filter(found)) == 694


@released
def test_both_forms_of_an_episode_are_the_same_trajectory(trajectories: dict[str, list[AgentTrajectory]]) -> None:
    alpaca, chat = (Counter(map(key, trajectories[name])) for name in ("alpaca", "chat"))
    assert not chat - alpaca
    [missing] = (alpaca - chat).elements()
    assert json.loads(missing)["instruction"].startswith("Fox is a brevity code used by NATO pilots")
    assert not Counter(map(key, trajectories["hotpotqa"])) - alpaca


def both_forms(question: str, steps: list[tuple[str, str, str]], reward: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """An episode as the release has it: thoughts with their action, and observations."""
    texts = [
        (f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}", seen)
        for thought, action, seen in steps
    ]
    texts[-1] = (texts[-1][0], f"Episode finished, reward = {reward}")
    turns = [{"role": "user", "content": question.strip()}]
    for said, seen in texts:
        turns += [{"role": "assistant", "content": said}, {"role": "user", "content": f"Observation: {seen}"}]
    output = "".join(f"{said}\nObservation: {seen}\n" for said, seen in texts)
    return {"instruction": question, "input": "", "output": output}, {"messages": turns}


WORDS = st.text(st.sampled_from("ab [](){}:,.\t1é\"'"), max_size=10)
QUOTED = st.sampled_from(
    ["Answer: 4", "Action: Comedy.", "Final Answer: x", "Observation: no", "Action Input: {}", "(A) yes"]
)
OBSERVATIONS = st.lists(st.one_of(WORDS, QUOTED), min_size=1, max_size=3).map("\n".join)
THOUGHTS = st.one_of(
    WORDS,
    st.sampled_from(["So.\nThought: no.\nAnswer: 4", "Yes. Thought: Action: finish[no]", "One.\n\nAnswer: (A)\nTwo"]),
)
INPUTS = st.one_of(WORDS, st.sampled_from(["yes", "(A)", "a] b [c", "x\ny", "[1]", "what?\nThought: that"]))


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(WORDS, st.just("Which?\n(A) one\n(B) two ")),
    st.lists(st.tuples(THOUGHTS, st.sampled_from(["search", "lookup", "Search"]), INPUTS, OBSERVATIONS), max_size=4),
    THOUGHTS,
    INPUTS,
    st.sampled_from(["True", "1", "False", "0"]),
)
def test_any_episode_is_the_same_in_both_forms(
    question: str, steps: list[tuple[str, str, str, str]], thought: str, answer: str, reward: str
) -> None:
    done = [(said.strip(), f"{name}[{text}]", seen) for said, name, text, seen in steps]
    alpaca, chat = both_forms(question, [*done, (thought.strip(), f"finish[{answer}]", "")], reward)
    assert FIREACT.matches(alpaca) and FIREACT.matches(chat)
    one, other = read(alpaca), read(chat)
    if not question.strip():
        return  # both are read, as a task without words
    assert one == other
    assert (one.success, one.total_reward) == (reward in ("True", "1"), float(reward in ("True", "1")))
    assert one.answer == answer.strip() and one.steps[-1].observation == f"Episode finished, reward = {reward}"
    assert [(s.thought, s.action, *s.action_input.values(), s.observation) for s in one.steps[:-1]] == [
        (said.strip(), name.lower(), text.strip(), seen.strip()) for said, name, text, seen in steps
    ]


def test_tools_task_and_method() -> None:
    last = ("", "finish[yes]", "")
    seen = ("Look.", "lookup[x]", "(Result 1 / 1) x")
    [with_lookup, cot] = [read(both_forms(" Is it? ", steps, "0")[0]) for steps in ([seen, last], [last])]
    assert with_lookup.tools == [SEARCH, LOOKUP] and cot.tools == [SEARCH]
    assert with_lookup.task_id == cot.task_id == task_key("Is it?", None, [SEARCH])
    assert cot.metadata == {"source": "fireact", "method": "cot"} and with_lookup.metadata["method"] == "react"
    assert with_lookup.steps[0].action_input == {"keyword": "x"}
    back = "Now that I haven't solved the task within 5 steps, let me do a reflection."
    assert read(both_forms("Q", [(back, "finish[no]", "")], "False")[1]).metadata["method"] == "reflexion"


def test_an_episode_that_was_cut_off_has_no_verdict() -> None:
    row = {"instruction": "Q", "input": "", "output": "Action: search[a]\nObservation: b", "n": 3, "success": "maybe"}
    trajectory = read(row)
    assert not trajectory.success and trajectory.answer is None
    assert trajectory.metadata == {
        "n": 3,
        "row.success": "maybe",
        "source": "fireact",
        "method": "react",
        "judged": False,
    }
    assert FIREACT.accepts(row) and not FIREACT.matches(row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"instruction": "Q", "output": "Action: buy[a]"},
            "a:1: action 'buy': FireAct has search, lookup and finish; try",
        ),
        ({"instruction": "Q", "output": "Words."}, "a:1: output: no line 'Action: name[input]' in it"),
        ({"instruction": "Q", "output": "Action: finish[a]", "input": 1}, "a:1: input: expected text, found int"),
        (
            {"instruction": "Q", "output": "Action: finish[a]\nObservation: Episode finished, reward = maybe"},
            "a:1: reward: expected True, 1, False or 0, found 'maybe'",
        ),
        (
            {"instruction": "Q", "output": "Action: finish[a]\nAction: search[b]"},
            "a:1: output, line 2: 'Action:' after",
        ),
        ({"text": ""}, "a:1: expected a ReAct row (chat, or instruction and output) that ends"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "a:1: messages: expected the question, then turns with"),
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "Paris"}]},
            "a:1: messages[1]: expected one thought and one 'Action: name[input]', found 'Paris'",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "Q"},
                    *[{"role": "assistant", "content": "Action: search[a]"}] * 2,
                ]
            },
            "a:1: messages[2]: expected the observation of 'search', found an assistant turn",
        ),
        (
            {"messages": [{"role": "tool", "content": "Q"}]},
            "a:1: messages[0]: expected an assistant turn, found one of",
        ),
    ],
)
def test_rows_that_cannot_be_read_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        FIREACT.read(row, "a:1")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (both_forms("Q", [("", "finish[a]", "")], "1")[0], "fireact"),
        (both_forms("Q", [("", "finish[a]", "")], "1")[1], "fireact"),
        (both_forms("Q", [("", "buy[a]", ""), ("", "finish[a]", "")], "1")[0], "react"),
        ({"instruction": "Q", "output": "Action: search[a]\nObservation: b"}, "react"),
        ({"instruction": "Q", "output": "Episode finished, reward = 1"}, "alpaca"),
    ],
)
def test_which_importer_is_found(row: dict[str, Any], name: str) -> None:
    assert next(importer.name for importer in ORDER if importer.matches(row)) == name
