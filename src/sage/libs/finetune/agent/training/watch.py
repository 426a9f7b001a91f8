"""Evaluation from within training: the loss of all held-out rows, and what the model says to the first of them.

Loss alone tells little about an agent: it goes on falling while calls stay unreadable, and rises while they become
right. So some turns are asked for as well, greedily, and scored as `evaluate` scores them.

Training does not notice. Random state, training mode of each module, gradients and the attention function are
afterwards what they were, memory is given back, and a run with evaluations ends in the same weights as one without.
The model is evaluated with the attention function it had when the watch was made, before training put its own in, so a
number of step k is that of checkpoint k loaded and evaluated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sage.libs.finetune.agent.models.batches import BatchForm
from sage.libs.finetune.agent.models.exactness import base_model
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.models.losses import mean_loss
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.training.ask import ask_and_score, asked_turns, calls_valid_share
from sage.libs.finetune.agent.types import Sample


class _BrokenOff(Exception):
    """Training is to stop; a loss or score of a part of the rows is worth nothing."""


class Watch:
    """Evaluates a model that is being trained; call it between two steps.

    With several processes the model's own process calls it and the others wait at a barrier.

    Args:
        loaded: The model as it is before training begins, its adapter in place.
        rows: Token rows of the held-out data, for the loss.
        samples: The conversations to ask turns of; with none there is only a loss.
        batch_size: Rows in one forward, and rows generated at once.
        max_new_tokens: Longest reply, in tokens.
        progress: Told under the label "evaluate".
        stopping: Whether training is to stop, in which case the evaluation is broken off.

    Example:
        >>> watch = Watch(loaded, data.rows, data.samples[:32], batch_size=32, max_new_tokens=128, progress=progress)
        ... # doctest: +SKIP
        >>> watch()  # doctest: +SKIP
        {'eval_loss': 0.41, 'eval_n': 64, 'eval_accuracy': 0.72, 'eval_calls_valid': 1.0, 'eval_seconds': 12.3}
    """

    def __init__(
        self,
        loaded: LoadedModel,
        rows: Sequence[Any],
        samples: Sequence[Sample],
        *,
        batch_size: int,
        max_new_tokens: int,
        progress: Progress,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._loaded, self._rows, self._samples = loaded, list(rows), list(samples)
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens
        self._progress, self._stopping = progress, stopping
        self._turns = asked_turns(self._samples)
        self._attention = _attention(loaded.model)

    def __call__(self) -> dict[str, float]:
        """The numbers of an evaluation by their names in `metrics.jsonl`; what was not measured is left out.

        Returns:
            `eval_loss` (nats per trained token), `eval_n` (turns asked for), `eval_accuracy` (share of them that is
            right), `eval_calls_valid` (share of the turns with an attempted call), `eval_seconds`. Empty when the
            evaluation was broken off.
        """
        begin = time.perf_counter()
        try:
            with _undisturbed(self._loaded.model, self._attention):
                numbers = {"eval_loss": self._loss(), **self._replies()}
        except _BrokenOff:
            return {}
        return {**numbers, "eval_seconds": round(time.perf_counter() - begin, 3)}

    def _loss(self) -> float:
        form = BatchForm(self._loaded.model, self._loaded.tokenizer.pad_token_id or 0)
        with form.attention():
            return mean_loss(self._loaded.model, self._counted(form.evaluation(self._rows, self._batch_size)))

    def _counted(self, held_out: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(held_out):
            self._tell(number * self._batch_size)
            yield batch
        self._tell(len(self._rows))

    def _replies(self) -> dict[str, float]:
        if not self._turns:
            return {"eval_n": 0}

        def tell(label: str, done: int, total: int, detail: str = "") -> None:
            self._tell(len(self._rows) + done)

        records = ask_and_score(
            self._loaded, self._samples, self._turns, max_new_tokens=self._max_new_tokens,
            batch_size=self._batch_size, progress=tell,
        )  # fmt: skip
        numbers = {"eval_n": len(records), "eval_accuracy": sum(record["right"] for record in records) / len(records)}
        valid = calls_valid_share(records)
        return numbers if valid is None else {**numbers, "eval_calls_valid": valid}

    def _tell(self, done: int) -> None:
        if self._stopping():
            raise _BrokenOff
        self._progress("evaluate", done, len(self._rows) + len(self._turns))


def best_evaluation(lines: Iterable[Mapping[str, Any]]) -> tuple[int, float] | None:
    """Step and loss of the evaluation with the lowest loss, the first of equals; None where there is none.

    Args:
        lines: Of `metrics.jsonl`, or of the trainer's log history.

    Example:
        >>> best_evaluation([{"step": 1, "loss": 0.9}, {"step": 4, "eval_loss": 0.7}, {"step": 8, "eval_loss": 0.8}])
        (4, 0.7)
    """
    evaluated = [line for line in lines if line.get("eval_loss") is not None]
    best = min(evaluated, key=lambda line: float(line["eval_loss"]), default=None)
    return None if best is None else (int(best["step"]), float(best["eval_loss"]))


@contextmanager
def _undisturbed(model: Any, attention: str) -> Iterator[None]:
    """The model ready for evaluation inside the block, and as it was behind it."""
    modules, before = [module for module in model.modules() if module.training], _attention(model)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        _set_attention(model, attention)
        try:
            yield
        finally:
            _set_attention(model, before)
            for module in modules:
                module.training = True
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what the replies' keys and values took, for batches of other shapes


def _attention(model: Any) -> str:
    return str(base_model(model).config._attn_implementation)


def _set_attention(model: Any, name: str) -> None:
    if _attention(model) != name:
        base_model(model).set_attn_implementation(name)
