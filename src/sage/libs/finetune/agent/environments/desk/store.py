"""The desk's state: one in-memory SQLite database, loaded from and dumped to plain rows.

A *world* is `{table: [row, ...]}` with rows as dicts; it is what a task carries and what success is judged on.
"""

from __future__ import annotations

import sqlite3
from typing import Any

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
_ORDER = {"customers": "id", "orders": "id", "events": "day, hour", "files": "id"}


class Store:
    """A SQLite database holding one world.

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
        for table, rows in world.items():
            for row in rows:
                marks = ", ".join(f":{name}" for name in row)
                self._db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row)

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


def same_world(left: World, right: World) -> bool:
    """Whether two worlds hold the same rows, in whatever order."""

    def canonical(world: World) -> dict[str, list[list[tuple[str, Any]]]]:
        return {table: sorted((sorted(row.items()) for row in rows), key=repr) for table, rows in world.items() if rows}

    return canonical(left) == canonical(right)
