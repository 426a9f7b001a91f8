"""Replies of a model to a test set: our evaluator beside loops over `model.generate`, same prompts, same replies.

The prompts are the first turns of rows of `agent_sft:test`, with their tools. Three arms ask for each reply, greedily:

- `evaluate`: AgentCapabilityEvaluator, reading, rendering, scoring and intervals included.
- `one at a time`: `model.generate` on one prompt after the other, rendered and decoded in the loop.
- `in batches`: `model.generate` on as many padded prompts as `evaluate` takes at once.

The arms take turns, so that a slow minute of the machine is a slow minute of all. In float32 all must say the same; in
bfloat16, whose sums depend on the shape of the batch, how many replies agree is only reported.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import report
from transformers import GenerationConfig

from sage.libs.finetune.agent.capabilities.evaluator import AgentCapabilityEvaluator
from sage.libs.finetune.agent.models.embedded import EMBEDDED
from sage.libs.finetune.agent.models.load import LoadedModel, load_model
from sage.libs.finetune.agent.progress import silent
from sage.libs.finetune.agent.sources.resolve import load_samples
from sage.libs.finetune.agent.tokenization.render import render_prompt
from sage.libs.finetune.agent.tokenization.template import stop_ids

Arm = Callable[[], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=EMBEDDED, help="hub id or folder; the embedded one by default")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    rows = [first_turn(sample, number) for number, sample in enumerate(load_samples("agent_sft:test")[: options.rows])]
    results = {dtype: measure(load_model(options.model, dtype=dtype), rows, options) for dtype in options.dtypes}
    settings = {name: getattr(options, name) for name in ("batch_size", "new_tokens", "repeats")}
    report("evaluation", {"model": options.model, "rows": len(rows), **settings, **results})


def first_turn(sample: Any, number: int) -> dict[str, Any]:
    """The row up to and with the assistant's first turn, which is what `tool_use` asks for."""
    messages = sample["messages"]
    end = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
    return {"id": str(number), "messages": messages[: end + 1], "tools": sample.get("tools") or []}


def measure(loaded: LoadedModel, rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and replies of each arm, which take turns."""
    arms: dict[str, Arm] = {
        "evaluate": lambda: evaluated(loaded, rows, options.batch_size, options.new_tokens),
        "one at a time": lambda: generated(loaded, rows, 1, options.new_tokens),
        "in batches": lambda: generated(loaded, rows, options.batch_size, options.new_tokens),
    }
    for arm in arms.values():  # once unmeasured and in small: what is only done the first time
        arm_rows, rows[:] = rows[:], rows[:2]
        arm()
        rows[:] = arm_rows
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    replies: dict[str, list[str]] = {}
    for _ in range(options.repeats):
        for name, arm in arms.items():
            begin = time.perf_counter()
            replies[name] = arm()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        name: {
            "median_s": medians[name],
            "min_s": min(seconds[name]),
            "max_s": max(seconds[name]),
            "replies_per_second": len(rows) / medians[name],
            "times_one_at_a_time": medians["one at a time"] / medians[name],
            "same_replies": sum(a == b for a, b in zip(replies[name], replies["one at a time"], strict=True)),
        }
        for name in arms
    }


def evaluated(loaded: LoadedModel, rows: list[dict[str, Any]], batch_size: int, new_tokens: int) -> list[str]:
    """The replies that the evaluator gets."""
    evaluator = AgentCapabilityEvaluator(batch_size=batch_size, max_new_tokens=new_tokens, progress=silent)
    score = evaluator.evaluate_capability(loaded, "tool_use", rows)
    assert not score.errors, score.replies
    return [record["reply"] for record in score.replies]


def generated(loaded: LoadedModel, rows: list[dict[str, Any]], batch_size: int, new_tokens: int) -> list[str]:
    """The replies of `model.generate`, prompts padded on the left."""
    tokenizer, stops = loaded.tokenizer, stop_ids(loaded.tokenizer, loaded.model.generation_config)
    pad = tokenizer.pad_token_id or 0
    settings = GenerationConfig(do_sample=False, max_new_tokens=new_tokens, eos_token_id=stops, pad_token_id=pad)
    replies = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        prompts = [render_prompt(row["messages"][:-1], row["tools"] or None, tokenizer) for row in batch]
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = loaded.model.device
        with torch.inference_mode():
            found = loaded.model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings
            )
        for reply in found[:, width:].tolist():
            end = next((at for at, token in enumerate(reply) if token in stops), len(reply))
            replies.append(str(tokenizer.decode(reply[:end], clean_up_tokenization_spaces=False)))
    return replies


if __name__ == "__main__":
    main()
