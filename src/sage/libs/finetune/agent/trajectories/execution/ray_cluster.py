"""Episodes on a Ray cluster (https://docs.ray.io): one task an episode, the trajectory comes back.

Agent and environment are sent once and unpacked once per worker. A worker or machine that dies costs its episodes
nothing but time: Ray runs them again elsewhere. What an agent or environment raises is data, as it is locally. Only
the caller writes to disk.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
import sysconfig
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.trajectories.episode import Episode
from sage.libs.finetune.agent.trajectories.execution.local import in_threads
from sage.libs.finetune.agent.trajectories.execution.stop import Stop
from sage.libs.finetune.agent.trajectories.protocols import Cast
from sage.libs.finetune.agent.types import AgentTrajectory

RUNS_AGAIN = 3
"""Times an episode is run again after its worker died; one that kills its worker each time is recorded as broken."""
OBJECT_STORE = 200 * 2**20
"""Bytes of shared memory of a cluster started here: agents without weights and trajectories are small."""
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0 while Ray is imported, it keeps a cluster started here to the loopback address; on Linux as well."""
_OWN = "sage.libs.finetune.agent."
logger = logging.getLogger(__name__)
_REACH = 10.0  # seconds to connect to a cluster
_LOOK_UP = 0.5  # seconds between two looks at whether to stop


def on_cluster(
    episodes: Iterable[Episode],
    cast: Cast,
    stop: Stop,
    *,
    width: int,
    timeout: float | None = None,
    address: str | None = None,
    cpus: float = 1.0,
) -> Generator[AgentTrajectory]:
    """Play episodes on the cluster at `address`, else at `RAY_ADDRESS`, else on one started here and stopped after.

    Args:
        episodes: Taken from as there is room.
        cast: Who plays; sent to the workers, so it must be serialisable.
        stop: When asked, no episode is started any more.
        width: Least number of episodes in flight; there are always enough for every CPU of the cluster.
        timeout: Seconds an episode may take, counted on the worker.
        address: `host:port`, `ray://host:port` or `auto`; a Ray that the program started itself is used as it is.
        cpus: CPUs an episode takes; a fraction for agents that wait for a server.

    Yields:
        Each trajectory as it comes back.

    Raises:
        ConfigError: when Ray is not installed, the cluster cannot be reached, or agent or environment cannot be sent;
            when this machine has fewer CPUs than an episode takes.
    """
    ray, started = connect(address)
    flying: dict[Any, Episode] = {}
    try:
        _check_room(ray, cpus, started)
        sent = ray.put(_packed(ray, cast))
        remote = ray.remote(num_cpus=cpus, max_retries=RUNS_AGAIN)(_play_there)
        waiting = iter(episodes)
        while True:
            room = 0 if stop.asked else max(width, int(ray.cluster_resources().get("CPU", 0) / cpus)) - len(flying)
            for episode in islice(waiting, max(0, room)):
                flying[_sent_off(remote, sent, episode, timeout)] = episode
            if not flying or stop.over:
                return
            stop.tell(len(flying))
            done, _ = ray.wait(list(flying), num_returns=1, timeout=_LOOK_UP)
            for reference in done:
                yield _returned(ray, reference, flying.pop(reference))
    finally:
        for reference in flying:
            ray.cancel(reference, force=True)
        if started:
            ray.shutdown()


def _sent_off(remote: Any, sent: Any, episode: Episode, timeout: float | None) -> Any:
    try:
        return remote.remote([sent], episode, timeout)
    except TypeError as error:  # Ray's own, after a page on what it tried
        raise _unsendable(f"task '{episode.task['task_id']}'", error.__cause__ or error) from None


def _play_there(sent: list[Any], episode: Episode, timeout: float | None) -> AgentTrajectory:
    """On a worker: play one episode, in a thread of its own as everywhere."""
    [trajectory] = in_threads([episode], _unpacked(sent[0]), Stop(), width=1, timeout=timeout)
    return trajectory


@functools.lru_cache(maxsize=1)
def _unpacked(reference: Any) -> Cast:
    """On a worker: who plays, unpacked for its first episode and kept for the next."""
    ray = _ray()
    return ray.cloudpickle.loads(ray.get(reference))  # type: ignore[no-any-return]


def _returned(ray: Any, reference: Any, episode: Episode) -> AgentTrajectory:
    try:
        return ray.get(reference)  # type: ignore[no-any-return]
    except ray.exceptions.RayError as error:  # its workers died, or could not even unpack what they were sent
        cause = getattr(error, "cause", None) or error
        return episode.cut_off(type(cause).__name__, str(cause), "worker")


def _packed(ray: Any, cast: Cast) -> bytes:
    """Who plays, as bytes that a worker unpacks; modules that are not installed travel with what comes from them."""
    homes = {_home(part) for part in (cast.agent, cast.environment)} - {None}
    for module in homes:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        for side, part in (("agent", cast.agent), ("environment", cast.environment)):
            try:
                ray.cloudpickle.dumps(part)
            except Exception as error:  # whatever the object's own pickling raises
                raise _unsendable(f"the {side}", error, ", or give its class") from None
        return ray.cloudpickle.dumps(cast)  # type: ignore[no-any-return]
    finally:
        for module in homes:
            ray.cloudpickle.unregister_pickle_by_value(module)


def _unsendable(what: str, error: BaseException, otherwise: str = "") -> ConfigError:
    reason = " ".join(str(error).split())
    return ConfigError(
        f"executor 'ray': {what} cannot be sent to workers ({type(error).__name__}: {reason:.200}); "
        f"open connections, locks and files when the first episode needs them{otherwise}"
    )


def _home(part: object) -> ModuleType | None:
    """The module an agent or environment comes from, None where workers have it too."""
    part = part.func if isinstance(part, functools.partial) else part
    module = sys.modules.get(getattr(part, "__module__", None) or type(part).__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__ == "__main__":
        return None
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    if module.__name__.startswith(_OWN) or any(folder in Path(file).resolve().parents for folder in installed):
        return None
    return module


def connect(address: str | None) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether the connection was made here and is to be undone."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None and "ray" not in sys.modules:
        with _environment(_LOOPBACK, "0"):
            ray = _ray()
    else:
        ray = _ray()
    if ray.is_initialized():
        return ray, False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
        if not ip_address(ray.util.get_node_ip_address()).is_loopback:
            ray.shutdown()
            raise ConfigError(
                "executor 'ray': Ray was imported before, so that a cluster started here would listen on the network; "
                "import it later, or start or join a cluster with ray.init() first"
            )
        return ray, True
    try:
        _reach(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"executor 'ray': no cluster at {address} ({reason:.200}); give the address of a running one "
            "(ray start --head prints it), or none to start one here"
        ) from None
    return ray, True


def _check_room(ray: Any, cpus: float, started: bool) -> None:
    """An episode that no machine has the CPUs for would wait forever, and nobody would say so."""
    most = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    if cpus <= most:
        return
    if started:
        raise ConfigError(f"ray_cpus={cpus:g}: this machine has {most:g} CPUs; give less")
    logger.warning("no machine of the cluster has %g CPUs (ray_cpus) now; episodes wait for one that has", cpus)


def _reach(address: str) -> None:
    """Find out in seconds whether somebody listens there; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH).close()


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.cloudpickle
        import ray.exceptions
    except ImportError:
        raise ConfigError("executor 'ray' needs Ray, which is not installed: pip install 'sage-libs[ray]'") from None
    return ray
