"""Our strict mode against the published checker of BFCL: every gold answer and seeded mutations of each.

Needs `bfcl-eval` installed with `--no-deps`, or its wheel or folder named in SAGE_BFCL.
"""

import collections
import copy
import json
import os
import random
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

from sage.libs.finetune.agent import ScoringError
from sage.libs.finetune.agent.capabilities.bfcl import CATEGORIES, PLACE, bfcl_items
from sage.libs.finetune.agent.evaluation.scorers.tool_gold import gold_reply
from sage.libs.finetune.agent.evaluation.scorers.tool_use import score_tool_use

if find_spec("bfcl_eval") is None and not os.environ.get(PLACE):
    pytest.skip(f"pip install --no-deps bfcl-eval, or set {PLACE}", allow_module_level=True)

WITH_GOLD = [name for name in CATEGORIES if "relevance" not in name]
SEEDS = int(os.environ.get("BFCL_PARITY_SEEDS", "1"))


@pytest.fixture(scope="module")
def published():
    """`ast_checker` as `(item, category, calls) -> valid`, with its table of models stubbed: all it takes from there is
    whether dots in names were replaced."""
    patch = pytest.MonkeyPatch()
    if place := os.environ.get(PLACE):
        patch.syspath_prepend(Path(place).expanduser().resolve())
    stub = types.ModuleType("bfcl_eval.constants.model_config")
    stub.MODEL_CONFIG_MAPPING = collections.defaultdict(lambda: types.SimpleNamespace(underscore_to_dot=False))
    patch.setitem(sys.modules, stub.__name__, stub)
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def valid(item, category, calls):
        truth = [{call["name"]: call["arguments"]} for call in item["gold"]["calls"]]
        output = [{name: copy.deepcopy(arguments)} for name, arguments in calls]
        return ast_checker(item["gold"]["functions"], output, truth, Language.PYTHON, category, "none")["valid"]

    yield valid
    patch.undo()
    for name in [name for name in sys.modules if name.split(".")[0] == "bfcl_eval"]:
        del sys.modules[name]


def first_values(item):
    """Each right call with the first value that is allowed for each argument, optional ones with a value included."""
    return [
        (call["name"], {name: _first(allowed) for name, allowed in call["arguments"].items()})
        for call in copy.deepcopy(item["gold"]["calls"])
    ]


def _first(allowed):
    option = next((option for option in allowed if option != ""), "")
    return _single(option)


def _single(option):
    if isinstance(option, dict) and all(isinstance(values, list) for values in option.values()):
        return {key: _first(values) for key, values in option.items()}
    return [_single(part) for part in option] if isinstance(option, list) else option


def read_back(reply):
    calls = [json.loads(line) for line in reply.splitlines()]
    return [(call["name"], call["arguments"]) for call in calls]


def flipped(value, rng):
    """The value in another type, where it means the same as far as that goes."""
    if isinstance(value, bool):
        return rng.choice([int(value), str(value), None])
    if isinstance(value, int):
        return rng.choice([str(value), float(value), [value], bool(value), None])
    if isinstance(value, float):
        return rng.choice([int(value), str(value), [value], None])
    if isinstance(value, str):
        return rng.choice([[value], {"value": value}, None, 1, ""])
    if isinstance(value, list):
        as_keys = {str(number): part for number, part in enumerate(value)}
        return rng.choice([tuple(value), str(value), as_keys, [str(part) for part in value]])
    if isinstance(value, dict):
        return rng.choice([[value], str(value), list(value)])
    return rng.choice(["None", 0, False])


def wrong(value, rng):
    """Another value of the same type, sometimes one that the rules take for the same."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + rng.choice([1, -1, 0])
    if isinstance(value, str):
        return rng.choice([value + "x", value.upper(), f" {value}.", value.replace("'", '"'), value[1:], ""])
    if isinstance(value, list) and value:
        place = rng.randrange(len(value))
        return rng.choice([value[::-1], value[1:], [*value, value[0]], [], replaced(value, place, rng)])
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        without = {name: part for name, part in value.items() if name != key}
        return rng.choice([without, {**value, key: wrong(value[key], rng)}, {**value, "another": 1}])
    return rng.choice([[1], {"a": 1}, "x"])


def replaced(value, place, rng):
    return [*value[:place], rng.choice([wrong, flipped])(value[place], rng), *value[place + 1 :]]


def drop(calls, rng):
    name, arguments = rng.choice(calls)
    if not arguments or rng.random() < 0.1:
        calls.remove((name, arguments))
    else:
        del arguments[rng.choice(list(arguments))]


def rename(calls, rng):
    place = rng.randrange(len(calls))
    name, arguments = calls[place]
    if arguments and rng.random() < 0.5:
        arguments[rng.choice(["other", "Value"])] = arguments.pop(rng.choice(list(arguments)))
    else:
        calls[place] = (rng.choice([name.upper(), name.replace(".", "_") + "_", name + "x"]), arguments)


def flip(calls, rng):
    change(calls, rng, flipped)


def wrong_value(calls, rng):
    change(calls, rng, wrong)


def change(calls, rng, how):
    _, arguments = rng.choice(calls)
    if arguments:
        name = rng.choice(list(arguments))
        arguments[name] = how(arguments[name], rng)


def extra(calls, rng):
    if rng.random() < 0.3:
        calls.insert(rng.randrange(len(calls) + 1), copy.deepcopy(rng.choice(calls)))
    else:
        rng.choice(calls)[1]["additional"] = rng.choice([1, "x", None])
    rng.shuffle(calls)


NOTHING_IS_RIGHT = {
    "live_simple_106-63-0", "live_simple_112-68-0", "live_multiple_862-181-3", "live_multiple_964-207-0"
}  # fmt: skip
"""Rows of the published data where nothing that is allowed fits the types or what is required."""
MUTATIONS = (drop, rename, flip, extra, wrong_value)


def written(calls):
    """The calls as a reply: JSON, or Python where only that can say them (tuples)."""
    if all(value == json.loads(json.dumps(value)) for _, value in calls):
        return "\n".join(json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls) or "None."
    return f"[{', '.join(f'{n}({_python_arguments(a)})' for n, a in calls)}]"


def _python_arguments(arguments):
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


@pytest.mark.parametrize("category", WITH_GOLD)
def test_strict_mode_agrees_with_the_published_checker(category, published, capsys):
    counts = collections.Counter()
    apart = []
    for item in bfcl_items(category):
        answers = [("gold", first_values(item))]
        if item["id"] not in NOTHING_IS_RIGHT:
            answers.append(("shortest gold", read_back(gold_reply(item))))
        for seed in range(SEEDS):
            for mutation in MUTATIONS:
                rng = random.Random(f"{item['id']} {mutation.__name__} {seed}")
                calls = first_values(item)
                mutation(calls, rng)
                answers.append((mutation.__name__, calls))
        for kind, calls in answers:
            score = score_tool_use(written(calls), item, strict=True)
            assert score.details["parsed"], (item["id"], kind, score.reason)
            try:
                theirs = published(item, category, calls)
            except Exception as error:
                counts[f"{kind}: theirs raises {type(error).__name__}, ours {score.value}"] += 1
                continue
            counts[f"{kind}: {'right' if theirs else 'wrong'}"] += 1
            if score.value != float(theirs):
                apart.append((item["id"], kind, calls, theirs, score.reason))
    with capsys.disabled():
        print(f"\n{category}: {sum(counts.values())} answers, {len(apart)} apart; {dict(sorted(counts.items()))}")
    assert not apart


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_gold_reply_is_right_and_a_spoilt_one_is_not(category, published):
    for item in bfcl_items(category):
        if item["id"] in NOTHING_IS_RIGHT:
            with pytest.raises(ScoringError, match="no call can be right"):
                gold_reply(item)
            continue
        reply = gold_reply(item)
        assert score_tool_use(reply, item).value == 1
        if category in WITH_GOLD:
            calls = read_back(reply)
            assert published(item, category, calls)
            spoilt = [[(f"{name}x", arguments) for name, arguments in calls], calls[1:], [*calls, calls[0]]]
            spoilt.append([(name, {**arguments, "additional": 1}) for name, arguments in calls])
            for answer in spoilt:
                score = score_tool_use(written(answer), item)
                assert score.value == 0 and score.details["faults"], answer
