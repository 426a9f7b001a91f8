"""The trajectories that FireAct released (Chen et al. 2023, https://arxiv.org/abs/2310.05915), in both of its forms.

Questions answered by GPT-4 with a search engine, as chats (`messages`, observations as user turns) and as Alpaca rows
(the episode as one text). Actions are `search[...]`, `lookup[...]` and `finish[...]`; what the environment says to
`finish` is the verdict, `Episode finished, reward = True` (or 1, False, 0). The same episode gives the same trajectory
whichever form it is read from. The forms differ in the blanks around a text, so these are stripped.

The rows do not say by which method they were made, but show it: `cot` is one thought and `finish`, `reflexion` looks
back on steps that failed, `react` is the rest. The release's filter for success was not applied to `reflexion`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.chatml import task_key, to_chatml
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.base import Importer, read_metadata
from sage.libs.finetune.agent.sources.importers.chat import messages_key
from sage.libs.finetune.agent.sources.importers.react import chat_turns, episode_row, to_step, turn_of
from sage.libs.finetune.agent.sources.importers.react_text import (
    ACTION,
    OBSERVATION,
    THOUGHT,
    Block,
    observation_text,
    parse_react,
)
from sage.libs.finetune.agent.sources.importers.weights import SWITCHES, UNSUPPORTED, refuse_row_switches
from sage.libs.finetune.agent.types import FINISH, AgentTrajectory, ToolSpec

_FIELDS = (THOUGHT, ACTION, OBSERVATION)
_NAME = re.compile(r"(?:^|[ \t])Action:[ \t]*([^\s\[]*)\[", re.MULTILINE)
_VERDICT = re.compile(r"Episode finished, reward = (\S+)")
_AGENT = ("assistant", "gpt")
_REWARDS = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
_OURS = ("task_id", "success", "total_reward", "opening", "source", "method", "judged")
_LOOKS_BACK = re.compile(r"haven.t solved the task within [0-9]+ steps")


def _tool(name: str, parameter: str, description: str, meaning: str) -> ToolSpec:
    parameters = {
        "type": "object",
        "properties": {parameter: {"type": "string", "description": meaning}},
        "required": [parameter],
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


SEARCH = _tool("search", "query", "Search the web; the answer is a short text about the query.", "what to look for")
LOOKUP = _tool("lookup", "keyword", "Find the next sentence with a keyword on the page found last.", "the keyword")
_PARAMETERS = {"search": "query", "lookup": "keyword"}


def _matches(row: Mapping[str, Any]) -> bool:
    return _accepts(row) and _VERDICT.search(_texts(row)[-1]) is not None


def _accepts(row: Mapping[str, Any]) -> bool:
    """Whether the row has FireAct's actions and no others; an episode that was cut off has no verdict."""
    names = {name.lower() for text in _texts(row) for name in _NAME.findall(text)}
    return bool(names) and names <= {*_PARAMETERS, FINISH}


def _texts(row: Mapping[str, Any]) -> list[str]:
    """What the agent and its environment wrote."""
    if _foreign(row):
        return []
    if fields := episode_row(row):
        return [row[fields[1]]]
    turns = [turn for turn in chat_turns(row) or () if isinstance(turn, Mapping)]
    texts = [(turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))) for turn in turns]
    written = [
        text
        for role, text in texts
        if isinstance(text, str) and (role in _AGENT or text.lstrip().startswith(OBSERVATION))
    ]
    return written


def _foreign(row: Mapping[str, Any]) -> str | None:
    """The first field that the release does not have and that must not be passed over, such as a turn's weight."""
    if name := next((name for name in ("tools", "functions", "system", "history") if row.get(name)), None):
        return name
    for index, turn in enumerate(chat_turns(row) or ()):
        names = ("tool_calls", *SWITCHES, *UNSUPPORTED) if isinstance(turn, Mapping) else ()
        if name := next((name for name in names if turn.get(name) not in (None, [])), None):
            return f"messages[{index}].{name}"
    return None


def _read(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    refuse_row_switches(row, where)
    if foreign := _foreign(row):
        raise DataError(f"{where}: {foreign}: FireAct's rows have no such field; read the file with --from react")
    instruction, system, blocks = _episode(row, where)
    steps = [to_step(_named(block, where)) for block in blocks]
    lookup = any(step.action == "lookup" for step in steps)
    trajectory = AgentTrajectory(
        task_id=task_key(instruction, system, [SEARCH]),
        instruction=instruction,
        steps=steps,
        tools=[SEARCH, LOOKUP] if lookup else [SEARCH],
        system_prompt=system,
        metadata={**_rest(row), "source": "fireact", "method": _method(blocks)},
    )
    reward = _reward(blocks, where)
    if reward is None:
        trajectory.metadata["judged"] = False
    else:
        trajectory.success, trajectory.total_reward = reward == 1.0, reward
        steps[-1].reward = reward
    return to_chatml(trajectory)


def _episode(row: Mapping[str, Any], where: str) -> tuple[str, str | None, list[Block]]:
    """The question, the system message if there is one, and what was done."""
    if fields := episode_row(row):
        task, episode = fields
        more = row.get("input") or ""
        if not isinstance(more, str):
            raise DataError(f"{where}: input: expected text, found {type(more).__name__}")
        blocks = parse_react(row[episode], f"{where}: {episode}", _FIELDS)
        if not blocks:
            raise DataError(f"{where}: {episode}: no line 'Action: name[input]' in it")
        return "\n".join(filter(None, (row[task].strip(), more.strip()))), None, blocks
    turns = chat_turns(row)
    if not turns:
        raise DataError(f"{where}: expected {FIREACT.needs}; found {', '.join(map(str, row)) or 'nothing'}")
    heads: dict[str, list[str]] = {"system": [], "user": []}
    blocks = []
    for index, turn in enumerate(turns):
        at = f"{where}: messages[{index}]"
        role, content = turn_of(turn, at)
        if role == "assistant":
            if blocks and (blocks[-1].observation is None or blocks[-1].action == FINISH):
                raise DataError(f"{at}: expected the observation of '{blocks[-1].action}', found an assistant turn")
            found = parse_react(content, at, _FIELDS)
            if len(found) != 1 or found[0].observation is not None:
                raise DataError(f"{at}: expected one thought and one 'Action: name[input]', found {content!r:.80}")
            blocks += found
        elif not blocks and role in heads:
            heads[role].append(content.strip())
        elif blocks and blocks[-1].observation is None and role != "system":
            blocks[-1].observation = observation_text(content)
        else:
            raise DataError(f"{at}: expected an assistant turn, found one of role {role}")
    if not blocks or not heads["user"]:
        raise DataError(f"{where}: messages: expected the question, then turns with 'Action: name[input]'")
    return "\n\n".join(heads["user"]), "\n\n".join(heads["system"]) or None, blocks


def _rest(row: Mapping[str, Any]) -> dict[str, Any]:
    fields = episode_row(row)
    rest = read_metadata(row, (*fields, "input") if fields else (str(messages_key(row)),))
    return {f"row.{name}" if name in _OURS else name: value for name, value in rest.items()}


def _named(block: Block, where: str) -> Block:
    """The block with its tool and parameter by name."""
    if block.action == FINISH:
        return block
    name = block.action.lower()
    if name not in _PARAMETERS:
        raise DataError(f"{where}: action '{block.action}': FireAct has search, lookup and finish; try --from react")
    block.action, block.arguments = name, {_PARAMETERS[name]: block.arguments["input"]}
    return block


def _method(blocks: list[Block]) -> str:
    if any(_LOOKS_BACK.search(block.thought) for block in blocks):
        return "reflexion"
    return "cot" if len(blocks) == 1 and blocks[0].action == FINISH else "react"


def _reward(blocks: list[Block], where: str) -> float | None:
    """The verdict as 1.0 or 0.0, None where there is none (an episode that was cut off)."""
    verdict = _VERDICT.search(blocks[-1].observation or "")
    if verdict is None:
        return None
    text = verdict[1].rstrip(".")
    if text.lower() not in _REWARDS:
        raise DataError(f"{where}: reward: expected True, 1, False or 0, found {text!r:.40}")
    return _REWARDS[text.lower()]


FIREACT = Importer(
    name="fireact",
    matches=_matches,
    read=_read,
    needs="a ReAct row (chat, or instruction and output) that ends 'Episode finished, reward = True' after finish[...]",
    accepts=_accepts,
)
