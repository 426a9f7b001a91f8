"""The kinds of reasoning problems: each draws one problem with its answer and the steps of a worked solution.

All figures that come up on the way differ from each other and from those of the question: a step left out or moved can
be told by a figure that nothing accounts for, and no problem is solved by repeating one of its own figures. A draw that
does not come out so gives None, and the caller draws again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

_NAMES = (
    "Ada Ben Cora Dan Elif Finn Gita Hugo Ines Jon Kira Leo Mona Nils Olga Paul Rosa Sven Tara Umar Vera Will".split()
)
_THINGS = "shells stamps marbles apples books tickets cards candles pens coins bricks lamps".split()


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        question: The text of it, without choices and without how to answer.
        answer: The number, the name, or the label of the right choice.
        answer_kind: number, text or choice.
        steps: A worked solution, one step a line, without the answer.
        about: What makes it this problem and no other; plain JSON. Problems of the same `about` are the same.
        choices: Label -> words, empty unless it is a choice.
    """

    question: str
    answer: int | str
    answer_kind: str
    steps: tuple[str, ...]
    about: list[int | str]
    choices: dict[str, str] = field(default_factory=dict)


Draw = Callable[[Random], Problem | None]


def _distinct(*figures: int) -> bool:
    return len(set(figures)) == len(figures) and min(figures) > 1


def running_total(rng: Random) -> Problem | None:
    """Something is gained, lost and gained again in packs."""
    name, friend = rng.sample(_NAMES, 2)
    thing = rng.choice(_THINGS)
    start, found, given = rng.randint(20, 90), rng.randint(10, 60), rng.randint(5, 40)
    packs, each = rng.randint(3, 9), rng.randint(3, 12)
    more, less, bought = start + found, start + found - given, packs * each
    total = less + bought
    if not _distinct(start, found, given, packs, each, more, less, bought, total):
        return None
    question = rng.choice(
        [
            f"{name} has {start} {thing}. {name} finds {found} more, gives {given} to {friend} and then buys {packs} "
            f"packs of {each}. How many {thing} does {name} have now?",
            f"A shelf holds {start} {thing}. {name} adds {found}, {friend} takes {given} away, and later {packs} boxes "
            f"with {each} {thing} each are put there. How many {thing} are on the shelf in the end?",
        ]
    )
    steps = rng.choice(
        [
            (
                f"First there are {start} + {found} = {more} {thing}.",
                f"After {given} are gone, {more} - {given} = {less} are left.",
                f"The new ones are {packs} × {each} = {bought}.",
                f"Together that makes {less} + {bought} = {total}.",
            ),
            (
                f"{start} and {found} more: {start} + {found} = {more}.",
                f"Taking {given} away leaves {more} - {given} = {less} {thing}.",
                f"{packs} times {each} is {bought}.",
                f"So in the end: {less} + {bought} = {total}.",
            ),
        ]
    )
    return Problem(question, total, "number", steps, [start, found, given, packs, each])


def shopping(rng: Random) -> Problem | None:
    """Two purchases are paid with a note."""
    name = rng.choice(_NAMES)
    first, second = rng.sample(_THINGS, 2)
    count, price, other_count, other_price = (rng.randint(low, 12) for low in (2, 2, 2, 2))
    cost, other_cost = count * price, other_count * other_price
    bill = cost + other_cost
    paid = next(note for note in (20, 50, 100, 200, 500) if note > bill)
    change = paid - bill
    if not _distinct(count, price, other_count, other_price, cost, other_cost, bill, paid, change):
        return None
    question = rng.choice(
        [
            f"{name} buys {count} {first} at ${price} each and {other_count} {second} at ${other_price} each, and pays "
            f"with ${paid}. How many dollars does {name} get back?",
            f"At a market one of the {first} costs ${price} and one of the {second} costs ${other_price}. {name} takes "
            f"{count} {first} and {other_count} {second} and hands over ${paid}. What is the change in dollars?",
        ]
    )
    steps = (
        f"The {first} cost {count} × ${price} = ${cost}.",
        f"The {second} cost {other_count} × ${other_price} = ${other_cost}.",
        f"The bill is ${cost} + ${other_cost} = ${bill}.",
        f"{name} gets ${paid} - ${bill} = ${change} back.",
    )
    return Problem(question, change, "number", steps, [count, price, other_count, other_price])


def sharing(rng: Random) -> Problem | None:
    """Boxes are unpacked, some of it is broken, the rest is shared."""
    name = rng.choice(_NAMES)
    thing = rng.choice(_THINGS)
    boxes, each, people = rng.randint(4, 15), rng.randint(6, 25), rng.randint(3, 9)
    whole, broken = boxes * each, rng.randint(2, 30)
    left = whole - broken
    if left % people:
        return None
    share = left // people
    if not _distinct(boxes, each, people, whole, broken, left, share):
        return None
    question = (
        f"{name} unpacks {boxes} boxes of {each} {thing}. {broken} of the {thing} are broken; the rest is shared "
        f"equally by {people} people. How many {thing} does each of them get?"
    )
    steps = (
        f"The boxes hold {boxes} × {each} = {whole} {thing}.",
        f"Without the broken ones {whole} - {broken} = {left} remain.",
        f"Each person gets {left} / {people} = {share}.",
    )
    return Problem(question, share, "number", steps, [boxes, each, people, broken])


def discount(rng: Random) -> Problem | None:
    """A price goes down by some per cent, and several are bought."""
    name = rng.choice(_NAMES)
    price, percent, count = rng.randint(4, 60) * 5, rng.choice((10, 20, 30, 40, 60)), rng.randint(3, 9)
    if price * percent % 100:
        return None
    off = price * percent // 100
    reduced = price - off
    total = count * reduced
    if not _distinct(price, percent, count, off, reduced, total, 100 - percent, 100 + percent, 100):
        return None
    question = (
        f"A lamp costs ${price}. Today it is {percent}% cheaper. {name} buys {count} of these lamps. How many dollars "
        f"does {name} pay in all?"
    )
    steps = (
        f"The discount is {percent}% of {price} = {off} dollars.",
        f"One lamp now costs {price} - {off} = {reduced} dollars.",
        f"For {count} lamps {name} pays {count} × {reduced} = {total} dollars.",
    )
    return Problem(question, total, "number", steps, [price, percent, count])


_CITIES = "Oslo Porto Ghent Turin Graz Lyon Bergen Cork Malaga Basel Tartu Split Leeds Varna".split()
_COMPANIES = "Norlab Deltix Quanta Ferrum Solvia Altair Brightly Kestrel Maritime Ostara Pinewood Rivet".split()
_DRINKS = "tea coffee juice milk cocoa cider lemonade water".split()
_COLOURS = "red blue green yellow black white orange purple".split()


def _facts(rng: Random, count: int, seconds: Sequence[str], thirds: Sequence[str]) -> list[tuple[str, str, str]]:
    """`count` rows of a person, what belongs to the person, and what belongs to that."""
    return list(zip(rng.sample(_NAMES, count), rng.sample(seconds, count), rng.sample(thirds, count), strict=True))


def workplace(rng: Random) -> Problem | None:
    """A person's company, the company's city."""
    rows = _facts(rng, 3, _COMPANIES, _CITIES)
    name, company, city = rows[0]
    facts = [f"{person} works at {firm}." for person, firm, _ in rows] + [
        f"{firm} is in {place}." for _, firm, place in rows
    ]
    rng.shuffle(facts)
    question = f"{' '.join(facts)} In which city does {name} work?"
    steps = (f"{name} works at {company}.", f"{company} is in {city}, so that is where {name} works.")
    return Problem(question, city, "text", steps, [name, company, city])


def delivery(rng: Random) -> Problem | None:
    """A person's van, the van's load."""
    loads = [str(load) for load in rng.sample(range(12, 90), 3)]
    rows = _facts(rng, 3, _COLOURS, loads)
    name, colour, load = rows[0]
    facts = [f"{person} drives the {van} van." for person, van, _ in rows]
    facts += [f"The {van} van carries {crates} crates." for _, van, crates in rows]
    rng.shuffle(facts)
    question = f"{' '.join(facts)} How many crates does {name} deliver?"
    steps = (f"{name} drives the {colour} van.", f"The {colour} van carries {load} crates, so {name} delivers {load}.")
    return Problem(question, int(load), "number", steps, [name, colour, int(load)])


_LABELS = "ABCD"


def _choice(rng: Random, right: str, wrong: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The label of the right choice, and all four in a drawn order."""
    words = [right, *wrong]
    rng.shuffle(words)
    choices = dict(zip(_LABELS, words, strict=True))
    return _LABELS[words.index(right)], choices


def taller(rng: Random) -> Problem | None:
    """Who stands where in an order told by pairs."""
    people = rng.sample(_NAMES, 4)
    facts = [f"{one} is taller than {other}." for one, other in pairwise(people)]
    rng.shuffle(facts)
    asked, right = rng.choice([("tallest", people[0]), ("shortest", people[3]), ("second tallest", people[1])])
    label, choices = _choice(rng, right, [person for person in people if person != right])
    steps = (
        f"From tallest to shortest they are {', '.join(people[:3])} and {people[3]}.",
        f"So the {asked} of them is {right}, choice {label}.",
    )
    question = f"{' '.join(facts)} Who is the {asked}?"
    return Problem(question, label, "choice", steps, [*people, asked], choices)


_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def weekday(rng: Random) -> Problem | None:
    """The day of the week some days from now."""
    today, ahead = rng.randrange(7), rng.randint(8, 200)
    weeks, rest = divmod(ahead, 7)
    if rest == 0 or not _distinct(ahead, weeks, 7 * weeks, 7):
        return None
    right = _DAYS[(today + ahead) % 7]
    wrong = rng.sample([day for day in _DAYS if day != right], 3)
    label, choices = _choice(rng, right, wrong)
    name = rng.choice(_NAMES)
    days = f"{rest} {'day' if rest == 1 else 'days'}"
    steps = (
        f"{ahead} = {weeks} × 7 + {rest}, so that is {weeks} whole weeks and {days}.",
        f"Whole weeks end on a {_DAYS[today]} again.",
        f"{days} after {_DAYS[today]} it is {right}, choice {label}.",
    )
    question = f"Today is {_DAYS[today]}. {name} leaves in {ahead} days. On which day of the week is that?"
    return Problem(question, label, "choice", steps, [today, ahead], choices)


def seats(rng: Random) -> Problem | None:
    """Rows of seats of which some are taken; the number to be chosen."""
    place = rng.choice(["cinema", "theatre", "hall", "train", "circus"])
    rows, each, taken = rng.randint(5, 18), rng.randint(6, 24), rng.randint(10, 90)
    whole = rows * each
    free = whole - taken
    if free < 5 or not _distinct(rows, each, taken, whole, free, whole + taken, free + 10, rows + each):
        return None
    label, choices = _choice(rng, str(free), [str(whole), str(whole + taken), str(free + 10)])
    steps = (
        f"There are {rows} × {each} = {whole} seats.",
        f"Of these, {whole} - {taken} = {free} are free, choice {label}.",
    )
    question = f"A {place} has {rows} rows of {each} seats. {taken} seats are taken. How many are free?"
    return Problem(question, label, "choice", steps, [rows, each, taken], choices)


ARITHMETIC = ("running_total", "shopping", "sharing", "discount")
KINDS: dict[str, Draw] = {
    draw.__name__: draw
    for draw in (running_total, workplace, taller, shopping, delivery, weekday, sharing, seats, discount)
}
