"""Text environments with Gymnasium's interface, as environments of this package.

Any object with `reset(seed=, options=) -> (observation, info)` and `step(action) -> (observation, reward, terminated,
truncated, info)` will do; the package `gymnasium` is needed only to make one by its id.

The agent sees one tool, `act(action)`: free text, or the names (else the numbers) of a discrete action space. What
Gymnasium does not have is a verdict: success is `info["success"]` or `info["is_success"]` where the environment says
so, else whether the episode's return reached `success_reward`, else unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.environments.arguments import check_schemas, whole
from sage.libs.finetune.agent.errors import ConfigError, TrajectoryError
from sage.libs.finetune.agent.schemas.tools import tool_schema
from sage.libs.finetune.agent.types import FINISH, StepResult, ToolSpec

_VERDICTS = ("success", "is_success")


class GymnasiumEnvironment:
    """A Gymnasium environment whose observations are text, or can be written as JSON.

    Args:
        make_env: Makes one, or the id of a registered one (needs the package `gymnasium`).
        action_name: What the tool is called.
        actions: Names of the actions of a discrete space, in their order; None asks the environment's own
            `get_action_meanings()`, where it has one.
        tools: Schemas to show in the tool's stead, when the environment knows several commands.
        to_action: `(tool name, arguments) -> action`, needed with `tools`.
        to_text: `(observation) -> text`; None takes text as it is and writes everything else as JSON.
        success_reward: Sum of rewards from which an episode is a success, where the environment does not say itself.

    Raises:
        ConfigError: when `gymnasium` is missing or the settings contradict each other.

    Example:
        >>> class Door:
        ...     def reset(self, seed=None, options=None):
        ...         return "A closed door.", {}
        ...     def step(self, action):
        ...         opened = action == "open door"
        ...         return ("It is open." if opened else "Nothing happens."), float(opened), opened, False, {}
        >>> door = GymnasiumEnvironment(Door, success_reward=1.0)
        >>> door.reset({"instruction": "Open the door."})
        'A closed door.'
        >>> door.step("act", {"action": "open door"})
        StepResult(observation='It is open.', reward=1.0, done=True, success=True, error=None)
    """

    def __init__(
        self,
        make_env: Callable[[], Any] | str,
        *,
        action_name: str = "act",
        actions: Sequence[str] | None = None,
        tools: Sequence[ToolSpec] | None = None,
        to_action: Callable[[str, dict[str, Any]], Any] | None = None,
        to_text: Callable[[Any], str] | None = None,
        success_reward: float | None = None,
    ) -> None:
        if (tools is None) != (to_action is None):
            raise ConfigError("GymnasiumEnvironment: 'tools' and 'to_action' go together; give both or neither")
        if tools is not None and actions is not None:
            raise ConfigError("GymnasiumEnvironment: 'actions' names those of the one tool; leave it out with 'tools'")
        if action_name == FINISH:
            raise ConfigError(f"GymnasiumEnvironment: action_name='{FINISH}' ends an episode; give another name")
        self._env = _made(make_env) if isinstance(make_env, str) else make_env()
        for method in ("reset", "step"):
            if not callable(getattr(self._env, method, None)):
                raise ConfigError(f"make_env gave a {type(self._env).__name__} without {method}; see gymnasium.Env")
        self._names = None if tools is not None else _action_names(self._env, actions)
        self.tools = [_tool(action_name, self._env, self._names)] if tools is None else list(tools)
        check_schemas(self.tools)
        self._schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in self.tools}
        self._to_action = to_action or self._one_action
        self._to_text = to_text or observation_text
        self._success_reward = success_reward
        self._return = 0.0
        self._verdict: bool | None = None

    def reset(self, task: Mapping[str, Any]) -> str:
        """Start afresh, with the task's `seed` and `options` where it has them; gives the first observation."""
        self._return, self._verdict = 0.0, None
        result = self._env.reset(**{name: task[name] for name in ("seed", "options") if name in task})
        if not isinstance(result, tuple) or len(result) != 2:
            raise TrajectoryError(f"reset must give (observation, info), it gave {_found(result)}")
        return self._to_text(result[0])

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        """Do one action. `finish` ends the episode with the verdict so far.

        Raises:
            TrajectoryError: when the environment does not keep to Gymnasium's interface.
        """
        if action == FINISH:
            return StepResult("", done=True, success=self._success(over=True))
        if action not in self._schemas:
            return StepResult(f"error: no tool {action}; there are {', '.join(self._schemas)}", error="unknown_tool")
        schema = self._schemas[action]
        if fault := tool_schema(schema).misfit(action_input):
            return StepResult(f"error: {fault}", error="bad_arguments")
        result = self._env.step(self._to_action(action, whole(action_input, schema)))
        if not isinstance(result, tuple) or len(result) != 5:
            raise TrajectoryError(
                f"step must give (observation, reward, terminated, truncated, info), it gave {_found(result)}"
            )
        observation, reward, terminated, truncated, info = result
        self._return += float(reward)
        for name in _VERDICTS:
            if info.get(name) is not None:
                self._verdict = bool(info[name])
        done = bool(terminated) or bool(truncated)
        return StepResult(self._to_text(observation), float(reward), done, self._success(over=done))

    def close(self) -> None:
        """Close the environment, if it can be closed."""
        if callable(close := getattr(self._env, "close", None)):
            close()

    def _success(self, *, over: bool) -> bool | None:
        """The environment's word, else the return's; a return that may still grow is no failure yet."""
        if self._verdict is not None or self._success_reward is None:
            return self._verdict
        reached = self._return >= self._success_reward
        return reached if over or reached else None

    def _one_action(self, tool: str, arguments: dict[str, Any]) -> Any:
        action = arguments["action"]
        return action if self._names is None else self._names[action]


def observation_text(observation: object) -> str:
    """Text as it is, everything else as JSON; arrays (anything with `tolist`) as lists.

    Raises:
        TrajectoryError: for what JSON has no form for.

    Example:
        >>> observation_text("A door."), observation_text({"door": "closed", "keys": 2})
        ('A door.', '{"door": "closed", "keys": 2}')
    """
    if isinstance(observation, str):
        return observation
    try:
        return json.dumps(observation, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise TrajectoryError(
            f"an observation cannot be shown as text ({error}); give GymnasiumEnvironment a to_text"
        ) from None


def _plain(value: Any) -> Any:
    if callable(to_list := getattr(value, "tolist", None)):
        return to_list()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _made(name: str) -> Any:
    try:
        import gymnasium
    except ImportError:
        raise ConfigError(
            f"the environment '{name}' needs the package gymnasium; pip install 'sage-libs[gymnasium]'"
        ) from None
    try:
        return gymnasium.make(name)
    except gymnasium.error.Error as error:
        raise ConfigError(f"gymnasium cannot make '{name}': {' '.join(str(error).split())}") from None


def _action_names(env: Any, actions: Sequence[str] | None) -> dict[str, int] | None:
    """Name -> action of a discrete space; None when the actions have no names."""
    if actions is None:
        meanings = getattr(getattr(env, "unwrapped", env), "get_action_meanings", None)
        if not callable(meanings):
            return None
        actions = list(meanings())
    numbers = _discrete(getattr(env, "action_space", None))
    if numbers is None:
        raise ConfigError(
            "GymnasiumEnvironment: 'actions' names discrete actions, and this action space is not Discrete"
        )
    if len(set(actions)) != len(numbers) or len(actions) != len(numbers):
        raise ConfigError(f"GymnasiumEnvironment: {len(numbers)} actions need as many different names, found {actions}")
    return dict(zip(actions, numbers, strict=True))


def _tool(name: str, env: Any, names: dict[str, int] | None) -> ToolSpec:
    """The one tool: what can be done is what the action space says."""
    space = getattr(env, "action_space", None)
    if names is not None:
        action: dict[str, Any] = {"type": "string", "enum": list(names)}
    elif numbers := _discrete(space):
        action = {"type": "integer", "minimum": numbers[0], "maximum": numbers[-1]}
    elif space is None or _is_text(space):
        action = {"type": "string"}
    else:
        raise ConfigError(
            f"GymnasiumEnvironment: actions of a {type(space).__name__} space are neither text nor discrete; "
            "give 'tools' and 'to_action'"
        )
    schema = {
        "type": "object",
        "properties": {"action": {**action, "description": "What to do."}},
        "required": ["action"],
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": "Do one thing and see what comes of it.", "parameters": schema},
    }


def _discrete(space: Any) -> range | None:
    """The actions of a Discrete space; told by its class's name, since gymnasium itself may not be here."""
    if not any(base.__name__ == "Discrete" for base in type(space).__mro__):
        return None
    start = int(space.start)
    return range(start, start + int(space.n))


def _is_text(space: Any) -> bool:
    """Whether actions are text: Gymnasium's Text space, or one like it that draws text."""
    return any(base.__name__ == "Text" for base in type(space).__mro__) or isinstance(space.sample(), str)


def _found(result: object) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
