import json

import pytest

from sage.libs.finetune.agent import AgentTrajectory, TrajectoryStep
from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.trajectories.dialogue import Dialogue, open_turns
from sage.libs.finetune.agent.trajectories.strategies import STRATEGIES, Strategy, pick_strategy

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
TASK = {"task_id": "t", "instruction": "What is 1 + 2?", "tools": [ADD], "system_prompt": "Be exact."}
STEPS = [
    TrajectoryStep("I add.", "add", {"a": 1, "b": 2}, "3"),
    TrajectoryStep("", "invalid", {}, "Try again.", error="unreadable call: no JSON", reply='{"name": "add"'),
]
EXAMPLE = AgentTrajectory(
    "e",
    "What is 2 + 2?",
    [TrajectoryStep("Add.", "add", {"a": 2, "b": 2}, "4"), TrajectoryStep("So 4.", "finish", {"answer": "4"})],
    tools=[ADD],
)


def written(dialogue, history=STEPS, task=TASK):
    """The conversation after the system message, as `role: content`."""
    messages = dialogue.prompt(task, history).messages
    return [f"{message['role']}: {message['content']}" for message in messages if message["role"] != "system"]


def system(dialogue, task=TASK):
    return "".join(m["content"] for m in dialogue.prompt(task, []).messages if m["role"] == "system")


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_prompt_is_what_stands_before_the_same_turn_in_a_training_row(length):
    """A step that came to nothing is answered in the row, so in the prompt too: else the model never hears of it."""
    steps = [*STEPS, TrajectoryStep("", "finish", {"answer": "3"})]
    row = to_chatml(AgentTrajectory("t", TASK["instruction"], steps, tools=[ADD], system_prompt="Be exact."))
    turns = [at for at, message in enumerate(row["messages"]) if message["role"] == "assistant"]
    prompt = Dialogue().prompt(TASK, steps[:length])
    assert prompt.messages == row["messages"][: turns[length]] and prompt.tools == [ADD]


def test_react_with_native_calls_adds_instructions_alone():
    plain, react = Dialogue().prompt(TASK, STEPS), Dialogue("react").prompt(TASK, STEPS)
    assert react.messages[1:] == plain.messages[1:] and react.tools == plain.tools
    asked = react.messages[0]["content"]
    assert asked.startswith(f"Be exact.\n\n{STRATEGIES['react'].instructions}\n\n")
    assert asked.endswith("end it with a line 'Answer: ' and nothing but the answer itself.")
    finish = {"type": "function", "function": {"name": "finish"}}
    assert "'Answer: '" not in system(Dialogue("react"), {**TASK, "tools": [ADD, finish]})


def test_react_in_text():
    dialogue = Dialogue("react", "text", examples=lambda _: [EXAMPLE])
    assert written(dialogue) == [
        "user: What is 2 + 2?",
        'assistant: Thought: Add.\nAction: add\nAction Input: {"a": 2, "b": 2}',
        "user: Observation: 4",
        "assistant: Thought: So 4.\nFinal Answer: 4",
        "user: What is 1 + 2?",
        'assistant: Thought: I add.\nAction: add\nAction Input: {"a": 1, "b": 2}',
        "user: Observation: 3",
        'assistant: {"name": "add"',
        "user: Observation: Try again.",
    ]
    prompt = dialogue.prompt(TASK, [])
    assert prompt.tools == [] and prompt.stop == ("\nObservation:",)
    assert json.dumps(ADD["function"]) in system(dialogue) and "Final Answer:" in system(dialogue)


def test_calls_in_hermes_tags():
    dialogue = Dialogue(None, "text", examples=lambda _: [EXAMPLE])
    assert written(dialogue)[1:3] == [
        'assistant: Add.\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>',
        "user: <tool_response>\n4\n</tool_response>",
    ]
    assert written(dialogue)[3] == "assistant: So 4.\nAnswer: 4"
    assert f"<tools>\n{json.dumps(ADD)}\n</tools>" in system(dialogue)
    assert dialogue.prompt(TASK, []).tools == []
    assert system(Dialogue(None, "text"), {**TASK, "tools": []}) == "Be exact."


@pytest.mark.parametrize("calls", ["native", "text"])
def test_chain_of_thought_shows_no_tools_and_makes_no_calls(calls):
    dialogue = Dialogue("cot", calls)
    prompt = dialogue.prompt(TASK, [])
    assert prompt.tools == [] and "add" not in system(dialogue) and prompt.stop == ()
    assert dialogue.read("1 and 2 make 3.\nAnswer: 3", TASK) == {
        "thought": "1 and 2 make 3.",
        "action": "finish",
        "action_input": {"answer": "3"},
        "reply": "1 and 2 make 3.\nAnswer: 3",
    }
    refused = dialogue.read('{"name": "add", "arguments": {"a": 1}}', TASK)
    assert refused["action"] == "invalid"
    assert refused["error"] == "unreadable reply: 'add' was called, but no tools are at hand; give an answer"


@pytest.mark.parametrize("calls", ["native", "text"])
def test_reflexion_looks_back_at_step_6_and_wraps_up_at_step_10(calls):
    react, reflexion = Dialogue("react", calls), Dialogue("reflexion", calls)
    for step in range(1, 13):
        history = [STEPS[0]] * (step - 1)
        before, after = written(react, history), written(reflexion, history)
        reminder = STRATEGIES["reflexion"].reminders.get(step)
        assert (reminder is not None) == (step in (6, 10))
        assert after == ([*before[:-1], f"{before[-1]}\n\n{reminder}"] if reminder else before)
    assert STEPS[0].observation == "3"  # the reminder is in the prompt alone


def test_react_replies_in_text():
    dialogue = Dialogue("react", "text")
    decision = dialogue.read("Thought: Hm.\nAction: add\nAction Input: {}\nObservation: 9", TASK, cut=True)
    assert (decision["action"], decision["thought"]) == ("add", "Hm.")  # the step was whole before the cut
    assert dialogue.read("Thought: Hm.\nAction: add\nAction Input: {", TASK, cut=True)["error"].endswith("token limit")
    assert dialogue.read("Thought: Hm.\nFinal Answer: 3", TASK)["action_input"] == {"answer": "3"}
    assert dialogue.read("Three.", TASK)["error"].startswith("unreadable call: expected a line 'Action: tool'")


def test_what_the_environment_said_first_is_in_the_prompt():
    [turn] = open_turns({**TASK, "opening": "You see a desk."}, [])
    assert turn == {"role": "user", "content": "What is 1 + 2?\n\nYou see a desk."}


def test_a_strategy_of_ones_own():
    haste = Strategy("haste", "Be quick.", reminders={1: "Now!"})
    assert written(Dialogue(haste), []) == ["user: What is 1 + 2?\n\nNow!"]
    assert pick_strategy(haste) is haste and pick_strategy(None) is None


def test_unknown_names_say_what_is_known():
    with pytest.raises(ConfigError, match="unknown strategy 'reakt'; did you mean 'react'\\? known: cot, react, refl"):
        Dialogue("reakt")
    with pytest.raises(ConfigError, match="calls='tool': expected 'native' or 'text'"):
        Dialogue(None, "tool")
    with pytest.raises(ConfigError, match="strategy: expected one of cot, react, reflexion, a Strategy or None, found"):
        Dialogue(3)
