"""Replies of a model in many episodes at once: our decoder beside `model.generate`, same prompts, same replies.

The prompts are those of real desk episodes, turn after turn, as an agent in lockstep asks for them. In float32 both
must give the same tokens; in the model's own precision only speed is compared. Run with `--float32` for the former.
"""

from __future__ import annotations

import argparse

from common import report, timed

from sage.libs.finetune.agent.models.embedded import EMBEDDED
from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.pipeline import desk_samples
from sage.libs.finetune.agent.tokenization.render import render_prompt
from sage.libs.finetune.agent.tokenization.template import stop_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--float32", action="store_true")
    options = parser.parse_args()
    loaded = load_model(EMBEDDED, dtype="float32" if options.float32 else "auto")
    samples = [row for row in desk_samples("test") if len(_assistant_turns(row)) >= options.turns]
    rows = samples[: options.episodes]
    turns = [[_prompt(row, turn, loaded.tokenizer) for row in rows] for turn in range(options.turns)]
    stops = stop_ids(loaded.tokenizer, loaded.model.generation_config)
    replies: dict[str, list[list[list[int]]]] = {}

    def run(name: str, fast: bool | None) -> None:
        generator = Generator(loaded.model, stop_ids=stops, pad_id=0, max_batch=len(rows), fast=fast)
        replies[name] = [
            generator.generate(prompts, max_new_tokens=options.new_tokens, keys=range(len(rows))) for prompts in turns
        ]

    ours = timed(lambda: run("ours", True), options.repeats)
    theirs = timed(lambda: run("transformers", False), options.repeats)
    one, other = ([reply for turn in replies[name] for reply in turn] for name in ("ours", "transformers"))
    same = sum(a == b for a, b in zip(one, other, strict=True))
    report(
        f"decoding_{'float32' if options.float32 else str(loaded.model.dtype).removeprefix('torch.')}",
        {
            "episodes": len(rows),
            "turns": options.turns,
            "new_tokens": sum(map(len, one)),
            "ours": ours,
            "model.generate": theirs,
            "speedup": theirs["median_s"] / ours["median_s"],
            "same_replies": f"{same} of {len(one)}",
        },
    )


def _assistant_turns(row: dict) -> list[int]:
    return [index for index, message in enumerate(row["messages"]) if message["role"] == "assistant"]


def _prompt(row: dict, turn: int, tokenizer: object) -> list[int]:
    """The prompt of a row's assistant turn number `turn`, counted from 0."""
    return render_prompt(row["messages"][: _assistant_turns(row)[turn]], row["tools"], tokenizer)


if __name__ == "__main__":
    main()
