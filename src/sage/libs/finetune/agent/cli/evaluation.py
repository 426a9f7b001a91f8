"""What `evaluate` measures, of one model or of two: turns of held-out rows, or capabilities; afresh, or from a file."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sage.libs.finetune.agent.cli.command import finite
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.types import EvalResult, Interval

if TYPE_CHECKING:
    from sage.libs.finetune.agent.capabilities.report import CapabilityReport

logger = logging.getLogger(__name__)

BUILTIN = ("tool_use", "planning", "reasoning", "instruction_following", "timing")
"""What is measured when nothing is named: the capabilities with a built-in test set."""
_ITEMS, _MAX_NEW_TOKENS = 64, 256
_GIVEN_IN_PYTHON = re.compile(r"\d+ (row|task)s?")
"""What a report calls a test set that has no name."""


class Settings(Protocol):
    """What measuring depends on; see `EvaluateConfig`."""

    model: str
    data: str | None
    against: str | None
    capabilities: str | None
    test_sets: str | None
    items: int | None
    eval_batch_size: int
    max_new_tokens: int | None
    max_seq_length: int
    concurrency: int
    tool_format: Any
    dtype: Any


@dataclass(frozen=True)
class Turns:
    """How a model replied to the turns of held-out rows.

    Attributes:
        result: Accuracy, loss and replies.
        model: Which model.
        data: Which rows.
    """

    result: EvalResult
    model: str
    data: str

    @property
    def to_compare(self) -> dict[str, list[dict[str, Any]]]:
        """The replies as `compare` reads them; what should have been said stands for the prompt."""
        return {
            "turns": [
                {
                    "id": f"row {record['row']}, message {record['turn']}",
                    "prompt": record["expected"],
                    "value": float(record["right"]),
                }
                for record in self.result.replies
            ]
        }

    def numbers(self) -> dict[str, Any]:
        """All of it but the replies; plain JSON types."""
        numbers = asdict(self.result)
        del numbers["replies"]
        return {**numbers, "loss": finite(self.result.loss), "model": self.model, "data": self.data}

    def to_dict(self) -> dict[str, Any]:
        """All of it, plain JSON types; `saved` reads it back."""
        return {**self.numbers(), "replies": self.result.replies}


@dataclass(frozen=True)
class Capabilities:
    """How a model did on the test sets of capabilities."""

    report: CapabilityReport

    @property
    def model(self) -> str:
        """Which model."""
        return self.report.model

    @property
    def to_compare(self) -> dict[str, list[dict[str, Any]]]:
        """The replies as `compare` reads them."""
        return {name: score.replies for name, score in self.report.scores.items()}

    def numbers(self) -> dict[str, Any]:
        """All of it but the replies; plain JSON types."""
        numbers = self.report.to_dict()
        for score in numbers["scores"].values():
            score["details"] = {name: value for name, value in score["details"].items() if name != "replies"}
        return numbers

    def to_dict(self) -> dict[str, Any]:
        """All of it, plain JSON types; `saved` reads it back."""
        return self.report.to_dict()


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and what was measured before.

    Attributes:
        names: MODEL, and the model that it is compared with, when there is one.
        found: What was measured of each before; None for those to be measured.
        data: Rows whose turns are asked for; None where capabilities are measured.
        sets: Where the items of each capability come from; empty where none is measured.
        max_new_tokens: Longest reply.
        notes: What was taken from an earlier report, and what of it could not be.
    """

    names: list[str]
    found: list[Turns | Capabilities | None]
    data: str | None
    sets: dict[str, str]
    max_new_tokens: int
    notes: list[str] = field(default_factory=list)


def planned(config: Settings) -> Plan:
    """What is to be measured, checked as far as that goes without a model's weights.

    Where one side was measured before and no test set is named, the other is measured on the same ones.

    Raises:
        ConfigError: when the two cannot be measured alike.
        AgentFinetuneError: when a file cannot be used, or the other model is not there.
    """
    names = [config.model] if config.against is None else [config.model, config.against]
    found = [saved(name) for name in names]
    kinds = {type(one) for one in found if one is not None}
    if config.data is not None:
        kinds.add(Turns)
    if len(kinds) > 1:
        raise ConfigError(
            f"{' and '.join(names)}: one side is of capabilities, the other of the turns of rows; measure both with "
            "DATA, or both without"
        )
    for given in (config.data, config.capabilities, config.test_sets):
        if None not in found and given is not None:
            raise ConfigError(f"{' and '.join(names)}: measured before, so '{given}' is not needed; leave it out")
    if kinds == {Turns} and config.data is None and None in found:
        raise ConfigError(f"{names[found.index(None)]}: the other side is of the turns of rows; give these as DATA too")
    if found == [None, None]:  # the other model's turn is late, when the first has cost its time
        _check_that_it_is_there(names[1], config)
    if kinds == {Turns}:
        return Plan(names, found, config.data, {}, config.max_new_tokens or 128)
    earlier = next((one for one in found if isinstance(one, Capabilities)), None)
    nothing_named = all(given is None for given in (config.capabilities, config.test_sets, config.items))
    if earlier is not None and None in found and nothing_named:
        return _as_before(config, names, found, earlier.report)
    sets = sets_to_measure(config) if None in found else {}
    return Plan(names, found, None, sets, config.max_new_tokens or _MAX_NEW_TOKENS)


def measure(
    config: Settings, plan: Plan, progress: Progress, unfinished: Callable[[Capabilities], None]
) -> Iterator[Turns | Capabilities]:
    """What each model of the plan is measured to be.

    Args:
        config: How to measure.
        plan: What to measure.
        progress: Told about long steps.
        unfinished: Given what there is of a model when measuring it ends early, before the reason is raised.

    Raises:
        AgentFinetuneError: when a model or a test set cannot be used.
    """
    for name, one in zip(plan.names, plan.found, strict=True):
        if one is not None:
            yield one
        elif plan.data is not None:
            yield _turns(config, plan, name, progress)
        else:
            yield _capabilities(config, plan, name, progress, unfinished)


def _as_before(
    config: Settings, names: list[str], found: list[Turns | Capabilities | None], report: CapabilityReport
) -> Plan:
    """As the earlier report was measured: its test sets, and its longest reply where none is given."""
    where = names[0] if found[0] is not None else names[1]
    sets: dict[str, str] = {}
    lost: dict[str, str] = {}
    for name, source in report.test_sets.items():
        if name not in report.scores:  # of a report that is not whole
            continue
        is_known = name in (*BUILTIN, "episodes") and _GIVEN_IN_PYTHON.fullmatch(str(source)) is None
        (sets if is_known else lost)[name] = source
    said = ", ".join(f"{name} ({source})" for name, source in lost.items())
    why = f"cannot be had again (rows given in Python, or a scorer of one's own): {said}"
    if not sets:
        raise ConfigError(f"{where}: {f'its test sets {why}' if lost else 'names no test sets'}; give --test-sets")
    longest = config.max_new_tokens or report.settings.get("max_new_tokens") or _MAX_NEW_TOKENS
    taken = ", ".join(f"{name}={source}" for name, source in sets.items())
    notes = [f"test sets are those of {where}: {taken}; replies of at most {longest} tokens"]
    if lost:
        logger.warning("%s: not measured, since it %s", where, why)
        notes.append(f"not measured, since it {why}")
    return Plan(names, found, None, sets, longest, notes)


def _check_that_it_is_there(name: str, config: Settings) -> None:
    """All that can be wrong with a model but its weights: address, folder or id, configuration, chat template.

    Raises:
        ConfigError: for an address without a model's name, or of a server that is asked for the turns of rows.
        ModelError: when a folder, its configuration or its tokenizer cannot be used.
    """
    if "://" in name:
        from sage.libs.finetune.agent.capabilities.repliers import replier_of

        _refuse_turns_of_a_server(name, config.data)
        replier_of(name)
    else:
        from sage.libs.finetune.agent.models.load import load_tokenizer

        load_tokenizer(name, tool_format=config.tool_format)


def saved(name: str) -> Turns | Capabilities | None:
    """What an earlier `evaluate -o` wrote into this file; None when the name is not that of a JSON file.

    Raises:
        DataError: when the file cannot be read, or holds something else.
    """
    if not name.endswith(".json") or "://" in name:
        return None
    from sage.libs.finetune.agent.jsonl import read_json

    record = read_json(name)
    if isinstance(record, Mapping) and "accuracy_interval" in record:
        return _saved_turns(record, name)
    from sage.libs.finetune.agent.capabilities.report import CapabilityReport

    return Capabilities(CapabilityReport.from_dict(record, name))


def sets_to_measure(config: Settings) -> dict[str, str]:
    """Where the items of each capability come from: those named in `test_sets`, and built-in ones for the others.

    Raises:
        ConfigError: for a part of `test_sets` that is not NAME=ITEMS, or a name that stands twice.
    """
    builtin = f"builtin:{config.items or _ITEMS}"
    names = [name.strip() for name in (config.capabilities or "").split(",") if name.strip()]
    if config.capabilities is None and config.test_sets is None:
        names = list(BUILTIN)
    sets = dict.fromkeys(names, builtin)
    given: set[str] = set()
    for part in re.split(r",(?=[a-z_]+=)", config.test_sets) if config.test_sets else ():
        name, equals, source = (text.strip() for text in part.partition("="))
        if not (name and equals and source):
            raise ConfigError(f"'test_sets': expected NAME=ITEMS, such as tool_use=items.jsonl; found '{part}'")
        if name in given:
            raise ConfigError(f"'test_sets': '{name}' stands twice; put its items into one file")
        given.add(name)
        sets[name] = builtin if source == "builtin" else source
    if not sets:
        raise ConfigError(f"'capabilities': expected names, such as {','.join(BUILTIN)}; found none")
    return sets


def _refuse_turns_of_a_server(name: str, data: str | None) -> None:
    if data is not None and "://" in name:
        raise ConfigError(f"{name}: turns of rows are asked of a model that is here; leave out DATA for an endpoint")


def _turns(config: Settings, plan: Plan, name: str, progress: Progress) -> Turns:
    _refuse_turns_of_a_server(name, plan.data)
    from sage.libs.finetune.agent.training.sft import AgentSFTTrainer

    assert plan.data is not None
    trainer = AgentSFTTrainer.from_pretrained(
        name,
        progress=progress,
        eval_batch_size=config.eval_batch_size,
        max_new_tokens=plan.max_new_tokens,
        max_seq_length=config.max_seq_length,
        tool_format=config.tool_format,
        dtype=config.dtype,
    )
    return Turns(trainer.evaluate(plan.data), name, plan.data)


def _capabilities(
    config: Settings, plan: Plan, name: str, progress: Progress, unfinished: Callable[[Capabilities], None]
) -> Capabilities:
    from sage.libs.finetune.agent.capabilities.evaluator import AgentCapabilityEvaluator

    evaluator = AgentCapabilityEvaluator(
        batch_size=config.eval_batch_size,
        max_new_tokens=plan.max_new_tokens,
        concurrency=config.concurrency,
        tool_format=config.tool_format,
        dtype=config.dtype,
        progress=progress,
    )
    try:
        return Capabilities(evaluator.evaluate(name, plan.sets))
    except BaseException:  # Ctrl-C too
        if evaluator.last is not None and evaluator.last.scores:
            unfinished(Capabilities(evaluator.last))
        raise


def _saved_turns(record: Mapping[str, Any], path: str) -> Turns:
    try:
        loss = math.nan if record["loss"] is None else float(record["loss"])
        fields = {name: record[name] for name in ("accuracy", "n", "rows", "calls_valid", "calls_attempted", "replies")}
        result = EvalResult(accuracy_interval=Interval(**record["accuracy_interval"]), loss=loss, **fields)
        turns = Turns(result, str(record["model"]), str(record["data"]))
        turns.to_compare  # noqa: B018 - a reply without its fields is found here
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected what `sage-finetune evaluate MODEL DATA -o` writes: {error!r}") from None
    return turns
