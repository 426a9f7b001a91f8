"""Checking 100,000 rows of about 2 kB without a model, on one core, beside plain `json.loads` of the same lines.

Once with rows that share their tools, as data sets of one agent do, and once with schemas that no other row has. Each
is measured in a process of its own, bound to one core: wall-clock and processor seconds, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import report

PLACES = "Oslo Lima Kyiv Cairo Turin Zürich".split()
GOODS = "lamp chair desk shelf clock stool table mirror carpet vase".split()


def _tool(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = {
    "search_offers": _tool(
        "search_offers",
        "Find offers near a place.",
        {
            "product": {"type": "string"},
            "place": {"type": "string", "enum": PLACES},
            "max_price": {"type": "number", "minimum": 0},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        ["product", "place"],
    ),
    "get_offer": _tool("get_offer", "Show an offer.", {"offer": {"type": "integer", "minimum": 1}}, ["offer"]),
    "reserve": _tool(
        "reserve",
        "Put an offer aside.",
        {
            "offer": {"type": "integer", "minimum": 1},
            "customer": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "phone": {"type": ["string", "null"]}},
                "required": ["name"],
            },
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        ["offer", "customer"],
    ),
}


def own_tools(number: int) -> list[dict[str, Any]]:
    """The tools, each with a parameter that no other row's tool has."""
    tools = json.loads(json.dumps(list(TOOLS.values())))
    for tool in tools:
        tool["function"]["parameters"]["properties"][f"note_{number}"] = {"type": "string"}
    return tools


def row(number: int, rng: random.Random, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """One conversation of two or three calls; no two are alike."""
    goods, place, offer = rng.choice(GOODS), rng.choice(PLACES), rng.randrange(10**6) + 1
    price = round(rng.uniform(5, 300), 2)
    calls = [
        ("search_offers", {"product": goods, "place": place, "max_price": price, "tags": rng.sample(GOODS, 2)}),
        ("get_offer", {"offer": offer}),
        ("reserve", {"offer": offer, "customer": {"name": f"Customer {number}", "phone": None}, "days": 7}),
    ][: rng.choice((2, 3))]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Use the tools, then answer."},
        {"role": "user", "content": f"Reserve a {goods} in {place} below {price} euros for customer {number}, please."},
    ]
    for index, (name, arguments) in enumerate(calls, start=1):
        call = {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        thought = f"I need {name} for the {goods}."
        answer = f"offer={offer} goods={goods} price={price} left={rng.randrange(90)}"
        messages.append({"role": "assistant", "content": thought, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"call_{index}", "name": name, "content": answer})
    messages.append({"role": "assistant", "content": f"The {goods} (offer {offer}) is reserved for a week."})
    return {"messages": messages, "tools": tools}


def parse(path: str) -> int:
    rows = 0
    with open(path, "rb") as lines:
        for line in lines:
            json.loads(line)
            rows += 1
    return rows


def check(path: str) -> int:
    from sage.libs.finetune.agent.validation import validate

    found = validate(path)
    assert found.kept == found.rows, found.to_dict()
    return found.rows


WORK: dict[str, Callable[[str], int]] = {"json.loads": parse, "validate": check}


def measure(name: str, path: str) -> dict[str, float]:
    """Run one kind of work and say what it took, loading the package included."""
    wall = time.perf_counter()
    rows = WORK[name](path)
    return {
        "rows": rows,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--measure", nargs=2, metavar=("WORK", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(measure(*options.measure)))
        return
    cases = {"tools shared": lambda number: list(TOOLS.values()), "tools of its own in each row": own_tools}
    report("validate", {case: compare(options.rows, tools) for case, tools in cases.items()})


def compare(rows: int, tools: Callable[[int], list[dict[str, Any]]]) -> dict[str, Any]:
    """Write the rows and measure each kind of work on them."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row(number, rng, tools(number))) + "\n" for number in range(rows))
        result: dict[str, Any] = {"rows": rows, "bytes_a_row": path.stat().st_size / rows}
        for name in WORK:
            command = [sys.executable, __file__, "--measure", name, str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            result[name] = json.loads(done.stdout)
    result["times_json"] = result["validate"]["cpu_s"] / result["json.loads"]["cpu_s"]
    return result


if __name__ == "__main__":
    main()
