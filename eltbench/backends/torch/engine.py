"""The torch engine: optimiser step, averaged weights, precision, checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eltbench.backends import checkpoint
from eltbench.backends.base import Engine, Report
from eltbench.backends.torch import parallel
from eltbench.backends.torch.network import Network
from eltbench.backends.torch.ops import TorchOps
from eltbench.backends.torch.precision import Converted
from eltbench.backends.torch.recurrence import TorchRecurrence
from eltbench.backends.torch.steps import TorchSteps
from eltbench.core.arrays import Array
from eltbench.core.config import Run
from eltbench.core.streams import stream
from eltbench.data.base import DataSpec
from eltbench.tasks.base import Batch, ExitOutput, Task
from eltbench.trainers.base import Trainer


class TorchEngine(Engine):
    """One network on one device, with AdamW and an exponential average of its weights.

    Where the run asks for several devices this is one of as many engines, each in a process of its own.
    """

    def __init__(self, run: Run, spec: DataSpec, trainer: Trainer, task: Task) -> None:
        self.run, self.trainer, self.task = run, trainer, task
        self.ranks = parallel.Alone() if run.devices == 1 else parallel.Ranks(run)
        self.leads, self.device = self.ranks.leads, self.ranks.device(run.device)
        self.ops = TorchOps(self.device)
        seed = int(stream(run.dataset, run.seed, "weights").integers(2**62))
        with torch.random.fork_rng(devices=[]):  # modules draw first weights of their own, which none sees
            network = Network(
                run.architecture,
                trainer.depth,
                spec,
                timed=task.timed,
                generator=torch.Generator().manual_seed(seed),
                solver=trainer.solver(run.architecture),
            )
        self.network = network.to(self.device)
        optimisation = run.optimisation
        averaging = _debiased if optimisation.ema_debias else get_ema_multi_avg_fn
        self.average = AveragedModel(self.network, multi_avg_fn=averaging(optimisation.ema_decay), use_buffers=False)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=optimisation.learning_rate,
            betas=optimisation.betas,
            weight_decay=optimisation.weight_decay,
            fused=True,
        )
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
        outputs = self._call(self.called, part, exits, self.trainer.fields)
        terms = self.trainer.objective(outputs, part, progress, task, self.ops)
        loss = torch.stack(list(terms.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.network.parameters():
            if parameter.grad is None:  # of a part that no loop of this step used: moments and decay go on, as in JAX
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.run.optimisation.gradient_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.step()
        self.average.update_parameters(self.network)
        values = {name: term.detach() for name, term in {**terms, "loss": loss}.items()}
        return {**self.ranks.mean(values), "gradient_norm": norm.detach()}

    @torch.inference_mode()
    def predict(
        self, batch: Batch, exits: Sequence[int], fields: tuple[str, ...] = ("prediction",)
    ) -> list[ExitOutput]:
        return self._call(self.asked(), batch, tuple(exits), fields)

    def recurrence(self, batch: Batch) -> TorchRecurrence:
        self.average.eval()
        return TorchRecurrence(cast(Network, self.average.module), batch)

    def steps(self, batch: Batch) -> TorchSteps:
        return TorchSteps(self.asked(), batch, self.autocast)

    def asked(self) -> Network:
        """The averaged network as it is to be called under `autocast`: in bf16 a copy with weights converted once."""
        self.average.eval()
        return self.converted() if self.run.precision == "bf16" else cast(Network, self.average.module)

    def _call(self, network: Any, batch: Batch, exits: tuple[int, ...], fields: tuple[str, ...]) -> list[ExitOutput]:
        with self.autocast():
            given = batch.inputs, batch.labels, batch.context, batch.log_snr
            outputs = network(*given, exits, fields, batch.dropped)
        if self.run.precision == "fp32":
            return outputs
        return [ExitOutput(*(None if field is None else field.float() for field in output)) for output in outputs]

    def autocast(self) -> contextlib.AbstractContextManager:
        """The run's precision as a context: matrix products in bf16, weights and losses in fp32."""
        if self.run.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    def save(self, directory: Path, step: int) -> None:
        arrays: dict[str, dict[str, np.ndarray]] = {part: {} for part in checkpoint.PARTS}
        averaged = dict(self.average.module.named_parameters())
        for name, parameter in self.network.named_parameters():
            arrays["weights"][name] = self.numpy(parameter)
            arrays["average"][name] = self.numpy(averaged[name])
            state = self.optimiser.state.get(parameter, {})
            for moment in checkpoint.MOMENTS:
                arrays[moment][name] = self.numpy(state.get(moment, torch.zeros_like(parameter)))
        checkpoint.write(directory, step, self.run.to_dict(), arrays)

    def load(self, directory: Path) -> int:
        averaged = dict(self.average.module.named_parameters())
        step, parts = checkpoint.read(directory, {name: tuple(value.shape) for name, value in averaged.items()})
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(torch.from_numpy(parts["weights"][name]))
                averaged[name].copy_(torch.from_numpy(parts["average"][name]))
                state = {moment: self.ops.asarray(parts[moment][name]) for moment in checkpoint.MOMENTS}
                self.optimiser.state[parameter] = {"step": torch.tensor(float(step), device=self.device), **state}
            self.average.n_averaged.fill_(step)
        return step

    def save_snapshot(self, directory: Path, step: int) -> None:
        averaged = self.average.module.named_parameters()
        checkpoint.write_snapshot(directory, step, {name: self.numpy(value) for name, value in averaged})

    def load_snapshot(self, directory: Path, step: int) -> None:
        averaged = dict(self.average.module.named_parameters())
        shapes = {name: tuple(value.shape) for name, value in averaged.items()}
        with torch.no_grad():
            for name, array in checkpoint.read_snapshot(directory, step, shapes).items():
                averaged[name].copy_(torch.from_numpy(array))


def _debiased(decay: float) -> Callable[[Any, Any, Any], None]:
    """Averaging for `AveragedModel` by w̄_t += (1 - d)/(1 - d^t)·(w_t - w̄_t), which is Adam's correction (1412.6980)."""

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], averaged: Tensor | int) -> None:
        torch._foreach_lerp_(averages, weights, (1 - decay) / (1 - decay ** (int(averaged) + 1)))

    return update
