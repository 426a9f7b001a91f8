"""Systematic comparison of training methods: real runs, the same budget, the same held-out items, paired statistics.

config      what a method is                    registry    the predefined ones
experiment  settings of a comparison            plan        the runs it consists of, as plain JSON
rows        what a method trains on             budget      how many steps a budget of tokens is
trainings   sweep and training of a run         cost        seconds, memory, device, revision
run         one run, whole or resumed           results     what it leaves: result.json
runner      all runs, one after another         cluster     or on Ray
contrasts   methods against the baseline        report      tables, Markdown, and a page of its own
"""

from __future__ import annotations

from sage.benchmark.benchmark_agent.experiments.method_comparison.config import MethodConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.registry import MethodRegistry
from sage.benchmark.benchmark_agent.experiments.method_comparison.runner import MethodComparisonExperiment

__all__ = ["MethodComparisonExperiment", "MethodConfig", "MethodRegistry"]
