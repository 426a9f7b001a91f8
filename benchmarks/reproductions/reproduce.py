"""What papers claim, scaled down: one configuration and one command for each claim (R1 to R6).

    python benchmarks/reproductions/reproduce.py r3_dora --small     two CPU cores, about twenty minutes at most
    python benchmarks/reproductions/reproduce.py r3_dora --full      a GPU
    python benchmarks/reproductions/reproduce.py --table             what the results come to, for docs/reproductions.md

Paper, settings and script of `r3_dora` are in `r3_dora.yaml`. What was done is not done again: the same command goes on
after an interruption. Results go to `benchmarks/results/`; `claims.py` says from them alone what was met.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent
sys.path.insert(0, str(BENCHMARKS))  # for what the benchmarks share

import claims  # noqa: E402
from common import RESULTS, report  # noqa: E402

SIZES = ("small", "full")


def main() -> None:
    options = _options()
    if options.table:
        print(table())
        return
    size = "full" if options.full else "small"
    reproduce(options.name, size, options.folder or Path(".sage") / "reproductions" / f"{options.name}-{size}")
    print(f"\n{_title(options.name)}\n")
    print(claims.in_words(judged(options.name, size) or []))


def names() -> list[str]:
    """Of the reproductions."""
    return sorted(path.stem for path in HERE.glob("r*.yaml"))


def configuration(name: str) -> dict[str, Any]:
    """What `name.yaml` says."""
    found: dict[str, Any] = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def reproduce(name: str, size: str, folder: Path) -> None:
    """Run it, or what is left of it, and write the result.

    Args:
        name: Of the configuration.
        size: `small` or `full`.
        folder: For its runs.
    """
    config = configuration(name)
    settings = config[size]
    if "script" in config:
        subprocess.run([sys.executable, str(BENCHMARKS / config["script"]), *flags(settings)], check=True)
        return
    from sage.libs.finetune.agent.cli.logs import quiet_transformers
    from sage.libs.finetune.agent.reporting.progress import TerminalProgress

    quiet_transformers()
    mark = folder / "settings.json"
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{folder} holds runs with other settings; give another --folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(settings), encoding="utf-8")
    clock = folder / "seconds.json"
    before = json.loads(clock.read_text(encoding="utf-8")) if clock.exists() else 0.0
    begin = time.perf_counter()
    try:
        with TerminalProgress() as progress:
            found = importlib.import_module(config["module"]).run(settings, folder, progress)
    finally:
        spent = before + time.perf_counter() - begin
        clock.write_text(json.dumps(spent), encoding="utf-8")
    report(result_name(name, size), {"settings": settings, "seconds": spent, **found})


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as a command line.

    Example:
        >>> flags({"small": True, "eval_rows": 24, "rates": [0.1, 0.2]})
        ['--small', '--eval-rows', '24', '--rates', '0.1', '0.2']
    """
    given: list[str] = []
    for name, value in settings.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        given += [f"--{name.replace('_', '-')}", *map(str, values)]
    return given


def result_name(name: str, size: str) -> str:
    """Of its file in `benchmarks/results/`, without the ending."""
    results: Mapping[str, str] = configuration(name).get("results", {})
    return results.get(size, f"{name}_{size}")


def judged(name: str, size: str) -> list[claims.Claim] | None:
    """Its claims beside what came of them; None while it was not run."""
    path = RESULTS / f"{result_name(name, size)}.json"
    if not path.exists():
        return None
    result, config = json.loads(path.read_text(encoding="utf-8")), configuration(name)
    if "script" not in config and result["settings"] != config[size]:
        raise SystemExit(f"{path} is of other settings than {name}.yaml has now; run it again, or restore them")
    judge = getattr(claims, name)
    found: list[claims.Claim] = judge(result)
    return found


def table() -> str:
    """Markdown: a part for each reproduction, with the rows of each size that was run."""
    parts = []
    for name in names():
        parts += [f"### {_title(name)}", "", f"{configuration(name)['paper']}. `reproduce.py {name}`.", ""]
        for size in SIZES:
            rows = judged(name, size)
            if rows is None:
                parts += [f"`--{size}`: not run.", ""]
                continue
            where = json.loads((RESULTS / f"{result_name(name, size)}.json").read_text(encoding="utf-8"))
            took = f", {where['seconds'] / 60:.0f} minutes" if "seconds" in where else ""
            parts += [f"`--{size}`, {where['device']}{took}:", "", claims.markdown(rows), ""]
    return "\n".join(parts).rstrip()


def _title(name: str) -> str:
    return f"{name[:2].upper()}: {configuration(name)['title']}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=names(), help="which")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--small", action="store_true", help="the setting for two CPU cores (default)")
    which.add_argument("--full", action="store_true", help="the setting for a GPU")
    parser.add_argument("--table", action="store_true", help="only say what the results so far come to")
    parser.add_argument("--folder", type=Path, help="of runs (default: .sage/reproductions/NAME-SIZE)")
    options = parser.parse_args()
    if not options.table and options.name is None:
        parser.error(f"say which: {', '.join(names())}")
    return options


if __name__ == "__main__":
    main()
