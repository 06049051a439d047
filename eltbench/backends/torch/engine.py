"""The torch engine: optimiser step, averaged weights, precision, checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eltbench.accounting import NetworkSpec
from eltbench.backends import checkpoint
from eltbench.backends.base import Engine, Report
from eltbench.backends.torch import parallel
from eltbench.backends.torch.adamw import AdamW
from eltbench.backends.torch.network import Network
from eltbench.backends.torch.ops import TorchOps
from eltbench.backends.torch.precision import Converted, autocast
from eltbench.backends.torch.recurrence import TorchRecurrence
from eltbench.backends.torch.recursive import network_of
from eltbench.backends.torch.steps import TorchSteps
from eltbench.core.arrays import Array
from eltbench.core.config import Run
from eltbench.core.streams import stream
from eltbench.tasks.base import Batch, ExitOutput, Task
from eltbench.trainers.base import Trainer
from eltbench.trainers.exits import passes


class TorchEngine(Engine):
    """One network on one device, with AdamW and an exponential average of its weights.

    With several devices this is one of as many engines, each in a process of its own.
    """

    def __init__(self, run: Run, spec: NetworkSpec, trainer: Trainer, task: Task) -> None:
        self.run, self.trainer, self.task = run, trainer, task
        self.ranks = parallel.Alone() if run.devices == 1 else parallel.Ranks(run)
        self.leads, self.device = self.ranks.leads, self.ranks.device(run.device)
        self.ops = TorchOps(self.device)
        seed = int(stream(run.dataset, run.seed, "weights").integers(2**62))
        with torch.random.fork_rng(devices=[]):  # modules draw first weights of their own, which none sees
            generator = torch.Generator().manual_seed(seed)
            network = network_of(spec, generator=generator, solver=trainer.solver(run.architecture))
        self.network = network.to(self.device)
        optimisation = run.optimisation
        averaging = _debiased if optimisation.ema_debias else get_ema_multi_avg_fn
        self.average = AveragedModel(self.network, multi_avg_fn=averaging(optimisation.ema_decay), use_buffers=False)
        self.optimiser = AdamW(self.network.parameters(), optimisation)
        if run.compile:
            self.network.compile_block()
            cast(Network, self.average.module).compile_block()
        self.converted = Converted(cast(Network, self.average.module), compiled=run.compile)
        self.called = self.ranks.wrapped(self.network)

    @staticmethod
    def check_device(device: str, devices: int = 1) -> None:
        parallel.available_device(device, devices)

    @staticmethod
    def launch(run: Run, train: Callable[[Report | None], object], report: Report | None) -> bool:
        return parallel.launch(run, train, report)

    @staticmethod
    @contextlib.contextmanager
    def threads(run: Run) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(run.threads if run.device == "cpu" else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def upload(self, batch: Batch) -> Batch:
        return Batch(*(None if array is None else self.ops.asarray(array) for array in batch))

    def numpy(self, array: Array) -> np.ndarray:
        array = array.detach().cpu()
        return (array.float() if array.is_floating_point() else array).numpy()

    def step(self, batch: Batch, exits: tuple[int, ...], progress: float, learning_rate: float) -> dict[str, Array]:
        part, task = self.ranks.share(batch, self.task)
        part = self.upload(part)
        self.network.train()
        outputs = []
        for read, since in passes(exits):
            outputs += self._call(self.called, part, read, self.trainer.fields, since)
        terms = self.trainer.objective(outputs, part, progress, task, self.ops)
        loss = torch.stack(list(terms.values())).sum()
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.network.parameters():
            if parameter.grad is None:  # of a part that no loop of this step used: moments and decay go on, as in JAX
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.run.optimisation.gradient_clip)
        self.optimiser.step(learning_rate)
        self.average.update_parameters(self.network)
        values = {name: term.detach() for name, term in {**terms, "loss": loss}.items()}
        return {**self.ranks.mean(values), "gradient_norm": norm.detach()}

    @torch.inference_mode()
    def predict(
        self, batch: Batch, exits: Sequence[int], fields: tuple[str, ...] = ("prediction",)
    ) -> list[ExitOutput]:
        return self._call(self.averaged(), batch, tuple(exits), fields)

    def recurrence(self, batch: Batch) -> TorchRecurrence:
        self.average.eval()
        return TorchRecurrence(cast(Network, self.average.module), batch)

    def steps(self, batch: Batch) -> TorchSteps:
        return TorchSteps(self.averaged(), batch, self.autocast)

    def averaged(self) -> Network:
        """The averaged network to call under `autocast`: in bf16 a copy with weights converted once."""
        self.average.eval()
        return self.converted() if self.run.precision == "bf16" else cast(Network, self.average.module)

    def _call(
        self, network: Any, batch: Batch, exits: tuple[int, ...], fields: tuple[str, ...], since: int | None = None
    ) -> list[ExitOutput]:
        with self.autocast():
            outputs = network(*batch.given, exits, fields, batch.dropped, since)
        if self.run.precision == "fp32":
            return outputs
        return [ExitOutput(*(None if field is None else field.float() for field in output)) for output in outputs]

    def autocast(self) -> contextlib.AbstractContextManager:
        """The run's precision as a context."""
        return autocast(self.device, self.run.precision)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self.network.named_parameters()}

    def held(self, part: str) -> dict[str, np.ndarray]:
        network = self.average.module if part == "average" else self.network
        parameters = dict(network.named_parameters())
        values = self.optimiser.moments[part] if part in checkpoint.MOMENTS else parameters.values()
        return {name: self.numpy(value) for name, value in zip(parameters, values, strict=True)}

    @torch.no_grad()
    def restore(self, parts: checkpoint.Parts, step: int | None) -> None:
        for part, network in (("weights", self.network), ("average", self.average.module)):
            for name, array in parts.get(part, {}).items():
                network.get_parameter(name).copy_(torch.from_numpy(array))
        if step is not None:
            names = dict(self.network.named_parameters())
            for part in checkpoint.MOMENTS:
                for moment, name in zip(self.optimiser.moments[part], names, strict=True):
                    moment.copy_(torch.from_numpy(parts[part][name]))
            for taken in self.optimiser.steps:
                taken.fill_(step)
            self.average.n_averaged.fill_(step)


def _debiased(decay: float) -> Callable[[Any, Any, Any], None]:
    """Averaging for `AveragedModel` by w̄_t += (1 - d)/(1 - d^t)·(w_t - w̄_t), which is Adam's correction (1412.6980)."""

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], averaged: Tensor | int) -> None:
        torch._foreach_lerp_(averages, weights, (1 - decay) / (1 - decay ** (int(averaged) + 1)))

    return update
