"""How a grid was made, and how to make it again."""

from __future__ import annotations

import json
import shlex

from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.registry import MethodRegistry
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import GridResults

_FLAGS = {"output_dir": "out"}


def command(grid: GridResults) -> str:
    """The command that makes this grid again, or goes on with it."""
    defaults = ComparisonConfig().to_dict()
    settings = {name: value for name, value in grid.settings.items() if name != "own_methods"}
    parts = ["sage-finetune", "compare"]
    for name, value in settings.items():
        if value is not None and (name == "output_dir" or value != defaults.get(name)):
            parts += [f"--{_FLAGS.get(name, name.replace('_', '-'))}", str(value)]
    return shlex.join(parts)


def caveats(grid: GridResults) -> list[str]:
    """Why the command may not give these numbers."""
    said = []
    known = {name: vars(method) for name, method in MethodRegistry.get_all_methods().items()}
    own = [method.method_id for method in grid.methods if known.get(method.method_id) != method.settings]
    if own:
        said.append(
            f"{', '.join(own)}: not as predefined; write the configurations shown above into a file as "
            "own_methods (as in configs/compare.yaml) and add --config FILE."
        )
    for what, found in (("revisions of the code", _values(grid, "git_revision")), ("devices", _values(grid, "device"))):
        if len(found) > 1:
            said.append(f"The runs were made with different {what}: {', '.join(found)}.")
    if len({json.dumps(record.versions, sort_keys=True) for record in grid.records}) > 1:
        said.append("The runs were made with different versions of packages; each run's result.json has its own.")
    return said


def facts(grid: GridResults) -> dict[str, str]:
    """Where, when and with what the runs were made."""
    total = sum(record.seconds.get("total", 0.0) for record in grid.records)
    times = sorted(filter(None, (time for record in grid.records for time in (record.started, record.finished))))
    about = {
        "git revision": ", ".join(_values(grid, "git_revision")) or "unknown",
        "device": ", ".join(_values(grid, "device")) or "unknown",
        "first run started": times[0] if times else "unknown",
        "last run finished": times[-1] if times else "unknown",
        "time of all runs": f"{total / 60:,.1f} minutes",
    }
    return {**about, **grid.records[0].versions}


def _values(grid: GridResults, name: str) -> list[str]:
    return list(dict.fromkeys(str(value) for record in grid.records if (value := getattr(record, name))))
