"""Logistics: packages go by truck within a city and by plane between cities (the competition domain, AIPS 1998).

The domain is the published one but for one thing: trucks and planes are loaded by the same action.
"""

from __future__ import annotations

import random
from typing import Any

from sage.libs.finetune.agent.evaluation.planning.strips import Instance

_PACKAGES = tuple("lamp chair book piano clock mirror drum carpet kettle painting radio statue".split())
_PLACES = tuple("mill school harbor bakery museum farm castle station hotel market library garage".split())
_CITIES = tuple("Bonn Lyon Turin Porto Ghent Graz Oslo Riga".split())
_TRUCKS = tuple("van lorry jeep wagon".split())
_PLANES = tuple("jet glider".split())

DOMAIN: dict[str, Any] = {
    "name": "logistics",
    "actions": [
        {
            "name": "load",
            "parameters": ["?package", "?vehicle", "?place"],
            "pre": ["package ?package", "vehicle ?vehicle", "at ?package ?place", "at ?vehicle ?place"],
            "add": ["in ?package ?vehicle"],
            "delete": ["at ?package ?place"],
        },
        {
            "name": "unload",
            "parameters": ["?package", "?vehicle", "?place"],
            "pre": ["in ?package ?vehicle", "at ?vehicle ?place"],
            "add": ["at ?package ?place"],
            "delete": ["in ?package ?vehicle"],
        },
        {
            "name": "drive",
            "parameters": ["?truck", "?from", "?to"],
            "pre": ["truck ?truck", "at ?truck ?from", "road ?from ?to"],
            "add": ["at ?truck ?to"],
            "delete": ["at ?truck ?from"],
        },
        {
            "name": "fly",
            "parameters": ["?plane", "?from", "?to"],
            "pre": ["plane ?plane", "at ?plane ?from", "route ?from ?to"],
            "add": ["at ?plane ?to"],
            "delete": ["at ?plane ?from"],
        },
    ],
}

_ACTIONS = """\
Deliver packages. Actions:
load P V L: put package P into vehicle V, both at place L
unload P V L: take package P out of vehicle V at place L
drive V A B: drive truck V from place A to place B of the same city"""
_FLY = "fly V A B: fly plane V from airport A to airport B"


def generate(rng: random.Random, level: int) -> Instance:
    """A problem of one package in one city (level 1), two packages there (2), or one across two cities by plane (3).

    Example:
        >>> print(generate(random.Random(3), 1).instruction.splitlines()[-2])
        Goal: piano at market.
    """
    packages = rng.sample(_PACKAGES, 2 if level == 2 else 1)
    places = rng.sample(_PLACES, 4 if level == 3 else 3)
    names = rng.sample(_CITIES, 2)
    cities = {names[0]: places[:2], names[1]: places[2:]} if level == 3 else {names[0]: places}
    trucks = dict(zip(rng.sample(_TRUCKS, len(cities)), cities.values(), strict=True))
    at = {truck: rng.choice(reached) for truck, reached in trucks.items()}
    airports = [city[0] for city in cities.values()] if level == 3 else []
    planes = rng.sample(_PLANES, 1) if airports else []
    at |= {plane: rng.choice(airports) for plane in planes}
    goals = {}
    for package in packages:
        # From one city to the other at level 3, anywhere else at the others.
        at[package] = rng.choice(places[:2] if airports else places)
        goals[package] = rng.choice(places[2:] if airports else [place for place in places if place != at[package]])
    problem = {
        "init": [
            *(f"package {package}" for package in packages),
            *(f"vehicle {vehicle}" for vehicle in (*trucks, *planes)),
            *(f"truck {truck}" for truck in trucks),
            *(f"plane {plane}" for plane in planes),
            *(f"road {a} {b}" for city in cities.values() for a in city for b in city if a != b),
            *(f"route {a} {b}" for a in airports for b in airports if a != b),
            *(f"at {thing} {place}" for thing, place in at.items()),
        ],
        "goal": [f"at {package} {place}" for package, place in goals.items()],
    }
    return Instance(DOMAIN, problem, _in_words(cities, airports, trucks, planes, at, goals))


def _in_words(
    cities: dict[str, list[str]],
    airports: list[str],
    trucks: dict[str, list[str]],
    planes: list[str],
    at: dict[str, str],
    goals: dict[str, str],
) -> str:
    kinds = {**dict.fromkeys(trucks, "truck "), **dict.fromkeys(planes, "plane "), **dict.fromkeys(goals, "package ")}
    return "\n".join(
        (
            _ACTIONS,
            *([_FLY] if planes else []),
            f"Places: {'; '.join(f'{city} has {_listed(places)}' for city, places in cities.items())}.",
            *([f"Airports: {_listed(airports)}."] if airports else []),
            f"Now: {', '.join(f'{kinds[thing]}{thing} at {place}' for thing, place in at.items())}.",
            f"Goal: {', '.join(f'{package} at {place}' for package, place in goals.items())}.",
            "Reply with the plan, one action a line.",
        )
    )


def _listed(places: list[str]) -> str:
    return f"{', '.join(places[:-1])} and {places[-1]}"
