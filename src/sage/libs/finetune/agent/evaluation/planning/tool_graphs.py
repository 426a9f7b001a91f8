"""Tool graphs: tools that make things out of other things, as an agent's tools do; the goal is one of the things.

A tool works on the things of one region at a time, and can be used once for each region. Some of the things are there
already, some tools lead nowhere, and at level 3 some use up what they need, so that the order of the others matters.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from sage.libs.finetune.agent.evaluation.planning.strips import Instance

_REGIONS = tuple("north south east west coast valley island desert".split())
_TOOLS = {
    "page": "fetch_page", "table": "fill_table", "chart": "draw_chart", "report": "write_report",
    "letter": "draft_letter", "index": "build_index", "map": "print_map", "list": "sort_list", "log": "scan_log",
    "bill": "total_bill", "plan": "make_plan", "photo": "crop_photo", "label": "stick_label", "note": "sign_note",
}  # fmt: skip
"""The tool that makes a thing, by the thing."""

_SIZES = {1: (4, 1), 2: (6, 1), 3: (7, 2)}
"""Tools and regions, by level."""


class _Tool(NamedTuple):
    makes: str
    needs: list[str]
    uses_up: list[str]


def generate(rng: random.Random, level: int) -> Instance:
    """A problem of 4 (level 1), 6 (2) or 7 tools; level 3 asks for something in each of two regions.

    Whether it can be solved, and in how many steps, is left to chance and to a search.

    Example:
        >>> print(generate(random.Random(3), 1).instruction.splitlines()[-2])
        Goal: note for desert.
    """
    count, wanted = _SIZES[level]
    things = rng.sample(sorted(_TOOLS), count + 1)
    tools = [_tool(things, index, level, rng) for index in range(1, len(things))]
    regions = rng.sample(_REGIONS, 2)
    have = [(things[0], region) for region in regions]
    if level == 3:
        have.append((rng.choice(things[1:3]), rng.choice(regions)))
    goals = [(rng.choice(things[level + 1 :]), region) for region in rng.sample(regions, wanted)]
    problem = {
        "init": [
            *(f"have {thing} {region}" for thing, region in have),
            *(f"unused {_TOOLS[tool.makes]} {region}" for tool in tools for region in regions),
        ],
        "goal": [f"have {thing} {region}" for thing, region in goals],
    }
    shown = rng.sample(tools, len(tools))
    domain = {"name": "tool graph", "actions": [_action(tool) for tool in shown]}
    return Instance(domain, problem, _in_words(shown, have, goals))


def _tool(things: list[str], index: int, level: int, rng: random.Random) -> _Tool:
    """The tool that makes `things[index]` out of one or two earlier ones, more often late ones than early ones."""
    earlier = range(index)
    needs = {rng.choices(earlier, weights=[2**each for each in earlier])[0]}
    if level > 1 and rng.random() < 0.4:
        needs.add(rng.choice(earlier))
    uses_up = [each for each in sorted(needs) if level == 3 and rng.random() < 0.2]
    return _Tool(things[index], [things[each] for each in sorted(needs)], [things[each] for each in uses_up])


def _action(tool: _Tool) -> dict[str, Any]:
    name = _TOOLS[tool.makes]
    return {
        "name": name,
        "parameters": ["?region"],
        "pre": [f"unused {name} ?region", *(f"have {thing} ?region" for thing in tool.needs)],
        "add": [f"have {tool.makes} ?region"],
        "delete": [f"unused {name} ?region", *(f"have {thing} ?region" for thing in tool.uses_up)],
    }


def _in_words(tools: list[_Tool], have: list[tuple[str, str]], goals: list[tuple[str, str]]) -> str:
    lines = []
    for tool in tools:
        needs = " and ".join(thing + " (used up)" * (thing in tool.uses_up) for thing in tool.needs)
        lines.append(f"{_TOOLS[tool.makes]}: makes {tool.makes} from {needs}")
    return "\n".join(
        (
            "A tool works on the things of one region, and can be used once for each region. Tools:",
            *lines,
            f"Now there is: {', '.join(f'{thing} for {region}' for thing, region in have)}.",
            f"Goal: {', '.join(f'{thing} for {region}' for thing, region in goals)}.",
            f"Reply with the plan, one tool and its region a line, such as: {_TOOLS[tools[0].makes]} {have[0][1]}",
        )
    )
