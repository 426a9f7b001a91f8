"""Reward models: sequence classification with one output, read off the whole conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sage.libs.finetune.agent.chatml import shown_tools, to_messages
from sage.libs.finetune.agent.errors import DataError, ModelError
from sage.libs.finetune.agent.models.load import pick_device, pick_dtype, resolve_model
from sage.libs.finetune.agent.tokenization.layout import layout
from sage.libs.finetune.agent.tokenization.template import prepare_template
from sage.libs.finetune.agent.types import AgentTrajectory, Message, ToolSpec

_AT_ONCE = 16


class RewardModel:
    """Scores trajectories: reads the conversation by its own tokenizer and template, and gives a number.

    A tokenizer whose template cannot show tools gets ours, as a model to be trained does.

    Args:
        model: A sequence-classification model of transformers with one output.
        tokenizer: Its tokenizer, with a chat template that shows tools.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        self.model, self.tokenizer = model.eval(), tokenizer

    @classmethod
    def from_pretrained(cls, name: str) -> RewardModel:
        """Load one by folder or hub id.

        Raises:
            ModelError: when it cannot be loaded, or is no reward model.
        """
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        try:
            location = resolve_model(name)
        except ModelError:
            raise ModelError(
                f"reward model {name}: there is no such folder; give the folder or hub id of a sequence-classification "
                "model"
            ) from None
        try:
            config = AutoConfig.from_pretrained(location, trust_remote_code=False)
            kinds = config.architectures or []
            if not any("SequenceClassification" in kind for kind in kinds):
                raise ModelError(
                    f"reward model {name}: expected a sequence-classification model, found "
                    f"{', '.join(kinds) or 'none'}; train one with `sage-finetune reward-model`"
                )
            if config.num_labels != 1:
                raise ModelError(f"reward model {name}: expected one output, found {config.num_labels}")
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                location, dtype=pick_dtype(), trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"reward model {name}: {str(error).splitlines()[0]}") from None
        prepare_template(tokenizer, small_model=False)
        return cls(model.to(pick_device()), tokenizer)

    def score(self, trajectories: Sequence[AgentTrajectory]) -> list[float]:
        """The model's output for each.

        Raises:
            DataError: naming the task whose conversation cannot be rendered or is longer than the model reads.
        """
        return self.score_tokens([self._tokens(trajectory) for trajectory in trajectories])

    @torch.inference_mode()
    def score_tokens(self, rows: Sequence[list[int]]) -> list[float]:
        """The model's output for each conversation, given as the token ids of `conversation_ids`."""
        order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
        scores = [0.0] * len(rows)
        for start in range(0, len(order), _AT_ONCE):
            numbers = order[start : start + _AT_ONCE]
            batch = self.tokenizer.pad({"input_ids": [rows[at] for at in numbers]}, return_tensors="pt")
            logits = self.model(**batch.to(self.model.device)).logits.float()
            for at, score in zip(numbers, logits[:, 0].tolist(), strict=True):
                scores[at] = score
        return scores

    def _tokens(self, trajectory: AgentTrajectory) -> list[int]:
        tools = shown_tools(trajectory.tools, trajectory.metadata)
        try:
            ids = conversation_ids(to_messages(trajectory), tools, self.tokenizer)
        except DataError as error:
            raise DataError(f"task '{trajectory.task_id}': {error}") from None
        longest = getattr(self.model.config, "max_position_embeddings", len(ids))
        if len(ids) > longest:
            raise DataError(f"task '{trajectory.task_id}': {len(ids)} tokens, and the reward model reads {longest}")
        return ids


def conversation_ids(messages: Sequence[Message], tools: Sequence[ToolSpec], tokenizer: Any) -> list[int]:
    """The tokens by which a reward model reads a whole conversation.

    Raises:
        DataError: A message cannot be rendered; the error names its index.
    """
    text, _ = layout(messages, tools, tokenizer)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
