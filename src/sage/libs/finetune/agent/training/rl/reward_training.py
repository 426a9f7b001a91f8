"""A reward model from pairs, on TRL's `RewardTrainer`: what was preferred shall score higher.

    loss = -log sigmoid(score(chosen) - score(rejected))        (Ouyang et al. 2022, arXiv:2203.02155)

The model is a language model without its head, and one linear map, which begins at random, on the state of the
conversation's last token. All its weights are trained, in float32. It reads a conversation by the tokens by which
`RewardModel` reads one when it scores. A pair is the whole conversation on both sides; the model judges what the
environment said along with what the agent did, so nothing is masked.

What comes out is an ordinary model folder, for `RLTrainingConfig.reward_model`. There are no checkpoints: a run that is
killed is begun again.
"""

from __future__ import annotations

import copy
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import ConfigError, DataError, TrainingError
from sage.libs.finetune.agent.models.load import load_model, pick_device
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.training.rl.pair_trainer import at_once
from sage.libs.finetune.agent.training.rl.pairs import SIDES, conversation_of
from sage.libs.finetune.agent.training.rl.reward_model import RewardModel, conversation_ids

REPORT = "reward_model.json"
_LEAST_HELD_OUT = 5
"""With fewer pairs held out a share of them says nothing, and all are trained on."""


@dataclass
class RewardModelReport:
    """What came of training a reward model.

    Attributes:
        pairs: Trained on.
        too_long: Left out, since a side is longer than `max_seq_length`.
        held_out: Not trained on.
        accuracy: Share of the held-out pairs in which the chosen side scores higher; None when none were held out.
        losses: Of each optimiser step.
    """

    pairs: int
    too_long: int
    held_out: int
    accuracy: float | None
    losses: list[float]


def train_reward_model(
    pairs: str | Path | Sequence[Mapping[str, Any]],
    base_model: str,
    output_dir: str | Path,
    *,
    num_epochs: int = 1,
    learning_rate: float = 1e-5,
    batch_size: int = 8,
    max_seq_length: int = 2048,
    held_out: float = 0.1,
    tool_format: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> RewardModelReport:
    """Train a reward model on pairs and save it, with `reward_model.json` (the report) beside it.

    Args:
        pairs: File of pairs (`sage-finetune preferences`), or rows with `prompt`, `chosen`, `rejected` and `tools`.
        base_model: A language model to begin with: run folder, adapter (merged into its base), model folder or id.
        output_dir: The model folder; must not be there yet, or be empty.
        num_epochs: Passes over the pairs.
        learning_rate: Peak; it falls to 0 in a line.
        batch_size: Pairs in an optimiser step.
        max_seq_length: Pairs with a longer side are left out.
        held_out: Share of the pairs to measure on. Of several pairs of one task some may be trained on.
        tool_format: How our chat template shows tools; see `prepare_template`.
        seed: Of the new map, the order of pairs, and which are held out.
        progress: Told of steps under the label "train".

    Raises:
        ConfigError: when the folder is in use.
        DataError: when the file holds something else than pairs, or none that fits.
        ModelError: when the model cannot be loaded.
        TrainingError: when the loss is no number.

    Example:
        >>> train_reward_model("pairs.jsonl", "runs/first", "runs/reward").accuracy  # doctest: +SKIP
        0.87
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ConfigError(f"{output_dir} is in use; give a new folder")
    where = str(pairs) if isinstance(pairs, str | Path) else "pairs"
    rows = [row for _, row in jsonl.read_jsonl(pairs)] if isinstance(pairs, str | Path) else pairs
    if not rows:
        raise DataError(f"{where}: there is no pair; make some with `sage-finetune preferences`")
    loaded = load_model(base_model, dtype="float32", tool_format=tool_format)
    tokens = [_tokens(row, loaded.tokenizer, f"{where}:{number}") for number, row in enumerate(rows, start=1)]
    fitting = [sides for sides in tokens if max(map(len, sides)) <= max_seq_length]
    if not fitting:
        raise DataError(f"{where}: none of {len(tokens)} pairs fits max_seq_length ({max_seq_length}); raise it")
    random.Random(f"reward model {seed}").shuffle(fitting)
    kept_back = int(len(fitting) * held_out)
    kept_back = kept_back if kept_back >= _LEAST_HELD_OUT else 0
    measured, trained = fitting[:kept_back], fitting[kept_back:]
    model = scorer_from(loaded.model, seed)
    losses = _train(model, loaded.tokenizer, trained, num_epochs, learning_rate, batch_size, seed, progress)
    accuracy = _accuracy(RewardModel(model, loaded.tokenizer), measured) if measured else None
    report = RewardModelReport(len(trained), len(tokens) - len(fitting), len(measured), accuracy, losses)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as aside:
        draft = Path(aside) / "new"
        model.save_pretrained(draft)
        loaded.tokenizer.save_pretrained(draft)
        jsonl.write_json(draft / REPORT, asdict(report))
        draft.rename(output_dir)
    return report


def scorer_from(language_model: Any, seed: int) -> Any:
    """A sequence-classification model with one output around the trunk of a language model, in float32.

    Args:
        language_model: Of transformers, or a PeftModel, whose adapter is merged into it.
        seed: Of the new map.
    """
    if hasattr(language_model, "peft_config"):
        language_model = language_model.merge_and_unload()
    config = copy.deepcopy(language_model.config)
    config.num_labels = 1
    set_seed(seed)
    scorer: Any = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False).float()  # type: ignore[no-untyped-call]
    trunk = getattr(scorer, scorer.base_model_prefix)
    trunk.load_state_dict(getattr(language_model, language_model.base_model_prefix).state_dict())
    return scorer.to(language_model.device)


class _Trainer(RewardTrainer):
    def _send_telemetry(self) -> None:
        """Nothing goes out."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nobody would read it: the folder it goes to is a draft."""


class _Steps(TrainerCallback):
    """Tells progress, and keeps the losses; one that is no number ends the training."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.losses: list[float] = []

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One line a step."""
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise TrainingError(f"step {state.global_step}: the loss is {logs['loss']}; lower learning_rate")
        self.losses.append(logs["loss"])
        self._progress("train", state.global_step, state.max_steps, f"loss {logs['loss']:.3f}")


def _train(
    model: Any, tokenizer: Any, pairs: Sequence[Sequence[list[int]]], num_epochs: int, learning_rate: float,
    batch_size: int, seed: int, progress: Progress,
) -> list[float]:  # fmt: skip
    micro = at_once(max(len(side) for sides in pairs for side in sides), batch_size)
    steps = _Steps(progress)
    with tempfile.TemporaryDirectory() as nowhere:
        arguments = RewardConfig(
            output_dir=nowhere, max_length=None, per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch_size // micro, num_train_epochs=num_epochs, learning_rate=learning_rate,
            lr_scheduler_type="linear", weight_decay=0.0, activation_checkpointing=False, bf16=False, logging_steps=1,
            logging_nan_inf_filter=False, save_strategy="no", seed=seed, report_to="none", disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(), use_cpu=pick_device().type == "cpu",
        )  # fmt: skip
        arguments._n_gpu = min(arguments.n_gpu, 1)
        columns = {f"{side}_ids": [sides[at] for sides in pairs] for at, side in enumerate(SIDES)}
        trainer = _Trainer(
            model=model, args=arguments, processing_class=tokenizer, train_dataset=Dataset.from_dict(columns),
            callbacks=[steps],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # it prints on stdout, which is for results
        trainer.train()
    return steps.losses


def _tokens(row: Mapping[str, Any], tokenizer: Any, place: str) -> list[list[int]]:
    """Of the chosen and of the rejected conversation."""
    found = []
    for side in SIDES:
        sample = conversation_of(row, side, place)
        try:
            found.append(conversation_ids(sample["messages"], sample["tools"], tokenizer))
        except DataError as error:
            raise DataError(f"{place}, {side}: {error}") from None
    return found


def _accuracy(model: RewardModel, pairs: Sequence[Sequence[list[int]]]) -> float:
    chosen, rejected = (model.score_tokens([sides[at] for sides in pairs]) for at in (0, 1))
    return sum(one > other for one, other in zip(chosen, rejected, strict=True)) / len(pairs)
