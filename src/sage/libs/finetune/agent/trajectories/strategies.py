"""How a model is asked to work: the prompting methods whose mix FireAct trains on (Chen et al., 2023, section 3).

A strategy says what stands in the system prompt, whether tools are shown, and what is asked at certain steps. How
calls are written is another matter (see `dialogue`), so each strategy works with native calls and with text alike, for
a server as for a local model.

- `react` (Yao et al., 2022, https://arxiv.org/abs/2210.03629): a thought before each call, one call at a time.
- `cot` (Wei et al., 2022, https://arxiv.org/abs/2201.11903): one reply, reasoning and then the answer, without tools.
- `reflexion` (Shinn et al., 2023, https://arxiv.org/abs/2303.11366): `react`, and where the task is still open at step
  6 a look back at what went wrong, at step 10 a last one to wrap up. As in FireAct the reflection happens within the
  episode; Shinn et al. start a new one instead.

The prompts are ours. They are no part of what is recorded: a trajectory has the task's own system prompt, so a model
trained on it needs none of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.registry import Registry


@dataclass(frozen=True)
class Strategy:
    """One way to ask for work.

    Attributes:
        name: What `metadata["method"]` of its trajectories says.
        instructions: Put behind the task's own system prompt.
        uses_tools: Whether the tools are shown; without, a call is refused.
        reminders: Step number (from 1) -> what is asked before that step, after the newest observation.
    """

    name: str
    instructions: str
    uses_tools: bool = True
    reminders: Mapping[int, str] = field(default_factory=dict)


_REACT = (
    "Work step by step. In each step first think in a sentence or two: what do you know, what is still missing, which "
    "call gets you there? Then make exactly one call and wait for its result. If a result is not what you expected, "
    "think about why and try another way. Give the final answer once the results support it, and keep it short."
)
_COT = (
    "No tools are at hand: answer from what you know. Reason step by step in a few sentences, then end with a line "
    "'Answer: ' and nothing but the answer itself."
)
_REFLECT = (
    "Five steps did not solve the task. Before the next call look back in your thought: which step led away from the "
    "goal, what have you learned, and what will you do differently from here?"
)
_WRAP_UP = (
    "Nine steps did not solve the task. In your thought sum up what the results have shown, then give the best final "
    "answer they support, or make the one call that is still missing."
)

STRATEGIES: Registry[Strategy] = Registry("strategy")
for _strategy in (
    Strategy("react", _REACT),
    Strategy("cot", _COT, uses_tools=False),
    Strategy("reflexion", _REACT, reminders={6: _REFLECT, 10: _WRAP_UP}),
):
    STRATEGIES.add(_strategy.name, _strategy)


def pick_strategy(strategy: str | Strategy | None) -> Strategy | None:
    """The strategy of that name; one that is built already and None are given back.

    Raises:
        ConfigError: when there is no such strategy; lists the known ones.

    Example:
        >>> pick_strategy("cot").uses_tools
        False
    """
    if isinstance(strategy, str):
        return STRATEGIES[strategy]
    if strategy is not None and not isinstance(strategy, Strategy):
        found = type(strategy).__name__
        raise ConfigError(f"strategy: expected one of {', '.join(STRATEGIES)}, a Strategy or None, found {found}")
    return strategy
