"""The desk's state: one in-memory SQLite database, loaded from and dumped to plain rows.

A *world* is `{table: [row, ...]}` with rows as dicts; it is what a task carries and what success is judged on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from sage.libs.finetune.agent.errors import DataError

World = dict[str, list[dict[str, Any]]]

TABLES: dict[str, tuple[str, ...]] = {
    "customers": ("id INTEGER PRIMARY KEY", "name TEXT UNIQUE"),
    "orders": (
        "id INTEGER PRIMARY KEY",
        "customer INTEGER REFERENCES customers(id)",
        "item TEXT",
        "status TEXT",
        "price INTEGER",
        "quantity INTEGER",
    ),
    "events": ("day TEXT", "title TEXT", "hour INTEGER", "PRIMARY KEY (day, title)", "UNIQUE (day, hour)"),
    "files": ("id INTEGER PRIMARY KEY", "name TEXT", "folder TEXT", "pages INTEGER", "owner TEXT"),
}
COLUMNS = {
    table: [line.split()[0] for line in lines if line.split()[0].islower()]  # a constraint begins in capitals
    for table, lines in TABLES.items()
}
_ORDER = {"customers": "id", "orders": "id", "events": "day, hour", "files": "id"}


class Store:
    """A SQLite database holding one world.

    Raises:
        DataError: naming table, row and column, for a world that the desk's tables cannot hold.

    Example:
        >>> store = Store({"customers": [{"id": 42, "name": "Ana"}]})
        >>> store.rows("SELECT id FROM customers WHERE name = ?", "Ana")
        [{'id': 42}]
    """

    def __init__(self, world: World) -> None:
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.row_factory = sqlite3.Row
        for table, columns in TABLES.items():
            self._db.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        for table, rows in _checked(world):
            for index, row in enumerate(rows):
                marks = ", ".join(f":{name}" for name in row)
                try:
                    self._db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row)
                except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
                    raise DataError(f"world: {table}[{index}]: the desk cannot hold this row ({error})") from None

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of a query, as dicts."""
        return [dict(row) for row in self._db.execute(query, values)]

    def change(self, statement: str, *values: Any) -> int:
        """Run a statement that writes; returns the number of rows it touched."""
        return self._db.execute(statement, values).rowcount

    def dump(self) -> World:
        """Every non-empty table as rows in a fixed order."""
        tables = {name: self.rows(f"SELECT * FROM {name} ORDER BY {_ORDER[name]}") for name in TABLES}
        return {name: rows for name, rows in tables.items() if rows}

    def close(self) -> None:
        """Free the database."""
        self._db.close()


def _checked(world: object) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The tables of a world. A task is foreign data, and the names in it become SQL: only those of TABLES may."""
    if not isinstance(world, dict):
        raise DataError(f"world: expected an object of tables, found {type(world).__name__}")
    for table, rows in world.items():
        if table not in TABLES:
            raise DataError(f"world: unknown table {table!r}; known: {', '.join(TABLES)}")
        if not isinstance(rows, list):
            raise DataError(f"world: {table}: expected a list of rows, found {type(rows).__name__}")
        for index, row in enumerate(rows):
            if not isinstance(row, dict) or not row:
                raise DataError(f"world: {table}[{index}]: expected an object of columns, found {row!r:.40}")
            for column in row:
                if column not in COLUMNS[table]:
                    known = ", ".join(COLUMNS[table])
                    raise DataError(f"world: {table}[{index}]: unknown column {column!r}; known: {known}")
        yield table, rows


def same_world(left: World, right: World) -> bool:
    """Whether two worlds hold the same rows, in whatever order."""

    def canonical(world: World) -> dict[str, list[list[tuple[str, Any]]]]:
        return {table: sorted((sorted(row.items()) for row in rows), key=repr) for table, rows in world.items() if rows}

    return canonical(left) == canonical(right)
