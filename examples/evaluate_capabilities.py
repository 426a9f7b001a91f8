"""Measure what a model can do: built-in test sets, your own test data with your own scorer, and whole episodes.

Run it with `.venv/bin/python examples/evaluate_capabilities.py`; it needs no model. Put your own in place of `model`: a
function `messages -> reply`, a model's name or folder, a trainer, or a server (`"http://localhost:8000/v1#my-model"`).
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent import AgentCapabilityEvaluator
from sage.libs.finetune.agent.environments.desk import NoisyDeskExpert
from sage.libs.finetune.agent.progress import silent

CAPITALS = [
    {"question": "What is the capital of France?", "answer": "Paris"},
    {"question": "What is the capital of Peru?", "answer": "Lima"},
]


def model(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> dict[str, Any]:
    """A baseline that learned nothing: it calls a tool whose words stand in the request, once for each number there."""
    request = messages[-1]["content"].lower()
    calls = []
    for tool in tools:
        name, parameters = tool["function"]["name"], tool["function"]["parameters"]["properties"]
        if len(parameters) == 1 and all(word in request for word in name.split("_")):
            [parameter] = parameters
            calls += [{"name": name, "arguments": {parameter: int(digits)}} for digits in re.findall(r"\d+", request)]
    return {"content": "" if calls else "Paris", "tool_calls": calls}


def names_the_capital(reply: str, item: dict[str, Any]) -> bool:
    """A scorer of one's own: a function of the reply and the item, which has the row's fields."""
    return item["gold"].lower() in reply.lower()


def main() -> None:
    evaluator = AgentCapabilityEvaluator(scorers={"capitals": names_the_capital}, progress=silent)
    report = evaluator.evaluate(model, {"tool_use": "builtin:50", "timing": "builtin:50", "capitals": CAPITALS})
    print(report.summary())

    tools = report.scores["tool_use"]
    wrong = next(record for record in tools.replies if record["value"] == 0)
    print(f"\nThe first wrong call ({wrong['id']}): {wrong['reason']}")

    episodes = evaluator.evaluate_capability(NoisyDeskExpert(failure_rate=0.3), "episodes", "builtin:30")
    assert episodes.interval is not None
    low, high = episodes.interval.low, episodes.interval.high
    print(f"Episodes of an expert that errs: {episodes.score:.2f} ({low:.2f} to {high:.2f})")

    page = Path(tempfile.mkdtemp(prefix="capabilities-")) / "report.html"
    report.save_html(page)
    print(f"Every reply, with what was wrong about it: {page}")


if __name__ == "__main__":
    main()
