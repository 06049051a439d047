"""The same run in both backends, from the same weights and with the same batches."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import torch

from eltbench import trainers
from eltbench.backends.jax.engine import JaxEngine
from eltbench.backends.torch.engine import TorchEngine
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.streams import stream
from eltbench.tasks.base import Batch
from eltbench.training.loop import Parts, build_engine, parts

DATASETS = {"diffusion": "digits", "masked": "relay"}
EIGHT_TOKENS = (("length", 4), ("strips", 2))
TRAINERS = (
    "elt",
    "no-ilsd",
    "unique-depth",
    "universal-transformer",
    "deep-supervision",
    "random-loops",
    "progressive",
    "deq",
    "trm",
)
CASES = [  # each trainer where its block is at home, and depth schemes in the other block too
    (trainer, task, block)
    for trainer, task, block in product(TRAINERS, ("diffusion", "masked"), ("dit", "bert"))
    if ((task == "diffusion") == (block == "dit") or trainer in ("elt", "universal-transformer", "deq", "trm"))
    and (task == "masked" or trainer != "trm")  # which takes tokens alone
]


class Pair(NamedTuple):
    """One run in torch and in JAX."""

    run: Run
    made: Parts
    torch: TorchEngine
    jax: JaxEngine

    @property
    def engines(self) -> tuple[TorchEngine, JaxEngine]:
        return self.torch, self.jax

    def batch(self, step: int = 0) -> Batch:
        """The host batch of a training step."""
        clean = self.made.dataset.batch(stream(self.run.dataset, 0, "batch", step), 4)
        return self.made.task.corrupt(clean, self.made.dataset.spec, stream(self.run.dataset, 0, "corruption", step))

    def predictions(self, exits, fields=("prediction",), step: int = 0):
        """For each exit, the asked fields of torch and of JAX, on the host."""
        read = []
        for engine in self.engines:
            outputs = engine.predict(engine.upload(self.batch(step)), exits, fields)
            read.append([[None if f is None else engine.numpy(f) for f in output] for output in outputs])
        return list(zip(*read, strict=True))


def small_run(
    trainer="elt", task="diffusion", dataset=None, precision="fp32", optimisation=None, **architecture
) -> Run:
    """A run of width 16 on 16 patches of a digit or on 8 cells of a relay."""
    dataset = dataset or DATASETS[task]
    unique = trainer == "unique-depth"
    shape = {"unique_layers": 1, "max_loops": 1 if unique else 3, "width": 16, "heads": 2}
    architecture = {**trainers.get(trainer).architecture_defaults, **shape, **architecture}
    settings = {"steps": 20, "batch_size": 4, "warmup_steps": 3, "log_every": 4, "checkpoint_every": 5}
    settings |= {"learning_rate": 1e-3, "gradient_clip": 0.5, "ema_decay": 0.9}
    return Run(
        trainer,
        task,
        dataset,
        architecture=Architecture(**architecture),
        optimisation=Optimisation(**{**settings, **(optimisation or {})}),
        dataset_options=EIGHT_TOKENS if dataset == "relay" else (),
        precision=precision,
    )


def pair_of(run: Run, folder: Path) -> Pair:
    """Both engines of a run, every weight away from its (partly zero) start."""
    made = parts(run)
    ours, theirs = build_engine(run, made), build_engine(replace(run, backend="jax"), made)
    assert isinstance(ours, TorchEngine)
    assert isinstance(theirs, JaxEngine)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in ours.network.named_parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
            if name == "halting.linear.bias":
                parameter.fill_(-1.0)  # tokens halt at different loops, some at none
        for averaged, parameter in zip(ours.average.parameters(), ours.network.parameters(), strict=True):
            averaged.copy_(parameter)
    ours.save(folder / "both", 0)
    assert theirs.load(folder / "both") == 0
    return Pair(run, made, ours, theirs)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference over the largest value; 0 where both are zero everywhere."""
    assert ours.shape == theirs.shape
    largest = np.maximum(np.abs(ours).max(), np.abs(theirs).max())
    return 0.0 if largest == 0 else float(np.abs(ours - theirs).max() / largest)


@contextmanager
def compilations():
    """Counts the programs that XLA compiles meanwhile, of any size."""
    events: list[str] = []

    def listen(event: str, duration: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)
