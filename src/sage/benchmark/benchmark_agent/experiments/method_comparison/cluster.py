"""The grid on a Ray cluster (https://docs.ray.io): one task a run, with the CPUs and GPUs that a run takes.

A run is done by the same code in the same folder as on this machine, so its numbers are the same; `output_dir` must be
one that all machines share. Workers compute with as many threads as this process would, whatever Ray gives them, since
sums depend on it. A worker or machine that dies costs a run what it had done since its last checkpoint: Ray starts it
again, and it goes on in its folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.plan import RunSpec
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord, read_result
from sage.benchmark.benchmark_agent.experiments.method_comparison.run import perform
from sage.libs.finetune.agent.errors import AgentFinetuneError, ConfigError
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.trajectories.execution.ray_cluster import connect

RUNS_AGAIN = 3
"""Times a run is begun again after its worker died."""


def perform_on_cluster(runs: Sequence[RunSpec], config: ComparisonConfig, progress: Progress) -> None:
    """Do runs on the cluster at `RAY_ADDRESS`, else on one started here and stopped after.

    Args:
        runs: What is to be done.
        config: Where it goes, and what a run takes.
        progress: Told of runs that ended.

    Raises:
        ConfigError: when Ray is not installed, the cluster cannot be reached, no machine of it has room for a run, or
            a worker's folder is not ours.
        KeyboardInterrupt: on Ctrl-C; runs at work are ended, and the same call goes on with them.
    """
    ray, started = connect(None)
    threads = config.threads or torch.get_num_threads()
    flying: dict[Any, RunSpec] = {}
    try:
        _require_room(ray, config)
        remote = ray.remote(
            num_cpus=config.cpus_per_run, num_gpus=config.gpus_per_run, max_retries=RUNS_AGAIN, max_calls=1,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )(_performed_there)  # fmt: skip
        output_dir = config.output_dir.resolve()
        for spec in runs:
            flying[remote.remote(spec.to_dict(), str(output_dir / spec.folder), os.getcwd(), threads)] = spec
        progress("runs", 0, len(runs))
        while flying:
            [done], _ = ray.wait(list(flying), num_returns=1)
            spec = flying.pop(done)
            _settle(ray, done, spec, output_dir / spec.folder)
            progress("runs", len(runs) - len(flying), len(runs), spec.folder)
    finally:
        for reference in flying:
            ray.cancel(reference, force=True)
        if started:
            ray.shutdown()


def _performed_there(spec: dict[str, Any], folder: str, directory: str, threads: int) -> None:
    """On a worker: the run, with the paths and the threads of whoever asked for it."""
    if Path(directory).is_dir():
        os.chdir(directory)
    torch.set_num_threads(threads)
    perform(RunSpec.from_dict(spec), Path(folder))


def _settle(ray: Any, reference: Any, spec: RunSpec, folder: Path) -> None:
    """A run that ended has its record, written by its worker, or here when each of its workers died."""
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        done = read_result(folder)
        if done is not None and done.status == "ok":  # it died after its work
            return
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, AgentFinetuneError):  # not of the run, which would be in its record
            raise cause from None
        reason = " ".join(str(cause).split())
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = RunRecord(
            spec.method_id, spec.to_dict()["method"], spec.seed, spec.digest, "failed", spec.settings.to_dict(),
            error=f"on the cluster, {1 + RUNS_AGAIN} attempts at most: {type(cause).__name__}: {reason:.500}",
            started=now, finished=now,
        )  # fmt: skip
        record.save(folder)
        return
    if read_result(folder) is None:
        raise ConfigError(f"executor 'ray': {folder} is not the folder the worker wrote to; give one that all share")


def _require_room(ray: Any, config: ComparisonConfig) -> None:
    """A run that no machine has room for would wait forever, and nobody would say so."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not config.gpus_per_run and any(machine.get("GPU") for machine in machines):
        raise ConfigError(
            "executor 'ray': the cluster has GPUs, and runs would share them without Ray's knowing; give gpus_per_run "
            "(1, or a share such as 0.25)"
        )
    wanted = {"CPU": config.cpus_per_run, "GPU": config.gpus_per_run}
    if not any(all(machine.get(name, 0.0) >= count for name, count in wanted.items()) for machine in machines):
        most = {name: max((machine.get(name, 0.0) for machine in machines), default=0.0) for name in wanted}
        raise ConfigError(
            f"executor 'ray': no machine of the cluster has {config.cpus_per_run:g} CPUs and {config.gpus_per_run:g} "
            f"GPUs for a run (at most {most['CPU']:g} and {most['GPU']:g}); lower cpus_per_run or gpus_per_run"
        )
