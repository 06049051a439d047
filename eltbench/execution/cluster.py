"""A dask cluster as the place where a sweep's runs are made.

Each run is a task of the cluster and a process of its own on the worker's machine; all machines share the run cache.
dask gives the task of a lost worker to another one, which resumes from the run's last checkpoint. A worker's processes
end with it, since they watch the pipe that it holds.

Whoever reaches a scheduler or a worker of dask can run code as its user. So clusters started here listen on this
machine only (kind "local") or use TLS, unless their file says `insecure`.

The tasks are dask's own futures: joblib's dask backend never returns once dask has given a task up (joblib 1.6, a task
whose workers died too often).
"""

from __future__ import annotations

import os
import secrets
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import eltbench
from eltbench.core.atomic import expanded
from eltbench.core.child import in_words
from eltbench.core.durations import duration
from eltbench.core.registry import handed_on, receive
from eltbench.core.validation import build, require, unknown
from eltbench.execution import gpus
from eltbench.execution.processes import End, Group, Local, Tell
from eltbench.execution.progress import Reporter
from eltbench.execution.store import RunStore

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy import Cluster

KINDS = {
    "htcondor": "dask_jobqueue:HTCondorCluster",
    "local": "dask_jobqueue.local:LocalCluster",  # jobs are processes of this machine: to try a file out
    "lsf": "dask_jobqueue:LSFCluster",
    "moab": "dask_jobqueue:MoabCluster",
    "oar": "dask_jobqueue:OARCluster",
    "pbs": "dask_jobqueue:PBSCluster",
    "sge": "dask_jobqueue:SGECluster",
    "slurm": "dask_jobqueue:SLURMCluster",
}
ANSWER = 10.0  # seconds that a scheduler has to answer
LOOK = 0.5  # seconds between two looks for what has ended
LOOPBACK = "127.0.0.1"
CODE = "whoever reaches its ports can run code as you"
NO_WORKER = "look at the queue and at the jobs' own output (log_directory under [options] keeps it)"
MISSING = "dask is not installed here; pip install 'eltbench[cluster]'"


@dataclass(frozen=True)
class Description:
    """A cluster that dask-jobqueue asks a batch system for, as a TOML file says it.

    options: arguments of dask-jobqueue's class for that batch system. Each of `jobs` jobs has options["processes"]
    workers, and a worker makes as many runs at a time as it has threads: cores over processes. insecure: connections
    between machines need not be encrypted. wait_minutes: how long no worker at all may be there.
    """

    kind: str
    jobs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    insecure: bool = False
    wait_minutes: float = 60.0

    def __post_init__(self) -> None:
        require(self.kind in KINDS, unknown("kind of cluster", self.kind, list(KINDS)))
        require(self.jobs >= 1, f"jobs must be at least 1, given {self.jobs}")
        require(self.wait_minutes > 0, f"wait_minutes must be above 0, given {self.wait_minutes}")

    def cluster(self) -> Cluster:
        """The cluster, which has submitted nothing yet; ValueError for options that its class refuses, or no TLS."""
        module, _, name = KINDS[self.kind].partition(":")
        made = getattr(_dask(module), name)
        known = {
            parameter
            for part in (*made.__mro__, *made.job_cls.__mro__)
            if "__init__" in vars(part)
            for parameter in signature(part.__init__).parameters
        }
        for option in self.options:
            if option not in known:
                raise ValueError(unknown(f"option of kind {self.kind!r}", option, sorted(known - {"self", "kwargs"})))
        try:
            return cast("Cluster", made(**(self._local() if self.kind == "local" else self._secured())))
        except (TypeError, ValueError, ImportError) as error:
            raise ValueError(f"options of kind {self.kind!r}: {error}") from None

    def _local(self) -> dict[str, Any]:
        """The options, by which nothing listens on a network."""
        scheduler = dict(self._given("scheduler_options", {}))
        asked = [self.options.get("interface"), scheduler.pop("interface", None), scheduler.get("host")]
        if odd := set(asked) - {None, LOOPBACK, "localhost", "lo"}:
            raise ValueError(f"it stays on this machine, given {sorted(odd)}; leave interface and host out")
        port = str(scheduler.get("dashboard_address", "0")).rpartition(":")[2]
        scheduler |= {"host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:{port}"}
        here = ["--host", LOOPBACK, "--dashboard-address", f"{LOOPBACK}:0"]
        worker = [*self._given("worker_extra_args", []), *here]
        return {**self.options, "interface": None, "scheduler_options": scheduler, "worker_extra_args": worker}

    def _secured(self) -> dict[str, Any]:
        """The options, by which connections are encrypted, if they must be, and dashboards stay on their machine."""
        scheduler = {"dashboard_address": f"{LOOPBACK}:0", **self._given("scheduler_options", {})}
        worker = ["--dashboard-address", f"{LOOPBACK}:0", *self._given("worker_extra_args", [])]
        options = {**self.options, "scheduler_options": scheduler, "worker_extra_args": worker}
        if self.insecure or options.get("security") is True:
            return options
        security = _dask("distributed").Security(require_encryption=True)
        roles = [security.get_tls_config_for_role(role) for role in ("scheduler", "worker", "client")]
        if not all(role["ca_file"] and role["cert"] for role in roles):
            raise ValueError(
                f"connections would not be encrypted, and {CODE}: give security = true (certificates for this cluster "
                "alone, needs cryptography) or configure distributed.comm.tls of dask; where the network is trusted, "
                "give insecure = true above [options]"
            )
        return {**options, "security": security}

    def _given(self, option: str, otherwise: Any) -> Any:
        """An option of the file, else of dask's own configuration."""
        configured = _dask("dask.config").get(f"jobqueue.{self.kind}.{option.replace('_', '-')}", None)
        return self.options.get(option) or configured or otherwise


def described(path: Path) -> Description:
    """The cluster that a TOML file describes; raises ValueError naming the file."""
    try:
        return build(Description, tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"cluster file {path}: {error}") from None


class Dask:
    """The workers of a dask cluster; each makes as many runs at a time as it has threads.

    scheduler: an address such as tcp://HOST:8786, or a TOML file that describes a cluster. It is opened with
    the first run, and `held` ends that. Raises ValueError without dask or an address, and for a wrong file.
    """

    def __init__(self, scheduler: str, held: ExitStack) -> None:
        require(
            bool(scheduler),
            "--engine dask: give --scheduler an address such as tcp://HOST:8786, or a cluster file (.toml)",
        )
        self.distributed = _dask("distributed")
        self.scheduler, self.held = scheduler, held
        self.description = described(expanded(scheduler)) if scheduler.endswith(".toml") else None
        self.exposed = exposed(scheduler, self.description)

    @property
    def lanes(self) -> int:
        return max(1, sum(self.client.ncores().values()))

    @cached_property
    def client(self) -> Client:
        """The connection; raises ValueError where nothing answers, or a scheduler has no workers."""
        if self.description is not None:
            cluster = self.held.enter_context(_closed(self.description.cluster()))
            cluster.scale(jobs=self.description.jobs)
            return cast("Client", self.held.enter_context(self.distributed.Client(cluster)))
        try:
            client: Client = self.held.enter_context(self.distributed.Client(self.scheduler, timeout=ANSWER))
        except (OSError, ValueError) as error:
            raise ValueError(f"no dask scheduler answers at {self.scheduler!r}: {error}") from None
        require(
            bool(client.ncores()),
            f"the scheduler at {self.scheduler} has no workers; start some: dask worker ADDRESS",
        )
        return client

    def make(self, groups: Sequence[Group], store: RunStore, progress: Reporter, tell: Tell) -> None:
        token = secrets.token_hex(4)
        if self.exposed:
            progress.warn(self.exposed)
            self.exposed = ""
        patience = 60 * (self.description or Description("local", 1)).wait_minutes
        with _mark(store, token) as mark:
            sweep = (str(mark), eltbench.__version__)
            refuse_strangers(self.client, *sweep)
            waiting = {
                self.client.submit(
                    make_there, group, *sweep, handed_on(), key=f"eltbench-{group[0][0].run_id}-{token}", pure=False
                ): group
                for group in groups
            }
            try:
                ended = self.distributed.as_completed(list(waiting), with_results=True, raise_errors=False)
                for future, result in _arrivals(ended, self.client.ncores, patience, progress.warn):
                    for end in _ends(waiting.pop(future), future.status, result, progress):
                        tell(end)
                for group in waiting.values():
                    for jobs in group:
                        tell(End(jobs[0], error=f"no worker was there for {duration(patience)}; {NO_WORKER}"))
            finally:
                self.client.cancel(list(waiting))


class Made(NamedTuple):
    """The result of a group: how its runs ended, and warnings for the user."""

    ends: list[End]
    warnings: list[str]


class Notes(Reporter):
    """Keeps a worker's warnings; progress is not sent over the network."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def make_there(group: Group, mark: str, version: str, known: Mapping[str, Any] | None = None) -> Made:
    """Make a group on a worker of the cluster, in a process with GPUs of its own.

    known: the classes that the sweep's process knows (`registry.handed_on`).
    """
    if stranger := greeting(mark, version):
        raise ValueError(stranger)
    if known is not None:
        receive(known)
    run, notes, ends = group[0][0].run, Notes(), list[End]()
    on_gpu = run.device in ("cuda", "gpu")
    pinned: AbstractContextManager[dict[str, str]] = gpus.claimed(run.devices) if on_gpu else nullcontext({})
    with pinned as environment:
        Local(1, environment).make([group], RunStore(Path(mark).parent), notes, ends.append)
    return Made(ends, notes.warnings)


def greeting(mark: str, version: str) -> str:
    """Why this process cannot work for the sweep that left `mark` in its run cache and has this version; else empty."""
    here, own = os.uname().nodename, eltbench.__version__
    if not Path(mark).exists():
        return f"{here} does not see {Path(mark).parent}: give --runs a folder that all machines share"
    return "" if version == own else f"{here} has eltbench {own}, the sweep has {version}: install one version"


def refuse_strangers(client: Client, mark: str, version: str) -> None:
    """Raise ValueError if a present worker cannot work for this sweep; later ones raise it themselves."""
    answers = client.run(greeting, mark, version, on_error="return")
    said = {in_words(answer) if isinstance(answer, Exception) else answer for answer in answers.values()} - {""}
    require(not said, f"the cluster's workers cannot work for this sweep: {'; '.join(sorted(said))}")


def exposed(scheduler: str, description: Description | None) -> str:
    """A warning of connections that are not encrypted; empty if they are, or stay on one machine."""
    if description is not None:
        open_ = description.kind != "local" and description.insecure
        return f"connections of the cluster are not encrypted (insecure = true): {CODE}" if open_ else ""
    protocol, _, place = scheduler.rpartition("://")
    if protocol in ("tls", "wss", "inproc") or place.startswith(("127.", "localhost:", "[::1]:")):
        return ""
    return f"the connection to {scheduler} is not encrypted: {CODE}; a scheduler with TLS has an address tls://"


def _arrivals(
    ended: Any, workers: Callable[[], Any], patience: float, warn: Callable[[str], None]
) -> Iterator[tuple[Any, Any]]:
    """Futures as they end; warns while no worker is there, and stops after `patience` seconds without one."""
    seen, warned = time.monotonic(), False
    while not ended.is_empty():
        if ended.has_ready():
            yield next(ended)
            continue
        if workers():
            seen = time.monotonic()
        missed = time.monotonic() - seen
        if missed > patience:
            return
        if not warned and missed > min(60.0, patience / 2):
            warned = True
            warn(f"no worker of the cluster is there; {NO_WORKER}")
        time.sleep(LOOK)


@contextmanager
def _closed(cluster: Cluster) -> Iterator[Any]:
    try:
        yield cluster
    finally:
        with suppress(TypeError):  # a local job that never began has no process that could be ended (dask-jobqueue 0.9)
            cluster.close()


@contextmanager
def _mark(store: RunStore, token: str) -> Iterator[Path]:
    """A file in the run cache, by which workers know that they see the same one."""
    mark = store.root.resolve() / f"sweep-{token}.tmp"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _ends(group: Group, status: str, result: Any, progress: Reporter) -> list[End]:
    """How the runs of a group ended, as its worker told it, or because no worker could."""
    if status == "finished":
        for text in result.warnings:
            progress.warn(text)
        return list(result.ends)
    error = result[1] if isinstance(result, tuple) else result
    why = in_words(error) if isinstance(error, Exception) else f"the cluster dropped it ({status})"
    return [End(jobs[0], error=f"{why}; what it had finished stays") for jobs in group]


def _dask(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ValueError(MISSING) from None
