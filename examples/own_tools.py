"""Your own Python functions as tools: collect episodes, keep the good ones, make training rows, check them.

Run it with `.venv/bin/python examples/own_tools.py`; it needs no model. Put your own agent in place of `agent`: a
function, a coroutine, or `EndpointAgent("my-model", base_url="http://localhost:8000/v1")`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent import CollectorConfig, FunctionEnvironment, TrajectoryCollector, TrajectoryFilter
from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.environments.functions import tools_of
from sage.libs.finetune.agent.jsonl import write_jsonl
from sage.libs.finetune.agent.validation import validate

PRICES = {"tea": 3, "coffee": 4, "milk": 2}


def price_of(product: str) -> int:
    """The price of a product.

    Args:
        product: Its name.
    """
    return PRICES[product]


def agent(task: dict[str, Any], history: list[Any]) -> dict[str, Any]:
    """Ask for the price of each product, then add up; it forgets the last of three products."""
    asked = [step.action_input["product"] for step in history]
    for product in task["products"][:2]:
        if product not in asked:
            return {
                "thought": f"I need the price of {product}.",
                "action": "price_of",
                "action_input": {"product": product},
            }
    total = sum(int(step.observation) for step in history)
    return {"thought": "Now I can add up.", "action": "finish", "action_input": {"answer": total}}


def main() -> None:
    baskets = [["tea"], ["tea", "milk"], ["coffee", "milk"], ["tea", "coffee", "milk"]]
    tasks = [
        {
            "instruction": f"What do {' and '.join(basket)} cost together?",
            "products": basket,
            "answer": sum(PRICES[product] for product in basket),
            "tools": tools_of([price_of]),
        }
        for basket in baskets
    ]
    folder = Path(tempfile.mkdtemp(prefix="own-tools-"))
    config = CollectorConfig(require_success=False, concurrency=2, output_path=folder / "trajectories.jsonl")
    trajectories = TrajectoryCollector(agent, config, lambda: FunctionEnvironment([price_of])).collect(tasks)
    good = TrajectoryFilter()
    stats = good.get_stats(trajectories)
    print(f"kept {stats['kept']} of {stats['total']} episodes, {stats['failed']} failed")

    rows = folder / "rows.jsonl"
    write_jsonl(rows, [to_chatml(trajectory) for trajectory in good.filter(trajectories)])
    report = validate(str(rows))
    print(f"{report.kept} of {report.rows} rows are fit to train on: {rows}")


if __name__ == "__main__":
    main()
