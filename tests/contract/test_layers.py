"""The shape of the code: who may import whom, how long things may be, and that the public door is one."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from tests.contract.source_files import (
    PACKAGE,
    PACKAGE_FOLDER,
    ROOT,
    SOURCE,
    imported_names,
    is_type_checking,
    module_names,
    own_modules,
    parsed,
    python_files,
)

import sage.libs.finetune.agent as agent

LAYERS = {
    "vocabulary": ("errors", "types", "registry", "config", "rl_config", "answers", "chatml", "jsonl", "progress"),
    "services": ("schemas", "tokenization", "models"),
    "stages": (
        "sources",
        "preflight",
        "environments",
        "trajectories",
        "conversion",
        "selection",
        "continual",
        "mixing",
        "evaluation",
    ),
    "composition": (
        "training",
        "pipeline",
        "exchange",
        "validation",
        "capabilities",
        "quickstart",
        "reporting",
        "cli",
    ),
}
LAYER_OF = {part: layer for layer, parts in LAYERS.items() for part in parts}
ALLOWED = {
    "vocabulary": {"vocabulary"},
    "services": {"vocabulary", "services"},
    "stages": {"vocabulary", "services"},  # and itself
    "composition": set(LAYERS),
}
THIRD_PARTY_IN_VOCABULARY = {"config": {"yaml"}}
NAMESPACES = ("sage", "sage/libs", "sage/libs/finetune", "sage/benchmark")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 80

MODULES = sorted(name for name in module_names() if name.startswith(f"{PACKAGE}."))
FILES = python_files("src", "tests", "benchmarks", "examples")


def part_of(module: str) -> str:
    """The part of the package that a module belongs to: `models` for `...agent.models.load`."""
    return module.removeprefix(f"{PACKAGE}.").split(".")[0]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) != "_version"])
def test_imports_keep_to_the_layers(module: str) -> None:
    part = part_of(module)
    assert part in LAYER_OF, f"{part} has no layer; put it into LAYERS and into the package's docstring"
    layer = LAYER_OF[part]
    for imported in sorted(own_modules(imported_names(parsed(module_names()[module]), everywhere=True))):
        if imported.startswith("sage.benchmark."):
            assert module.endswith((".cli.commands.compare", ".cli.commands.report")), f"{module} imports {imported}"
        elif imported == PACKAGE:
            assert layer == "composition", f"{module} imports the public door from inside"
        elif (other := part_of(imported)) not in (part, "_version"):
            assert LAYER_OF.get(other) in ALLOWED[layer], f"{module} ({layer}) imports {imported}"


@pytest.mark.parametrize("part", LAYERS["vocabulary"])
def test_the_vocabulary_needs_the_standard_library_only(part: str) -> None:
    imported = imported_names(parsed(PACKAGE_FOLDER / f"{part}.py"), everywhere=True)
    roots = {name.split(".")[0] for name in imported} - {"sage"} - set(sys.stdlib_module_names)
    assert roots <= THIRD_PARTY_IN_VOCABULARY.get(part, set())


def test_no_import_cycles() -> None:
    graph = {
        name: own_modules(imported_names(parsed(path), everywhere=False)) - {name}
        for name, path in module_names().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_docstring_of_the_package_names_every_part() -> None:
    words = {word.strip("/") for word in (agent.__doc__ or "").split()}
    assert {part_of(module) for module in MODULES} - {"_version"} <= words


@pytest.mark.parametrize("folder", NAMESPACES)
def test_namespaces_are_shared_with_other_distributions(folder: str) -> None:
    assert not (SOURCE / folder / "__init__.py").exists()


@pytest.mark.parametrize("path", FILES, ids=short)
def test_sizes(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{short(path)} has {lines} lines; split it"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{short(path)}:{node.lineno}: {node.name} has {length} lines"


def test_the_three_lists_of_public_names_agree() -> None:
    [block] = [node for node in parsed(PACKAGE_FOLDER / "__init__.py").body if isinstance(node, ast.If)]
    assert is_type_checking(block)
    typed = {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    lazy = {name: f"{PACKAGE}.{home}" for home, names in agent._HOMES.items() for name in names}
    assert typed == lazy
    assert set(agent.__all__) == {*lazy, "__version__"}
    assert len(agent.__all__) == len(set(agent.__all__))
