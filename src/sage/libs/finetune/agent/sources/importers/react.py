"""Rows that hold a ReAct episode as text: `Thought: ... Action: search[Louvre] Observation: ...`.

Two kinds. In a chat the assistant's turns are ReAct text and what the user says next is the observation. In a row of
instruction and output (or prompt and completion, question and trajectory) the whole episode is one text. Both become
real tool calls and turns of role `tool`: the observations leave the text that is trained on.

A text names no schemas. Where the row brings no tools, they are inferred from its own calls, and
`metadata["tools_inferred"]` says so; `name_inputs` fits the calls to schemas that come later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.answers import answer_text, join_answer
from sage.libs.finetune.agent.chatml import KEPT, task_key, to_chatml
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.base import Importer, read_metadata, read_tools
from sage.libs.finetune.agent.sources.importers.chat import messages_key, system_turn, text_of
from sage.libs.finetune.agent.sources.importers.react_text import (
    Block,
    is_bare_answer,
    looks_like_react,
    observation_text,
    parse_react,
)
from sage.libs.finetune.agent.sources.importers.weights import SWITCHES, read_weight, refuse_row_switches
from sage.libs.finetune.agent.types import FINISH, AgentTrajectory, ToolSpec, TrajectoryStep, call_id, check_tools

TASKS = ("instruction", "prompt", "question")
EPISODES = ("output", "completion", "trajectory")
INFERRED = "tools_inferred"
"""Where in `metadata` a row says that its tools were made up from its calls."""
_ROLES = {"human": "user", "gpt": "assistant", "function": "tool", "observation": "tool", "developer": "system"}
_READ = {"role", "from", "content", "value", "tool_calls", *SWITCHES}


def episode_row(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The fields of a row that hold the task and the episode's text, None where there are none, or a chat besides."""
    if chat_turns(row) is not None:
        return None
    task = next((name for name in TASKS if isinstance(row.get(name), str)), None)
    episode = next((name for name in EPISODES if isinstance(row.get(name), str)), None)
    return (task, episode) if task and episode else None


def chat_turns(row: Mapping[str, Any]) -> list[Any] | None:
    """The turns of a chat row, under whichever name they stand; None where there are none."""
    key = messages_key(row)
    return row[key] if key and isinstance(row[key], list) else None


def turn_of(turn: object, where: str) -> tuple[str, str]:
    """Role (`system`, `user`, `assistant` or `tool`) and text of a turn, as role and content or from and value.

    Raises:
        DataError: when it is none.
    """
    if not isinstance(turn, Mapping):
        raise DataError(f"{where}: expected an object with role and content, found {type(turn).__name__}")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ("system", "user", "assistant", "tool"):
        raise DataError(f"{where}: role: expected system, user, assistant or tool, found {role!r:.80}")
    return role, text_of(content, where)


def infer_tools(calls: Iterable[tuple[str, Mapping[str, Any]]]) -> list[ToolSpec]:
    """Schemas that allow the calls (name, arguments): each key seen a parameter, required where every call has it.

    Example:
        >>> [tool] = infer_tools([("search", {"input": "Louvre"})])
        >>> tool["function"]["parameters"]["properties"], tool["function"]["parameters"]["required"]
        ({'input': {'type': 'string'}}, ['input'])
    """
    seen: dict[str, list[Mapping[str, Any]]] = {}
    for name, arguments in calls:
        seen.setdefault(name, []).append(arguments)
    tools = []
    for name, uses in seen.items():
        keys = list(dict.fromkeys(key for arguments in uses for key in arguments))
        texts = {key: all(isinstance(use[key], str) for use in uses if key in use) for key in keys}
        parameters = {
            "type": "object",
            "properties": {key: {"type": "string"} if texts[key] else {} for key in keys},
            "required": [key for key in keys if all(key in use for use in uses)],
        }
        tools.append({"type": "function", "function": {"name": name, "description": "", "parameters": parameters}})
    return tools


def name_inputs(messages: Sequence[Mapping[str, Any]], tools: Sequence[ToolSpec]) -> None:
    """Rename the one argument of `name[text]` to the one parameter of the tool, in place, where it has just one.

    A tool with several parameters takes the text as the one that is required, if one is.
    """
    only: dict[str, str] = {}
    for tool in tools:
        parameters = tool["function"].get("parameters") or {}
        properties = parameters.get("properties") or {}
        required = parameters.get("required")
        names = list(properties) if len(properties) == 1 or not isinstance(required, list) else required
        if "input" not in properties and len(names) == 1 and isinstance(names[0], str):
            only[tool["function"]["name"]] = names[0]
    for message in messages:
        for call in message.get("tool_calls") or ():
            function = call["function"]
            if function["arguments"].keys() == {"input"} and function["name"] in only:
                function["arguments"] = {only[function["name"]]: function["arguments"]["input"]}


def _matches(row: Mapping[str, Any]) -> bool:
    return _any_text(row, looks_like_react)


def _accepts(row: Mapping[str, Any]) -> bool:
    """A row that only answers, where others act."""
    return _any_text(row, lambda text: looks_like_react(text) or is_bare_answer(text))


def _any_text(row: Mapping[str, Any], test: Callable[[object], bool]) -> bool:
    """Whether the episode's text, or that of a turn of the assistant, passes the test."""
    fields = episode_row(row)
    if fields is not None:
        return test(row[fields[1]])
    turns = [turn for turn in chat_turns(row) or () if isinstance(turn, Mapping)]
    if any(turn.get("tool_calls") for turn in turns):
        return False
    return any(
        turn.get("role", turn.get("from")) in ("assistant", "gpt") and test(turn.get("content", turn.get("value")))
        for turn in turns
    )


def _read(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    refuse_row_switches(row, where)
    turns, fields = chat_turns(row), episode_row(row)
    if fields is not None:
        sample = _read_episode(row, *fields, where)
    elif turns is not None:
        messages, ending = _Chat(where).read(turns)
        kept = {KEPT: {"steps": ending}} if ending else {}
        used = ["tools", "functions", str(messages_key(row))]
        if messages[0]["role"] != "system":
            messages = [*system_turn(row, where), *messages]
            used.append("system")
        sample = {"messages": messages, "metadata": {**read_metadata(row, used), **kept}}
    else:
        raise DataError(f"{where}: expected {REACT.needs}; found {', '.join(map(str, row)) or 'nothing'}")
    name = "tools" if row.get("tools") else "functions"
    sample["tools"] = read_tools(row.get(name), f"{where}: {name}")
    if sample["tools"]:
        check_tools(sample["tools"], where)
        name_inputs(sample["messages"], sample["tools"])
    else:
        calls = [call["function"] for message in sample["messages"] for call in message.get("tool_calls") or ()]
        sample["tools"] = infer_tools((call["name"], call["arguments"]) for call in calls)
        sample["metadata"] = {**sample["metadata"], INFERRED: True} if calls else sample["metadata"]
    return sample


def _read_episode(row: Mapping[str, Any], task: str, episode: str, where: str) -> dict[str, Any]:
    if row.get("history"):
        raise DataError(f"{where}: history: a ReAct episode has no earlier turns; give such rows as a chat")
    instruction, more, system = row[task], row.get("input") or "", row.get("system")
    if not isinstance(more, str) or not isinstance(system, str | None):
        raise DataError(f"{where}: input and system: expected text or null")
    blocks = parse_react(row[episode], f"{where}: {episode}")
    if not blocks:
        raise DataError(f"{where}: {episode}: no line 'Action: name[input]' or 'Final Answer: ...' in it")
    trajectory = AgentTrajectory(
        task_id=task_key(instruction, system, []),
        instruction="\n".join(filter(None, (instruction, more))),
        steps=[to_step(block) for block in blocks],
        system_prompt=system or None,
    )
    made = to_chatml(trajectory)
    used = ("tools", "functions", "history", "system", "input", task, episode)
    kept = {KEPT: made["metadata"][KEPT]} if KEPT in made["metadata"] else {}
    return {"messages": made["messages"], "metadata": {**read_metadata(row, used), **kept}}


def to_step(block: Block) -> TrajectoryStep:
    """The block as a step of a trajectory."""
    return TrajectoryStep(block.thought, block.action, block.arguments, block.observation or "")


class _Chat:
    """Reads a chat turn by turn."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.messages: list[dict[str, Any]] = []
        self.calls = 0
        self.waiting = ""  # the name of the last call, as long as it has no observation
        self.found = False

    def read(self, turns: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The messages, and what the environment said to the final answer, as the changes of the last step."""
        ending: str | None = None
        for index, turn in enumerate(turns):
            at = f"{self.where}: messages[{index}]"
            role, content = turn_of(turn, at)
            if role != "assistant":
                read_weight({**turn, "role": role}, at)
            before = len(self.messages)
            if role == "assistant":
                ending = self.assistant(turn, content, at)
            elif self.waiting and role != "system":
                self.observe(observation_text(content))
            elif ending is None and self.answered and index == len(turns) - 1 and self.is_verdict(role, content):
                ending = observation_text(content)
            else:
                self.messages.append({"role": role, "content": content})
            self.keep_rest(turn, before)
        if not self.found:
            raise DataError(f"{self.where}: no assistant turn with 'Action: name[input]' or 'Final Answer: ...' in it")
        steps = sum(message["role"] == "assistant" for message in self.messages)
        return self.messages, {str(steps): {"observation": ending}} if ending else {}

    def keep_rest(self, turn: Mapping[str, Any], made: int) -> None:
        """Put what else the turn says (a name, a time) on the last message made of it."""
        if len(self.messages) > made:
            rest = {name: value for name, value in turn.items() if name not in _READ}
            self.messages[-1] = {**rest, **self.messages[-1]}

    @property
    def answered(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    @staticmethod
    def is_verdict(role: str, content: str) -> bool:
        return role == "tool" or observation_text(content) != content.strip()

    def assistant(self, turn: Mapping[str, Any], content: str, where: str) -> str | None:
        """Add what the turn says; returns the observation of its final answer, if it wrote one itself."""
        if turn.get("tool_calls"):
            raise DataError(f"{where}: tool_calls: the turn has calls of its own; read the file with --from chat")
        if self.waiting:
            self.observe("")
        blocks = parse_react(content, where)
        read = read_weight({**turn, "role": "assistant"}, where)
        weight = {"weight": read["weight"]} if "weight" in read else {}
        if not blocks:
            self.messages.append({"role": "assistant", "content": content.strip(), **weight})
        for block in blocks:
            self.found = True
            if self.waiting:
                self.observe("")
            if block.action == FINISH:
                text = join_answer(block.thought, answer_text(block.arguments["answer"]))
                self.messages.append({"role": "assistant", "content": text, **weight})
                return block.observation
            self.calls += 1
            call = {"name": block.action, "arguments": block.arguments}
            calls = [{"id": call_id(self.calls), "type": "function", "function": call}]
            self.messages.append({"role": "assistant", "content": block.thought, "tool_calls": calls, **weight})
            self.waiting = block.action
            if block.observation is not None:
                self.observe(block.observation)
        return None

    def observe(self, text: str) -> None:
        answer = {"role": "tool", "tool_call_id": call_id(self.calls), "name": self.waiting, "content": text}
        self.messages.append(answer)
        self.waiting = ""


REACT = Importer(
    name="react",
    matches=_matches,
    read=_read,
    needs="a chat whose assistant turns, or an instruction whose output, is text such as 'Action: search[Louvre]'",
    accepts=_accepts,
)
