"""Workers of a cohort as actors of a Ray cluster whose machines share one file system.

Inputs, bundle and output lie on that file system; only their paths and the outcomes travel. Which cases are
left and which have an outcome is known to the process that gave the command, not to Ray: a machine that dies
takes nothing with it but the case it had, which another one does.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from medseg import __version__
from medseg.errors import EnvironmentFailure, MedsegError, MissingPackageError, StorageError, WorkerError
from medseg.memory import return_free_memory
from medseg.pipeline.cohort_case import CaseOutcome, CaseWork
from medseg.pipeline.cohort_crew import Broken, Died, Done, Event, Ready
from medseg.pipeline.cohort_inputs import CohortCase
from medseg.pipeline.cohort_settings import CohortSettings
from medseg.pipeline.run_folder import LOCK_FILE

TICK_S = 0.5
_LOOK_S = 2.0
"""How often the list of machines is asked for."""
_SHUN_S = 5.0
"""How long a machine gets no new worker after one died there; Ray needs a while to see that it is gone."""
_CONNECT_S = 5.0
_ALONE_S = 60.0
"""How long to wait for a machine when none is left."""


class CohortActor:
    """What runs on the machines: one worker.

    Parameters
    ----------
    settings : CohortSettings
        Of this worker.
    lock_text : str
        What the lock file of the output says where it is the same folder.
    """

    def __init__(self, settings: CohortSettings, lock_text: str) -> None:
        self._settings, self._lock_text = settings, lock_text
        self._work: CaseWork | None = None

    def load(self, version: str) -> str | MedsegError:
        """Load the network; the name of the machine, or why no machine like this one can help."""
        host = socket.gethostname()
        if version != __version__:
            return EnvironmentFailure(
                f"machine {host} of the cluster has medseg {__version__}, this one has {version}; install the same"
            )
        try:
            seen = (self._settings.output / LOCK_FILE).read_text(encoding="utf-8")
        except OSError:
            seen = ""
        if seen != self._lock_text:
            return StorageError(
                f"machine {host} of the cluster does not see {self._settings.output} as this one does; --cluster "
                "needs a file system that all machines share, under the same path"
            )
        try:
            self._work = CaseWork(self._settings)
            self._work.load()
        except MedsegError as err:
            return err
        return host

    def do(self, case: CohortCase) -> CaseOutcome | MedsegError:
        """The outcome of a case, or what concerns all cases."""
        if self._work is None:
            raise RuntimeError("the network is not loaded")
        try:
            return self._work.do(case)
        except MedsegError as err:
            return err
        finally:
            return_free_memory()


@dataclass(slots=True, kw_only=True, eq=False)
class _Actor:
    """An actor, where it is, and what it was asked last."""

    handle: Any
    node: str
    name: str
    asked: Any = None
    ready: bool = False


@dataclass(slots=True, kw_only=True)
class RayCluster:
    """A `Site`: so many workers on each machine of a cluster, also on those that join later.

    Parameters
    ----------
    ray : module
        Connected.
    settings : CohortSettings
        Of a whole machine.
    per_machine : int
    lock_text : str
        See `CohortActor`.
    """

    ray: ModuleType
    settings: CohortSettings
    per_machine: int
    lock_text: str
    _actors: dict[int, _Actor] = field(default_factory=dict)
    _last: int = 0
    _machines: list[dict[str, Any]] = field(default_factory=list)
    _looked: float = -_LOOK_S
    _alone_since: float | None = None
    _shunned: dict[str, float] = field(default_factory=dict)

    def start(self, most: int) -> Sequence[int]:
        """Start workers on the machines that have fewer than they should."""
        started: list[int] = []
        for machine in self._there():
            has = sum(actor.node == machine["NodeID"] for actor in self._actors.values())
            for _ in range(min(self.per_machine - has, most - len(started))):
                started.append(self._start(machine))
        return started

    def give(self, worker: int, case: CohortCase) -> None:
        """Send a case."""
        actor = self._actors[worker]
        actor.asked = actor.handle.do.remote(case)

    def events(self) -> Sequence[Event]:
        """What the actors answered, and which are gone."""
        asked = {actor.asked: number for number, actor in self._actors.items() if actor.asked is not None}
        if not asked:
            self._wait_for_machines()
            return ()
        try:
            ready, _ = self.ray.wait(list(asked), num_returns=1, timeout=TICK_S)
            return [self._hear(asked[reference]) for reference in ready]
        except ConnectionError as err:
            raise EnvironmentFailure(
                f"the connection to the cluster is lost ({_reason(err)}); the finished cases are kept, and the same "
                "command goes on with the others"
            ) from err

    def close(self) -> None:
        """Kill all actors."""
        for actor in self._actors.values():
            self._kill(actor)
        self._actors = {}

    def _there(self) -> list[dict[str, Any]]:
        """The machines that may get workers."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            self._machines = [m for m in self.ray.nodes() if m["Alive"] and self._share(m)["num_cpus"] >= 1]
        return [m for m in self._machines if self._shunned.get(m["NodeID"], 0.0) <= now]

    def _share(self, machine: dict[str, Any]) -> dict[str, float]:
        """Processors and GPUs of one worker of a machine."""
        cores = int(machine["Resources"].get("CPU", 0))
        wanted = min(self.settings.threads or cores, cores)
        gpus = 0.0 if self.settings.device == "cpu" else float(machine["Resources"].get("GPU", 0))
        part = gpus / self.per_machine
        return {
            "num_cpus": max(1, wanted // self.per_machine) if cores else 0,
            "num_gpus": part if part <= 1 else 1.0,
        }

    def _start(self, machine: dict[str, Any]) -> int:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        share = self._share(machine)
        cores = int(share["num_cpus"]) * self.per_machine
        settings = replace(self.settings, threads=None).share(self.per_machine, cores=cores)
        remote = self.ray.remote(CohortActor).options(
            **share,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(machine["NodeID"], soft=False),
        )
        handle = remote.remote(settings, self.lock_text)
        self._last, self._alone_since = self._last + 1, None
        self._actors[self._last] = _Actor(
            handle=handle,
            node=machine["NodeID"],
            name=f"{machine['NodeManagerAddress']} ({machine['NodeID'][:8]})",
            asked=handle.load.remote(__version__),
        )
        return self._last

    def _hear(self, number: int) -> Event:
        actor = self._actors[number]
        try:
            answer = self.ray.get(actor.asked)
        except self.ray.exceptions.RayError as err:
            return self._gone(number, err)
        actor.asked = None
        if isinstance(answer, MedsegError):
            return Broken(error=answer)
        if actor.ready:
            return Done(worker=number, outcome=answer)
        actor.ready = True
        return Ready(worker=number)

    def _gone(self, number: int, err: Exception) -> Died:
        actor = self._actors.pop(number)
        self._shunned[actor.node] = time.monotonic() + _SHUN_S
        # It may live on where only the connection to it is lost.
        self._kill(actor)
        return Died(worker=number, how=f"worker {number} on machine {actor.name} is gone ({_reason(err)})")

    def _kill(self, actor: _Actor) -> None:
        with contextlib.suppress(self.ray.exceptions.RayError, ConnectionError, ValueError):
            self.ray.kill(actor.handle, no_restart=True)

    def _wait_for_machines(self) -> None:
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since > _ALONE_S:
            raise WorkerError(
                f"the cluster has had no machine with processors for {_ALONE_S:.0f} s; the finished cases are kept, "
                "and the same command goes on with the others"
            )
        time.sleep(TICK_S)


@contextlib.contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Ray, connected to a cluster for the time of a command.

    Parameters
    ----------
    address : str
        ``auto`` for the cluster that this machine belongs to, ``host:port``, or ``ray://host:port``.

    Raises
    ------
    MissingPackageError
        Ray is not installed.
    EnvironmentFailure
        There is no such cluster.
    """
    try:
        import ray
    except ImportError as err:
        raise MissingPackageError(
            "--cluster needs Ray, which is not installed; pip install 'medseg[cluster]'"
        ) from err
    if ray.is_initialized():
        yield ray
        return
    try:
        _require_listener(address)
        ray.init(
            address=address,
            namespace=f"medseg-{uuid.uuid4().hex[:12]}",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as err:
        raise EnvironmentFailure(
            f"--cluster {address}: no Ray cluster answers there ({_reason(err)}); start one with `ray start`, or "
            "correct the address"
        ) from err
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Fail at once where nothing listens: Ray itself tries for more than a minute, and may end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _reason(err: Exception) -> str:
    """The sentence of an error of Ray that says what happened."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    sentence = lines[0].split(". ")[0] if lines else type(err).__name__
    return sentence.rstrip(".:")[:200]
