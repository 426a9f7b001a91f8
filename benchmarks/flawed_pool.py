"""A pool of desk rows with known flaws, to see what a selection picks from it, and clean rows of other databases.

The pool is imbalanced over families of tasks (about 8:4:2:1). `metadata.flaw` says what is wrong with a row:

- `near_duplicate` (20%): a clean row of the pool once more, its request worded a little differently;
- `corrupted` (10%): one call has a wrong value or names a wrong tool, and the conversation goes on as if it were right;
- `gibberish` (5%): the reply is random letters;
- `clean` (the rest).

Selection does not see the mark: the text of a sample is its messages, and its task is `metadata.task_type`.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.pipeline import collect_and_convert

Row = dict[str, Any]

FLAWS = ("clean", "near_duplicate", "corrupted", "gibberish")
SHARES = {"near_duplicate": 0.20, "corrupted": 0.10, "gibberish": 0.05}
FAMILIES = {"orders": 8, "calendar": 4, "files": 2, "units": 1}
_COPIED_SHARE = 0.25  # of the clean rows; the copies are of these, so that some come several times
_OPENINGS = ("", "Please: ", "Hello. ", "Hi, ", "One more thing. ", "Could you help? ", "Next: ", "Quick one: ")
_ENDINGS = ("", " Thanks.", " Thank you!", " Please.", " That is all.", " Be quick.", " It is urgent.", " Cheers.")


def flawed_pool(count: int, seed: int = 0) -> list[Row]:
    """`count` training rows in shuffled order, flaws in the shares above, no two rows alike.

    Raises:
        ConfigError: for fewer than 20 rows, or more than the desk has different requests for.
    """
    if count < 20:
        raise ConfigError(f"a flawed pool needs 20 rows or more, not {count}")
    rng = random.Random(f"flawed pool/{seed}")
    sizes = {flaw: round(share * count) for flaw, share in SHARES.items()}
    episodes = _episodes(count - sizes["near_duplicate"], rng, seed)
    with_calls = [row for row in episodes if _calls(row)]
    to_corrupt = {id(row) for row in rng.sample(with_calls, sizes["corrupted"])}
    others = [row for row in episodes if id(row) not in to_corrupt]
    to_garble = {id(row) for row in rng.sample(others, sizes["gibberish"])}
    clean = [row for row in others if id(row) not in to_garble]
    copied = rng.sample(clean, max(1, round(_COPIED_SHARE * len(clean))))
    requests = {_request(row)["content"] for row in episodes}
    pool = clean + _reworded(copied, sizes["near_duplicate"], requests, rng)
    pool += [_corrupt(row, rng) for row in episodes if id(row) in to_corrupt]
    pool += [_garble(row, rng) for row in episodes if id(row) in to_garble]
    rng.shuffle(pool)
    return pool


def held_out_rows(count: int, seed: int = 0) -> list[Row]:
    """`count` clean rows of databases that no row of the pool has, every kind of task equally often."""
    tasks = desk_tasks("test_iid", count, seed)
    return [_marked(row) for row in collect_and_convert(DeskExpert(), tasks, environment=DeskEnvironment)]


def flaw_counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many of the rows have which flaw, in the order of `FLAWS`.

    A copy counts as near-duplicate only where these rows hold its episode a second time.
    """
    marked = Counter(row["metadata"]["flaw"] for row in rows)
    repeated = len(rows) - len({row["metadata"]["task_id"] for row in rows})
    sound = marked["clean"] + marked["near_duplicate"] - repeated
    found = {**marked, "clean": sound, "near_duplicate": repeated}
    return {flaw: found.get(flaw, 0) for flaw in FLAWS}


def _episodes(count: int, rng: random.Random, seed: int) -> list[Row]:
    """Solved episodes, as many of each family as its weight says."""
    total = sum(FAMILIES.values())
    wanted = {family: round(weight / total * count) for family, weight in FAMILIES.items()}
    wanted["orders"] += count - sum(wanted.values())
    most = max(wanted[family] / _frequency(family) for family in FAMILIES)
    tasks = desk_tasks("train", min(11_200, round(1.3 * most) + 60), seed)
    rng.shuffle(tasks)
    left = Counter(wanted)
    chosen = []
    for task in tasks:
        family = task["metadata"]["family"]
        if left[family] > 0:
            left[family] -= 1
            chosen.append(task)
    if left.total() > 0:
        raise ConfigError(f"the desk has {left.total()} requests too few for the pool; ask for fewer rows")
    return [_marked(row) for row in collect_and_convert(DeskExpert(), chosen, environment=DeskEnvironment)]


def _frequency(family: str) -> float:
    """About how large a share of the desk's tasks the family has: 13 kinds with a family, two of any."""
    return {"orders": 4.5, "calendar": 3.5, "files": 3.5, "units": 3.5}[family] / 15


def _marked(row: Row, flaw: str = "clean") -> Row:
    """A copy whose metadata is the task and the flaw, and nothing that gives either away otherwise."""
    metadata = row["metadata"]
    marks = {
        "task_type": metadata.get("task_type") or metadata["family"],
        "kind": metadata["kind"],
        "task_id": metadata["task_id"],
        "flaw": flaw,
    }
    return {**copy.deepcopy({name: value for name, value in row.items() if name != "metadata"}), "metadata": marks}


def _request(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = next(message for message in row["messages"] if message["role"] == "user")
    return found


def _calls(row: Row) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each call with the message that answers it."""
    answers = {message["tool_call_id"]: message for message in row["messages"] if message["role"] == "tool"}
    calls = [call for message in row["messages"] for call in message.get("tool_calls") or []]
    return [(call["function"], answers[call["id"]]) for call in calls]


def _reworded(rows: Sequence[Row], count: int, taken: set[str], rng: random.Random) -> list[Row]:
    """`count` copies, each with a request nobody made so far; `taken` grows."""
    copies: list[Row] = []
    for _ in range(100 * count):
        if len(copies) == count:
            break
        row = _marked(rng.choice(rows), "near_duplicate")
        request = _request(row)
        request["content"] = f"{rng.choice(_OPENINGS)}{request['content']}{rng.choice(_ENDINGS)}"
        if request["content"] not in taken:
            taken.add(request["content"])
            copies.append(row)
    if len(copies) < count:
        raise ConfigError(f"only {len(copies)} of {count} copies could be worded differently; ask for fewer rows")
    return copies


def _corrupt(row: Row, rng: random.Random) -> Row:
    """One call with another value or another tool; what the tools answered stays."""
    row = _marked(row, "corrupted")
    call, answer = rng.choice(_calls(row))
    if rng.random() < 0.5:
        names = [tool["function"]["name"] for tool in row["tools"] if tool["function"]["name"] != call["name"]]
        call["name"] = answer["name"] = rng.choice(names)
    else:
        name = rng.choice(sorted(call["arguments"]))
        call["arguments"][name] = _other_value(call["arguments"][name], rng)
    return row


def _other_value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, int):
        return rng.choice([number for number in range(max(1, value // 2), 2 * value + 9) if number != value])
    known = ("Monday", "Thursday", "Ana", "Hugo", "docs", "legal", "lunch", "review", "feet", "minutes")
    return rng.choice([word for word in known if word != value])


def _garble(row: Row, rng: random.Random) -> Row:
    """The request, and a reply of random letters."""
    row = _marked(row, "gibberish")
    asked = row["messages"][: row["messages"].index(_request(row)) + 1]
    words = ["".join(rng.choices("bcdfghjklmnpqrstvwxyzaeiou", k=rng.randint(3, 8))) for _ in range(rng.randint(8, 24))]
    row["messages"] = [*asked, {"role": "assistant", "content": " ".join(words)}]
    return row
