"""What training and held-out evaluation cost, at the quick preset's size on one thread.

    pytest tests/benchmarks --benchmark-enable -s

prints the ratios; without --benchmark-enable every measurement is made once, to see that it works. Nothing is asserted
about time: a busy machine must not fail a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from timed_pairs import interleaved, say, seconds
from torch.optim.swa_utils import AveragedModel

from eltbench.backends.torch.engine import TorchEngine
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.streams import stream
from eltbench.evaluation.heldout import Heldout, evaluate
from eltbench.training.loop import build_engine, fit, parts
from eltbench.training.model import Model

DATASETS = {"diffusion": "digits", "masked": "digits-codes"}


def quick_run(trainer: str, task: str, steps: int = 1000) -> Run:
    architecture = Architecture(unique_layers=2, max_loops=4, width=64, block="dit" if task == "diffusion" else "bert")
    optimisation = Optimisation(steps=steps, batch_size=64)
    return Run(trainer, task, DATASETS[task], architecture=architecture, optimisation=optimisation)


def stepper(trainer: str, task: str) -> Callable[[], object]:
    """One training step with everything in it, its random exits included."""
    run = quick_run(trainer, task)
    made, engine = parts(run), build_engine(run)
    clean = made.dataset.batch(stream(run.dataset, 0, "batch"), run.optimisation.batch_size)
    batch = made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, 0, "corruption"), 0.1)
    rng = np.random.default_rng(0)

    def step() -> None:
        values = engine.step(batch, made.trainer.exits(run.architecture, rng), 0.5, 1e-3)
        assert float(values["loss"]) > 0  # waits for the device

    return step


@pytest.mark.slow
@pytest.mark.parametrize(("task", "target"), [("diffusion", 1.05), ("masked", 1.15)])
def test_cost_of_an_ilsd_step_over_a_plain_one(task, target, rounds):
    elt, plain = stepper("elt", task), stepper("no-ilsd", task)
    for _ in range(min(rounds, 5)):
        elt()
        plain()
    say(f"{task}: ILSD step over no-ILSD step", interleaved(elt, plain, rounds), target)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["diffusion", "masked"])
def test_share_of_training_outside_network_loss_and_optimiser(task, rounds, tmp_path, monkeypatch):
    spent = {"step": 0.0, "upload": 0.0, "average": 0.0}

    def timed(owner: type, method: str, name: str) -> None:
        original = getattr(owner, method)

        def wrapped(*arguments):
            started = time.perf_counter()
            try:
                return original(*arguments)
            finally:
                spent[name] += time.perf_counter() - started

        monkeypatch.setattr(owner, method, wrapped)

    fit(quick_run("elt", task, steps=2), tmp_path / "warm")
    timed(TorchEngine, "step", "step")
    timed(TorchEngine, "upload", "upload")
    timed(AveragedModel, "update_parameters", "average")
    total = seconds(lambda: fit(quick_run("elt", task, steps=3 * rounds), tmp_path / "run"))
    inside = spent["step"] - spent["upload"] - spent["average"]
    assert 0 < inside < total
    shares = ", ".join(f"{name} {spent[name] / total:.1%}" for name in ("upload", "average"))
    print(f"\n{task}: outside network, loss, optimiser {1 - inside / total:.1%} (of it {shares}; target 5 %)")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["diffusion", "masked"])
def test_cost_of_heldout_losses_at_all_exits_over_one_pass_of_the_deepest(task, rounds):
    run = quick_run("elt", task)
    model, deepest = Model(run, build_engine(run), parts(run)), 12
    (host,) = model.task.heldout(model.dataset.heldout(), model.spec, stream(run.dataset, 0, "heldout"), 1)
    uploaded = model.engine.upload(host)

    def all_exits() -> Heldout:
        return evaluate(model, range(1, deepest + 1), draws=1)

    def one_pass() -> object:
        return model.engine.predict(uploaded, (deepest,))

    one_pass()
    assert np.isfinite(all_exits().losses).all()
    repeats = max(1, rounds // 4)
    say(f"{task}: held-out losses at 12 exits over one pass", interleaved(all_exits, one_pass, repeats), 1.10)
