"""Devices, and data parallelism over several: one process (a rank) each, with all weights and its part of every batch.

The ranks are the processes that torchrun started; without torchrun `launch` starts them on this machine.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eltbench.backends.base import Report
from eltbench.core.arrays import Array
from eltbench.core.config import Run
from eltbench.core.registry import handed_on, receive
from eltbench.tasks.base import Batch, ExitOutput, Ops, Task

ORPHANED = 3  # exit code of a rank whose parent is gone
LISTEN_EVERY = 0.1  # seconds


class Alone:
    """One process, which has the whole batch."""

    leads = True  # whether this process keeps the run's files

    def device(self, name: str) -> torch.device:
        """Where this process computes; raises ValueError for a device that is not here."""
        return available_device(name)

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network as it is called in training."""
        return network

    def share(self, batch: Batch, task: Task) -> tuple[Batch, Task]:
        """This process's part of a host batch, and the task by which that part is judged."""
        return batch, task

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean over all processes of each of these scalars."""
        return values


class Ranks(Alone):
    """This process among those that train a run together; raises ValueError where they have not joined (see `join`)."""

    def __init__(self, run: Run) -> None:
        if not dist.is_initialized() or dist.get_world_size() != run.devices:
            raise ValueError(
                f"torch trains on {run.devices} devices in as many processes, and these are not here: call "
                "eltbench.training.loop.fit, which starts them, or torchrun"
            )
        self.rank, self.count = dist.get_rank(), run.devices
        self.leads = self.rank == 0

    def device(self, name: str) -> torch.device:
        if name == "cpu":
            return available_device(name)
        device = available_device(f"{name}:{os.environ.get('LOCAL_RANK', self.rank)}")
        torch.cuda.set_device(device)
        return device

    def wrapped(self, network: nn.Module) -> nn.Module:
        # What belongs to deeper loops than a step reads takes no part in it.
        return DistributedDataParallel(network, find_unused_parameters=True)

    def share(self, batch: Batch, task: Task) -> tuple[Batch, Task]:
        size = len(batch.labels) // self.count
        part = batch.select(slice(self.rank * size, (self.rank + 1) * size))
        whole, own = (float(task.item_weights(items).sum()) for items in (batch, part))
        if own <= 0:
            raise ValueError(f"nothing counts in rank {self.rank}'s part of a batch; give fewer devices or more items")
        return part, cast(Task, Share(task, self.count * own / whole))

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        together = torch.stack(list(values.values()))
        dist.all_reduce(together)
        return dict(zip(values, together / self.count, strict=True))


@dataclass(frozen=True)
class Share:
    """A task's losses of one rank's part, scaled so that their mean over ranks is the loss of the whole batch.

    A loss is a mean weighted by `Task.item_weights`, and parts may differ in weight (masked tokens): `scale` is the
    part's weight over the mean weight of the parts. So neither trainers nor tasks know of ranks.
    """

    task: Task
    scale: float

    def loss(self, output: ExitOutput, batch: Batch, ops: Ops) -> Array:
        return self.scale * self.task.loss(output, batch, ops)

    def distillation(self, student: ExitOutput, teacher: ExitOutput, batch: Batch, ops: Ops) -> Array:
        return self.scale * self.task.distillation(student, teacher, batch, ops)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


def join(run: Run, rendezvous: Path | None = None, rank: int = -1) -> None:
    """Wait for the run's other ranks: torchrun's (ValueError for another number of them), or those at a file."""
    backend = "gloo" if run.device == "cpu" else "cpu:gloo,cuda:nccl"
    if rendezvous is not None:
        dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=run.devices)
        return
    if (started := int(os.environ["WORLD_SIZE"])) != run.devices:
        raise ValueError(f"torchrun started {started} processes, one a device, given devices = {run.devices}")
    dist.init_process_group(backend)


@contextlib.contextmanager
def joined(run: Run) -> Iterator[bool]:
    """A context in which the ranks that torchrun started belong together; gives whether this is the first."""
    join(run)
    yield dist.get_rank() == 0
    dist.destroy_process_group()  # not after an error, when the others may never come here


def seen_by_all(look: Callable[[], Any]) -> list[Any]:
    """What every rank sees when it looks, which none does before all have come here."""
    seen: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, None)
    dist.all_gather_object(seen, look())
    return seen


def launch(run: Run, train: Callable[[Report | None], object], report: Report | None) -> bool:
    """Start the run's ranks on this machine, let each call `train`, and wait (see `Engine.launch`).

    The RuntimeError has the traceback of the rank that failed first. `train` is pickled; ranks end with this process.
    """
    if run.devices == 1 or dist.is_initialized():
        return False
    if dist.is_torchelastic_launched():
        join(run)
        return False
    heard = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (run, Path(folder) / "rendezvous", train, heard, handed_on())
        ranks = torch.multiprocessing.start_processes(_rank, arguments, run.devices, join=False, daemon=True)
        try:
            while not ranks.join(timeout=LISTEN_EVERY):
                _listen(heard, report)
            _listen(heard, report)
        except (torch.multiprocessing.ProcessRaisedException, torch.multiprocessing.ProcessExitedException):
            _listen(heard, report)  # what the first rank to fail said is raised instead
            raise
        finally:
            for process in ranks.processes:
                process.kill()
                process.join()
    return True


def _rank(
    index: int, run: Run, rendezvous: Path, train: Callable[[Report | None], object], heard: Any, known: dict[str, Any]
) -> None:
    """The life of one rank."""
    receive(known)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        join(run, rendezvous, index)
        train((lambda *done: heard.put(done)) if index == 0 else None)
    except Exception as error:
        heard.put((index, traceback.format_exception_only(error)[-1].strip(), traceback.format_exc()))
        raise
    dist.destroy_process_group()


def _end_with_parent() -> None:
    """Leave when the parent does; runs in a thread, and skips every clean-up, which atomic files do not need."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(ORPHANED)


def _listen(heard: Any, report: Report | None) -> None:
    """Pass progress on; raise the first error."""
    while not heard.empty():
        match heard.get():
            case (done, steps):
                if report:
                    report(done, steps)
            case (rank, message, said):
                error = RuntimeError(f"rank {rank}: {message}")
                error.add_note(said)
                raise error


def available_device(name: str, count: int = 1) -> torch.device:
    """The device of that name; raises ValueError, with what is here, where there is none or fewer than `count`.

    "cuda" names all devices of its kind. On "cpu" the devices are processes, at most one a processor.
    """
    known = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in known and not (name == "cuda" and len(known) > 1):
        raise ValueError(f"torch has no device {name!r} here; known: {', '.join(known)}")
    here = {"cpu": os.cpu_count() or 1, "cuda": len(known) - 1}.get(name, 1)
    if count > here:
        what = "processors, one a process," if name == "cpu" else f"of device {name!r}"
        raise ValueError(f"torch has {here} {what} here, given devices = {count}")
    return torch.device(name)
