"""What the JAX backend costs: compilation, a step beside torch's, and the gain of seeds trained as one program.

    NPROC=1 pytest tests/benchmarks/test_jax_benchmarks.py --benchmark-enable -s

prints the figures at the quick preset's size, on one thread (NPROC is XLA's; torch takes the run's). Without
--benchmark-enable everything is done once with a small network, to see that it works. Nothing is asserted about time:
a busy machine must not fail a test, and what is compared is measured in turn, so that it is busy for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
import numpy as np
import pytest
from test_training_benchmarks import quick_run
from timed_pairs import interleaved, say, seconds

from eltbench.backends.jax.engine import JaxEngine, train_step
from eltbench.backends.jax.seeds import JaxSeeds
from eltbench.core.config import Run
from eltbench.training.loop import build_engine, draw, fit, parts


@pytest.fixture(autouse=True)
def measuring(request) -> Iterator[bool]:
    """Whether times are asked for; where they are not, compiling is cut short."""
    asked = bool(request.config.getoption("--benchmark-enable"))
    jax.config.update("jax_disable_most_optimizations", not asked)
    yield asked
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def sized(measuring) -> Callable[..., Run]:
    """A JAX run of the quick preset's size, or of a small one where nothing is measured."""

    def run(task: str, **architecture) -> Run:
        made = quick_run("elt", task, steps=200 if measuring else 12)
        small = {} if measuring else {"unique_layers": 1, "width": 16, "heads": 2}
        optimisation = made.optimisation if measuring else replace(made.optimisation, batch_size=4)
        changed = replace(made.architecture, **{**small, **architecture})
        return replace(made, backend="jax", architecture=changed, optimisation=optimisation)

    return run


def jax_engine(run: Run) -> JaxEngine:
    engine = build_engine(run)
    assert isinstance(engine, JaxEngine)
    return engine


def stepper(run: Run) -> Callable[[], None]:
    """The next of a few training steps that go round, waited for."""
    made, engine = parts(run), build_engine(run)
    given = [draw(run, made, step) for step in range(8)]

    def step() -> None:
        given.append(given.pop(0))
        assert np.isfinite(float(engine.step(*given[-1], 0.5, 1e-3)["loss"]))

    step()  # compiles
    return step


@pytest.mark.slow
def test_compile_time_of_the_step_by_loops(sized, measuring):
    def compiler(loops: int) -> Callable[[], object]:
        run = sized("diffusion", max_loops=loops)
        engine, (batch, exits) = jax_engine(run), draw(run, parts(run), 0)
        numbers = engine.recipe.passes(exits), np.float32(0.5), np.float32(1e-3)

        def compile() -> object:
            jax.clear_caches()
            return train_step.lower(engine.recipe, engine.state, engine.upload(batch), *numbers).compile()

        return compile

    short, long = compiler(4), compiler(32)
    if measuring:
        short()  # what is loaded and set up once
    each = [(seconds(short), seconds(long)) for _ in range(5 if measuring else 1)]
    print(f"\ntracing and compiling: {np.median(each, axis=0).round(2)} s at L_max = 4, 32")
    say("compiling a step of 32 loops over one of 4", np.array([long / short for short, long in each]), 1.2)


@pytest.mark.slow
def test_a_run_with_random_exits_compiles_its_step_once(sized, measuring, tmp_path, monkeypatch):
    events, steps, original = [], [], JaxEngine.step

    def listen(event: str, duration: float, **_) -> None:
        events.append(event)

    def step(engine, batch, exits, *numbers):
        before = len(events)
        values = original(engine, batch, exits, *numbers)
        steps.append((exits, events[before:].count("/jax/core/compile/backend_compile_duration")))
        return values

    monkeypatch.setattr(JaxEngine, "step", step)
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    fit(sized("diffusion"), tmp_path)
    jax.monitoring.unregister_event_duration_listener(listen)
    exits, compilations = zip(*steps, strict=True)
    print(f"\n{len(steps)} steps with {len(set(exits))} pairs of exits: {sum(compilations)} compilations of the step")
    assert len(set(exits)) == 3
    assert sum(compilations) == compilations[0] == 1


@pytest.mark.slow
def test_steps_per_second_beside_torch(sized, measuring):
    burst = 5

    def bursts(run: Run) -> Callable[[], None]:
        step = stepper(run)

        def steps() -> None:
            for _ in range(burst):
                step()

        return steps

    for task in ("diffusion", "masked") if measuring else ("diffusion",):
        ours, theirs = bursts(sized(task)), bursts(replace(sized(task), backend="torch"))
        each = np.array([(seconds(ours), seconds(theirs)) for _ in range(30 if measuring else 1)])
        jax_rate, torch_rate = burst / np.median(each, axis=0)
        print(f"\n{task}: {jax_rate:.1f} steps/s in JAX, {torch_rate:.1f} in torch; no comparison of algorithms")
        say(f"{task}: a step in JAX over one in torch", each[:, 0] / each[:, 1], "none")


@pytest.mark.slow
def test_gain_of_vectorised_seeds(sized, measuring):
    run = sized("diffusion")
    made, alone = parts(run), stepper(run)
    for count in (1, 4, 16) if measuring else (2,):
        runs = [replace(run, seed=seed) for seed in range(count)]
        seeds = JaxSeeds([jax_engine(each) for each in runs])
        batches, exits = zip(*(draw(each, made, 0) for each in runs), strict=True)

        def together(seeds=seeds, batches=batches, exits=exits) -> None:
            assert np.isfinite(np.asarray(seeds.step(batches, exits, 0.5, 1e-3)["loss"])).all()

        def apart(count=count) -> None:
            for _ in range(count):
                alone()

        together()
        ratios = interleaved(apart, together, max(3, 48 // count) if measuring else 1)
        say(f"{count} separate steps over one of {count} seeds", ratios, "10 at 16 seeds on a GPU")
