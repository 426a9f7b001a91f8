"""What a language model reads before a step, and how its reply becomes that step; free of any model.

The conversation is the one `to_messages` builds, which also makes training rows: system prompt, solved examples, the
task and the steps so far. Without a strategy and with native calls nothing is added, so a model reads exactly what it
was trained on. Calls are written in one of three ways:

- `native`: as `tool_calls` beside the tools; a chat template or a server writes them as the model knows them.
- `text` without a strategy: tools in the system prompt and calls in Hermes' tags, for servers without tool support.
- `text` with a strategy: the lines `Thought:`, `Action:`, `Action Input:`, `Observation:`, `Final Answer:` of ReAct.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sage.libs.finetune.agent.answers import split_thought
from sage.libs.finetune.agent.chatml import to_messages
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.tokenization.react_text import OBSERVATION, read_react
from sage.libs.finetune.agent.trajectories.replies import (
    call_text,
    read_choice,
    read_cut_reply,
    read_parsed,
    read_reply,
)
from sage.libs.finetune.agent.trajectories.strategies import Strategy, pick_strategy
from sage.libs.finetune.agent.types import FINISH, INVALID, AgentTrajectory, Message, ToolSpec, TrajectoryStep

Examples = Callable[[Mapping[str, Any]], Sequence[AgentTrajectory]]
"""Gives the solved episodes to put before a task."""

Calls = Literal["native", "text"]

_HERMES_TOOLS = """You may call functions. Their signatures are within <tools></tools>:
<tools>
{tools}
</tools>
For each call, return a JSON object with its name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <arguments-object>}}
</tool_call>"""
_REACT_TOOLS = """Tools, each with the JSON schema of its arguments:
{tools}

Write each step in these lines and nothing else, then stop; the result comes back as a line 'Observation:'.
Thought: your reasoning
Action: the name of one tool
Action Input: its arguments as one JSON object

When you know the answer, write instead:
Thought: your reasoning
Final Answer: the answer"""

_NATIVE_ANSWER = (
    "The final answer is a reply without a call; end it with a line 'Answer: ' and nothing but the answer itself."
)


@dataclass(frozen=True)
class Prompt:
    """What a model is given for one step; `stop` are texts at which its reply should end."""

    messages: list[Message]
    tools: list[ToolSpec]
    stop: tuple[str, ...] = ()


class Dialogue:
    r"""The prompts and the reading of replies for one way of working.

    Args:
        strategy: A name in `STRATEGIES`, a `Strategy`, or None to ask for the task as it is.
        calls: How tool calls are written, see the module.
        examples: Gives the solved episodes to put before a task (few-shot), None for none.

    Raises:
        ConfigError: an unknown strategy, or `calls` that is neither.

    Example:
        >>> dialogue = Dialogue("cot")
        >>> prompt = dialogue.prompt({"task_id": "a", "instruction": "2 + 2?"}, [])
        >>> [message["role"] for message in prompt.messages], prompt.tools
        (['system', 'user'], [])
        >>> dialogue.read("2 and 2 make 4.\nAnswer: 4", {})["action_input"]
        {'answer': '4'}
    """

    def __init__(
        self,
        strategy: str | Strategy | None = None,
        calls: Calls = "native",
        examples: Examples | None = None,
    ) -> None:
        if calls not in get_args(Calls):
            raise ConfigError(f"calls={calls!r}: expected 'native' or 'text'")
        self.strategy = pick_strategy(strategy)
        self._examples = examples
        self._uses_tools = self.strategy is None or self.strategy.uses_tools
        self._react = calls == "text" and self.strategy is not None and self._uses_tools
        self._hermes = calls == "text" and self.strategy is None

    def prompt(self, task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> Prompt:
        """What to give the model for the step after `history`."""
        tools = list(task.get("tools") or []) if self._uses_tools else []
        messages: list[Message] = []
        for example in self._examples(task) if self._examples else ():
            messages += self._written(to_messages(example, system_prompt=""))
        messages += self._written(open_turns(task, history))
        reminder = self.strategy.reminders.get(len(history) + 1) if self.strategy else None
        if reminder:
            # Part of the newest turn, since many templates allow no user turn between a result and the reply.
            messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{reminder}"}
        system = "\n\n".join(filter(None, self._system(task, tools)))
        opening: list[Message] = [{"role": "system", "content": system}] if system else []
        stop = (f"\n{OBSERVATION}",) if self._react else ()
        return Prompt([*opening, *messages], [] if self._react or self._hermes else tools, stop)

    def read(self, text: str, task: Mapping[str, Any], *, cut: bool = False) -> dict[str, Any]:
        """A reply as a decision.

        Args:
            text: The reply, without stop tokens.
            task: What it was given for.
            cut: Whether the reply reached the token limit before its end.
        """
        tools = list(task.get("tools") or [])
        if self._react and (not cut or f"\n{OBSERVATION}" in text):  # what comes before an observation is whole
            return read_parsed(read_react(text, tools), text, tools)
        return self._allowed(read_cut_reply(text) if cut else read_reply(text, tools))

    def read_choice(self, choice: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
        """A choice of an OpenAI-compatible server's reply (`choices[0]`, as JSON) as a decision."""
        tools = list(task.get("tools") or [])
        return self._allowed(read_choice(choice, tools, lambda text, cut: self.read(text, task, cut=cut)))

    def _allowed(self, decision: dict[str, Any]) -> dict[str, Any]:
        if self._uses_tools or decision["action"] in (FINISH, INVALID):
            return decision
        error = f"unreadable reply: '{decision['action']}' was called, but no tools are at hand; give an answer"
        return {"action": INVALID, "reply": decision["reply"], "error": error}

    def _system(self, task: Mapping[str, Any], tools: Sequence[ToolSpec]) -> list[str | None]:
        described = None
        if self._react:
            described = _REACT_TOOLS.format(tools="\n".join(_json(tool["function"]) for tool in tools) or "(none)")
        elif self._hermes and tools:
            described = _HERMES_TOOLS.format(tools="\n".join(map(_json, tools)))
        elif self.strategy and self._uses_tools and not any(tool["function"]["name"] == FINISH for tool in tools):
            described = _NATIVE_ANSWER
        return [task.get("system_prompt"), self.strategy.instructions if self.strategy else None, described]

    def _written(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation of one episode with its calls written as asked."""
        if self._react:
            ends = len(messages) - 1
            return [_react_turn(message, at == 0, at == ends) for at, message in enumerate(messages)]
        return [_hermes_turn(message) for message in messages] if self._hermes else list(messages)


def sample_of(task: Mapping[str, Any]) -> int:
    """Which sample of its task an episode is, from 0 (`metadata["sample"]`).

    Example:
        >>> sample_of({"instruction": "2 + 2?", "metadata": {"sample": 3}}), sample_of({"instruction": "2 + 2?"})
        (3, 0)
    """
    sample = (task.get("metadata") or {}).get("sample")
    return sample if isinstance(sample, int) else 0


def open_turns(task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> list[Message]:
    """The task and the steps so far, without the system message, as they stand in a row that goes on from there."""
    opening = {"opening": task["opening"]} if "opening" in task else {}
    next_step = TrajectoryStep("", FINISH, {"answer": ""})  # what came of a step is written when another follows it
    episode = AgentTrajectory(
        task["task_id"],
        task["instruction"],
        [*history, next_step],
        tools=list(task.get("tools") or []),
        metadata=opening,
    )
    return to_messages(episode)[:-1]


def _hermes_turn(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    made = [call["function"] for call in message.get("tool_calls", ())]
    calls = [call_text(call["name"], call["arguments"]) for call in made]
    return {"role": message["role"], "content": "\n".join(filter(None, (message["content"], *calls)))}


def _react_turn(message: Message, first: bool, last: bool) -> Message:
    content = message["content"]
    if message["role"] != "assistant":  # the task, or what came of a step
        return {"role": "user", "content": content if first else f"{OBSERVATION} {content}"}
    thought = [f"Thought: {content}"] if content else []
    if calls := message.get("tool_calls"):
        call = calls[0]["function"]
        lines = [*thought, f"Action: {call['name']}", f"Action Input: {_json(call['arguments'])}"]
    elif last:  # the end of an example
        reason, answer = split_thought(content)
        lines = [*([f"Thought: {reason}"] if reason else []), f"Final Answer: {answer}"]
    else:
        lines = [content]
    return {"role": "assistant", "content": "\n".join(lines)}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
