"""Scores of samples on disk, so that none is computed twice: not after a kill, not for another selection.

A score depends on three things, and on nothing else that is looked up here:

- the token row (ids, labels, weights), which holds what tokenizer, template and truncation made of the sample;
- the weights of the model, adapters included, and what else it computes with (`model_fingerprint`), not its path;
- what was computed: losses alone, or pooled hidden states with them.

Each model has a file of its own, one JSON line a block of rows. A block is on disk before the next one is computed;
what a kill left of a half-written one is dropped with a warning, and so is any other line that cannot be read. Those
rows are then computed again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.models.exactness import base_model

logger = logging.getLogger(__name__)

_NOT_COMPUTED_WITH = {
    "_name_or_path", "transformers_version", "use_cache", "base_model_name_or_path", "revision", "inference_mode",
    "architectures", "auto_mapping",
}  # fmt: skip
"""Fields of a configuration that say where a model is from, or that no forward pass depends on."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 4096


class RowScore(NamedTuple):
    """The loss of a row, and its pooled hidden states (float32, None where only the loss was computed)."""

    loss: float
    features: np.ndarray | None


class ScoreCache:
    """The scores that one model gave, in a folder.

    Args:
        folder: Made when it is not there; caches of other models may lie in it.
        fingerprint: The model's, see `model_fingerprint`.

    Raises:
        DataError: when the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with ScoreCache(folder, "model 1") as cache:
        ...     cache.append(["row 1"], np.array([2.5]), None)
        >>> with ScoreCache(folder, "model 1") as cache:
        ...     cache.find(["row 1", "row 2"], features=False)
        {'row 1': RowScore(loss=2.5, features=None)}
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        name = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
        self._blocks = jsonl.JsonlAppender(Path(folder) / f"scores-{name}.jsonl")

    def find(self, keys: Collection[str], features: bool) -> dict[str, RowScore]:
        """The scores that are there of the rows with these keys; with `features` only those that have them."""
        wanted = set(keys)
        found: dict[str, RowScore] = {}
        path = self._blocks.path
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    block_keys, losses, pooled = _read(line)
                except (ValueError, LookupError, TypeError) as error:
                    logger.warning("%s:%d: dropped a damaged block of scores (%s)", path, number, error)
                    continue
                for place, key in enumerate(block_keys):
                    if key in wanted and (pooled is not None or not features):
                        found[key] = RowScore(losses[place], None if pooled is None else pooled[place])
        return found

    def append(self, keys: Sequence[str], losses: np.ndarray, features: np.ndarray | None) -> None:
        """Add a block of rows; it is on disk when this returns.

        Args:
            keys: The rows', see `row_key`.
            losses: [n] finite.
            features: [n, width] float32, or None.
        """
        block: dict[str, Any] = {"rows": list(keys), "losses": losses.tolist()}
        if features is not None:
            data = np.ascontiguousarray(features, dtype="<f4").tobytes()
            block["features"] = base64.b64encode(data).decode("ascii")
        self._blocks.append(block)

    def close(self) -> None:
        """Close the file."""
        self._blocks.close()

    def __enter__(self) -> ScoreCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(line: bytes) -> tuple[list[str], list[float], np.ndarray | None]:
    block = jsonl.decode(line)
    keys, losses = block["rows"], [float(loss) for loss in block["losses"]]
    if len(keys) != len(losses):
        raise ValueError(f"{len(keys)} rows, {len(losses)} losses")
    if "features" not in block:
        return keys, losses, None
    data = base64.b64decode(block["features"], validate=True)
    return keys, losses, np.frombuffer(data, dtype="<f4").reshape(len(keys), -1)


def row_key(row: Mapping[str, Any]) -> str:
    """SHA-256 of a token row: its ids, labels and weights.

    Example:
        >>> row = {"input_ids": [5, 6], "labels": [-100, 6]}
        >>> row_key(row) == row_key({**row, "weights": None}) != row_key({**row, "weights": [0.0, 0.5]})
        True
    """
    digest = hashlib.sha256()
    for name, kind in (("input_ids", "<i8"), ("labels", "<i8"), ("weights", "<f8")):
        values = row.get(name)
        digest.update(b"-" if values is None else np.asarray(values, dtype=kind).tobytes())
    return digest.hexdigest()


@torch.no_grad()
def model_fingerprint(model: Any) -> str:
    """What tells one model from another that computes something else: weights, configuration and adapters.

    Each tensor counts with its name, shape, type and the sums of its bits in stretches of 4096, which take one pass
    over the weights; where the model was loaded from does not count.

    Args:
        model: A causal language model of transformers, or a PeftModel around one.

    Returns:
        A SHA-256 in hex.
    """
    digest = hashlib.sha256()
    settings: list[Any] = [base_model(model).config.to_dict()]
    if hasattr(model, "peft_config"):
        from peft.tuners.tuners_utils import BaseTunerLayer

        disabled = any(isinstance(module, BaseTunerLayer) and module.disable_adapters for module in model.modules())
        adapters = {name: adapter.to_dict() for name, adapter in model.peft_config.items()}
        settings += [disabled, model.active_adapters, adapters]
    digest.update(json.dumps(_computed_with(settings), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if torch.is_tensor(tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(_bit_sums(tensor).cpu().numpy().tobytes())
    return digest.hexdigest()


def _computed_with(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _computed_with(item) for name, item in value.items() if name not in _NOT_COMPUTED_WITH}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return [_computed_with(item) for item in value] if isinstance(value, list | tuple) else value


def _bit_sums(tensor: torch.Tensor) -> torch.Tensor:
    """Exact whatever the order of summation, and different when one element is."""
    bits = tensor.detach().contiguous().flatten().view(_INTEGERS[tensor.element_size()])
    whole = len(bits) // _CHUNK * _CHUNK
    stretches = bits[:whole].view(-1, _CHUNK)
    sums = [stretches.sum(dim=side, dtype=torch.int64) for side in (0, 1)]  # across as well: two may change places
    return torch.cat([*sums, bits[whole:].to(torch.int64)])
