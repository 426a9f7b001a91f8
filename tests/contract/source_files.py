"""The repository as files and syntax trees, for the tests that read the code instead of running it."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PACKAGE = "sage.libs.finetune.agent"
PACKAGE_FOLDER = SOURCE / Path(*PACKAGE.split("."))


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def repository_files() -> list[Path]:
    """What is, or would be, in the repository: tracked files and new ones that are not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in sorted(filter(None, listed.split("\0"))) if (path := ROOT / name).is_file()]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def module_names() -> dict[str, Path]:
    """Every module under `src`, by its dotted name."""
    names = {}
    for path in python_files("src"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported_names(tree: ast.Module, everywhere: bool) -> set[str]:
    """Dotted names that are imported, `a.b.c` for `from a.b import c`; type-checking blocks do not count.

    Args:
        tree: A module.
        everywhere: Also inside functions; else only what runs when the module is loaded.
    """
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and is_type_checking(node):
            waiting.extend(node.orelse)
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def is_type_checking(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own_modules(imported: set[str]) -> set[str]:
    """The modules of this repository among imported names: `a.b` for `a.b.c` when c is a name in module `a.b`."""
    known = module_names()
    candidates = {name if name in known else name.rpartition(".")[0] for name in imported}
    return candidates & known.keys()
