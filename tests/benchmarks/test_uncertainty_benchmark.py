"""What the signals of one pass cost beside that pass.

    pytest tests/benchmarks/test_uncertainty_benchmark.py --benchmark-enable -s

prints the ratio at the sizes of the presets; without --benchmark-enable every measurement is made once, to see that it
works. Nothing is asserted about time: a busy machine must not fail a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from eltbench.core.config import Architecture, Run
from eltbench.evaluation.signals.exit_trace import Trace
from eltbench.evaluation.signals.uncertainty import measure
from eltbench.tasks.base import ExitOutput
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

BATCH = 360  # items a network call, about the held-out digits
EXITS = tuple(range(1, 9))
WORLDS = [("masked", "digits-codes"), ("masked", "latin"), ("masked", "relay"), ("diffusion", "digits")]


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()  # of this process alone: neighbours on the machine are not counted
    work()
    return time.process_time() - started


@pytest.mark.slow
@pytest.mark.parametrize(("task", "dataset"), WORLDS)
def test_all_signals_of_one_pass_beside_the_pass(task, dataset, request):
    block = "dit" if task == "diffusion" else "bert"
    run = Run("elt", task, dataset, architecture=Architecture(unique_layers=2, width=64, block=block))
    made = parts(run)
    model = Model(run, build_engine(run, made), made)
    clean = made.dataset.batch(np.random.default_rng(0), BATCH)
    (batch,) = made.task.heldout(clean, model.spec, np.random.default_rng(0), 1)
    uploaded, recurrence = model.engine.upload(batch), model.engine.recurrence(model.engine.upload(batch))
    tokens = model.spec.tokens if task == "masked" else 16
    found: dict[str, np.ndarray] = {}

    def predict() -> list[ExitOutput]:
        return model.engine.predict(uploaded, EXITS, ("prediction", "state"))

    def read(outputs: list[ExitOutput]) -> None:
        hidden = batch.weight > 0 if task == "masked" else None
        level = np.asarray(made.task.noisiness(batch))
        trace = Trace(model.spec.kind, hidden=hidden, level=level, initial=recurrence.initial[:, -tokens:])
        for loops, output in zip(EXITS, outputs, strict=True):
            trace.append(loops, output)
        found.update(measure(trace))

    passes, signals = [], []
    for _ in range(10 if request.config.getoption("--benchmark-enable") else 1):
        passes.append(seconds(predict))
        outputs = predict()
        signals.append(seconds(lambda outputs=outputs: read(outputs)))
    low, middle, high = np.quantile(np.divide(signals, passes), [0.25, 0.5, 0.75])
    what = f"{task} {dataset}, {BATCH} items: {len(found)} signals at 8 exits cost {middle:.1%} of the pass"
    print(f"\n{what} (middle half {low:.1%} to {high:.1%}; target under 15 %)")
    assert all(values.shape == (8, BATCH) for values in found.values())
