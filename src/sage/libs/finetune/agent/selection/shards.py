"""Losses and pooled hidden states of token rows, shard by shard: on this machine, or on a Ray cluster.

Rows that begin alike are computed together and what they share once (`models/prefix.py`). In sorted order neighbours
share most, so a batch is a stretch of the sorted rows, bounded by its rows and by the tokens that are computed for it:
a prefix that each batch computes anew costs little beside a full one, and larger batches leave the processor's caches.
Some batches make a shard, which is what comes back at once, is written to a cache, or travels to a worker.

Which rows share a batch is decided here whoever computes it, so that a cluster gives the numbers of one machine.

The features of a row are RDS+ (Ivison et al., 2025): the mean of the last hidden states with the weights
w_t = t / sum t over all tokens, prompt included, as unit vectors. They are taken from the forward pass that gives the
losses. A segment that several rows share is summed once, and a row adds up the segments it consists of.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sage.libs.finetune.agent.errors import AgentFinetuneError, ConfigError, ModelError
from sage.libs.finetune.agent.models.batches import BatchForm, on_device
from sage.libs.finetune.agent.models.exactness import base_model
from sage.libs.finetune.agent.models.kv_cache import common_prefix
from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.selection.score_cache import model_fingerprint
from sage.libs.finetune.agent.tokenization.render import IGNORED

SHARD_ROWS = 128
"""A shard has at most so many rows, or one batch: what a kill can cost, and what a worker is sent at once."""
RUNS_AGAIN = 3
"""Times a shard is computed again after its worker died."""
_BATCH_TOKENS = {"cpu": 4096}
_BATCH_TOKENS_ELSEWHERE = 16384
_PADDED_TOKENS = 2048  # padded batches hold the logits of all their columns
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0 while Ray is imported, it keeps a cluster started here to the loopback address; on Linux as well."""
_OBJECT_STORE = 200 * 2**20

Row = Mapping[str, Any]


class Facts(NamedTuple):
    """What must be known of a model before its batches are planned and its old scores looked up."""

    fingerprint: str
    packed: bool
    device: str


class Scored(NamedTuple):
    """A shard: the numbers of its rows, their losses [n] and, where asked for, features [n, width] float32."""

    numbers: list[int]
    losses: np.ndarray
    features: np.ndarray | None


class Scorer(Protocol):
    """Who computes: `ScorerHere` or `ScorerOnCluster`."""

    def facts(self) -> Facts:
        """Of the model it computes with."""
        ...

    def scored(self, rows: Sequence[Row], batch_size: int, features: bool) -> Iterator[Scored]:
        """All rows, shard by shard, in any order."""
        ...


class ScorerHere:
    """Computes with a model in this process.

    Args:
        model: A causal language model of transformers, or a PeftModel around one; in whatever mode it is.
        pad_id: Any valid token.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model, self._pad_id = model, pad_id

    def facts(self) -> Facts:
        """Of the model; the fingerprint takes a pass over its weights."""
        return Facts(model_fingerprint(self._model), *self._form_and_device())

    def scored(self, rows: Sequence[Row], batch_size: int, features: bool) -> Iterator[Scored]:
        """All rows, shard by shard."""
        for shard in plan_shards(rows, batch_size, *self._form_and_device()):
            batches = [[rows[number] for number in batch] for batch in shard]
            yield Scored(list(chain(*shard)), *score_batches(self._model, self._pad_id, batches, features))

    def _form_and_device(self) -> tuple[bool, str]:
        return BatchForm(self._model, self._pad_id).packed, self._model.device.type


def plan_shards(rows: Sequence[Row], batch_size: int, packed: bool, device: str) -> list[list[list[int]]]:
    """Which rows make a batch, and which batches a shard.

    Args:
        rows: Token rows.
        batch_size: Most rows of a batch.
        packed: Whether what rows share at their beginning is computed once; else they are padded to one length.
        device: `torch.device.type` of the one that will compute.

    Returns:
        Shards of batches of row numbers.

    Example:
        >>> rows = [{"input_ids": ids} for ids in ([5, 6, 7], [1, 2], [5, 6, 8])]
        >>> plan_shards(rows, batch_size=2, packed=True, device="cpu")
        [[[1, 0], [2]]]
    """
    most = _BATCH_TOKENS.get(device, _BATCH_TOKENS_ELSEWHERE) if packed else _PADDED_TOKENS
    ids = [row["input_ids"] for row in rows]
    order = sorted(range(len(rows)), key=ids.__getitem__ if packed else lambda number: len(ids[number]))
    batches: list[list[int]] = []
    tokens = 0
    for number in order:
        length = len(ids[number])
        if batches and len(batches[-1]) < batch_size:
            together = (
                tokens + length - common_prefix(ids[batches[-1][-1]], ids[number])
                if packed
                else length * (len(batches[-1]) + 1)
            )
            if together <= most:
                batches[-1].append(number)
                tokens = together
                continue
        batches.append([number])
        tokens = length
    shards: list[list[list[int]]] = []
    size = 0
    for batch in batches:
        if not shards or size + len(batch) > SHARD_ROWS:
            shards.append([])
            size = 0
        shards[-1].append(batch)
        size += len(batch)
    return shards


def score_batches(
    model: Any, pad_id: int, batches: Sequence[Sequence[Row]], features: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Losses, and features if asked for, of the rows of some batches, in their order.

    The model computes in evaluation mode and without gradients, and is left as it was.

    Returns:
        Mean weighted negative log-likelihood per supervised token [n], nats, nan for a row without such a token; and
        [n, width] float32 of unit rows, or None.
    """
    form = BatchForm(model, pad_id)
    form.share = form.packed  # nothing is dropped out in evaluation mode, so rows may share whatever the adapters' rate
    losses, pooled = [], []
    with torch.no_grad(), _evaluation_mode(model), form.attention(), _last_hidden_states(model) as hidden:
        for rows in batches:
            batch = on_device(form(rows), model.device)
            hidden.clear()
            losses.append(_means(supervised_nll(model, batch), batch, len(rows)))
            if features:
                [states] = hidden
                pool = _pooled_segments if form.packed else _pooled_rows
                pooled.append(functional.normalize(pool(states, batch, rows), dim=1).cpu().numpy())
    return np.concatenate(losses), np.concatenate(pooled) if features else None


def _means(nll: Tensor, batch: Mapping[str, Any], count: int) -> np.ndarray:
    """Mean of each row's tokens, summed in float64."""
    owners = batch["owners"] if "owners" in batch else (batch["labels"][:, 1:] != IGNORED).nonzero()[:, 0]
    places = owners.cpu().numpy()
    sums = np.bincount(places, weights=nll.cpu().numpy(), minlength=count)
    tokens = np.bincount(places, minlength=count)
    means: np.ndarray = np.divide(sums, tokens, out=np.full(count, np.nan), where=tokens > 0)
    return means


def _pooled_segments(states: Tensor, batch: Mapping[str, Any], rows: Sequence[Row]) -> Tensor:
    """Sum of t times the hidden state of token t, for each row of a packed batch: [rows, width] float32."""
    layout = batch["layout"]
    tokens = batch["input_ids"][0].tolist()
    sums: list[Tensor] = []
    paths: list[tuple[int, ...]] = []
    for segment, part in zip(layout.segments, torch.split(states[0], layout.lengths), strict=True):
        place = torch.arange(segment.position + 1, segment.position + 1 + len(part), device=part.device)
        sums.append(place.float() @ part.float())
        before = paths[segment.ancestors[-1]] if segment.ancestors else ()
        paths.append((*before, *tokens[segment.start : segment.stop]))
    last = {path: number for number, path in enumerate(paths)}  # the segment in which a row with these tokens ends
    ends = [last[tuple(row["input_ids"])] for row in rows]
    total = torch.stack(sums)
    return torch.stack([total[[*layout.segments[end].ancestors, end]].sum(dim=0) for end in ends])


def _pooled_rows(states: Tensor, batch: Mapping[str, Any], rows: Sequence[Row]) -> Tensor:
    """The same for a padded batch."""
    place = torch.arange(1, states.shape[1] + 1, device=states.device)
    return torch.einsum("t,rtw->rw", place.float(), states.float() * batch["attention_mask"][:, :, None])


@contextmanager
def _last_hidden_states(model: Any) -> Iterator[list[Tensor]]:
    """A list to which each forward pass adds what the decoder gives to the head: [batch, tokens, width]."""
    caught: list[Tensor] = []
    hook = base_model(model).base_model.register_forward_hook(
        lambda module, given, output: caught.append(output.last_hidden_state)
    )
    try:
        yield caught
    finally:
        hook.remove()


@contextmanager
def _evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class ScorerOnCluster:
    """Computes on the cluster at `RAY_ADDRESS`, else on one started here and stopped after (https://docs.ray.io).

    Workers load the model by its name, once each. A shard whose worker dies is computed again by another one. To be
    used in a `with` block.

    Args:
        name: Hub id, or a folder that all machines of the cluster have.
        dtype: As for `models.load.load_model`.
        pad_id: Any valid token.
        workers: Shards in flight; None for as many as the cluster has devices: GPUs if it has any, else CPUs.

    Raises:
        ConfigError: when Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, name: str, dtype: str, pad_id: int, workers: int | None = None) -> None:
        self._call = (name, dtype, pad_id)
        self._ray, self._started = _connect()
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self._workers = workers or gpus or max(1, int(resources.get("CPU", 1)))
        self._options = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_retries": RUNS_AGAIN}
        self._facts: Facts | None = None

    def facts(self) -> Facts:
        """Of the model as a worker has loaded it."""
        if self._facts is None:
            remote = self._ray.remote(**self._options)(_facts_there)
            self._facts = self._result(remote.remote(*self._call))
        return self._facts

    def scored(self, rows: Sequence[Row], batch_size: int, features: bool) -> Iterator[Scored]:
        """All rows, shard by shard as they come back.

        Raises:
            ModelError: when workers loaded different weights under the name, or died with the same shard each time.
        """
        facts = self.facts()
        remote = self._ray.remote(**self._options)(_scored_there)
        waiting = iter(plan_shards(rows, batch_size, facts.packed, facts.device))
        flying: dict[Any, list[int]] = {}
        try:
            while True:
                for shard in islice(waiting, self._workers - len(flying)):
                    batches = [[dict(rows[number]) for number in batch] for batch in shard]
                    flying[remote.remote(*self._call, batches, features)] = list(chain(*shard))
                if not flying:
                    return
                [done], _ = self._ray.wait(list(flying), num_returns=1)
                found, losses, pooled = self._result(done)
                if found != facts:
                    raise ModelError(
                        f"executor 'ray': workers loaded different models under the name {self._call[0]}; give a "
                        "folder that is the same on all machines"
                    )
                yield Scored(flying.pop(done), losses, pooled)
        finally:
            for reference in flying:
                self._ray.cancel(reference, force=True)

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, AgentFinetuneError):
                raise cause from None
            reason = " ".join(str(cause).split())
            raise ModelError(f"executor 'ray': a worker failed ({type(cause).__name__}: {reason:.300})") from error

    def __enter__(self) -> ScorerOnCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            self._ray.shutdown()


@functools.lru_cache(maxsize=1)
def _scorer_there(name: str, dtype: str, pad_id: int) -> tuple[Any, Facts]:
    """On a worker: the model, loaded for its first shard and kept for the next, and what is to be known of it."""
    model = load_model(name, dtype=dtype).model
    return model, ScorerHere(model, pad_id).facts()


def _facts_there(name: str, dtype: str, pad_id: int) -> Facts:
    return _scorer_there(name, dtype, pad_id)[1]


def _scored_there(
    name: str, dtype: str, pad_id: int, batches: Sequence[Sequence[Row]], features: bool
) -> tuple[Facts, np.ndarray, np.ndarray | None]:
    model, facts = _scorer_there(name, dtype, pad_id)
    return facts, *score_batches(model, pad_id, batches, features)


def _connect() -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether the connection was made here and is to be undone."""
    address = os.environ.get("RAY_ADDRESS")
    keep_local = address is None and "ray" not in sys.modules
    ray = _ray(keep_local)
    if ray.is_initialized():
        return ray, False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        try:
            ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"executor 'ray': no cluster at {address} ({reason:.200}); see RAY_ADDRESS") from None
        return ray, True
    ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
    if not ip_address(ray.util.get_node_ip_address()).is_loopback:
        ray.shutdown()
        raise ConfigError(
            "executor 'ray': Ray was imported before, so that a cluster started here would listen on the network; "
            "import it later, or start or join a cluster with ray.init() first"
        )
    return ray, True


def _ray(keep_local: bool) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = os.environ.get(_LOOPBACK)
    if keep_local:
        os.environ[_LOOPBACK] = "0"
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ConfigError("executor 'ray' needs Ray, which is not installed: pip install 'sage-libs[ray]'") from None
    finally:
        if keep_local and before is None:
            del os.environ[_LOOPBACK]
        elif keep_local and before is not None:
            os.environ[_LOOPBACK] = before
    return ray
