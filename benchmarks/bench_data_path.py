"""From environment to training rows: the embedded data set, and rendering it to labelled tokens."""

from __future__ import annotations

from common import report, timed

from sage.libs.finetune.agent.models.embedded import EMBEDDED
from sage.libs.finetune.agent.models.load import resolve_model
from sage.libs.finetune.agent.pipeline import desk_samples
from sage.libs.finetune.agent.tokenization.render import render


def main() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(EMBEDDED))
    samples = desk_samples("train")
    report(
        "data_path",
        {
            "rows": len(samples),
            "collect_filter_convert": timed(lambda: desk_samples("train"), 5),
            "render": timed(lambda: [render(sample, tokenizer) for sample in samples], 5),
        },
    )


if __name__ == "__main__":
    main()
