"""Training in step with torch, from one checkpoint to the other's, compiled once."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from two_backends import Pair, compilations, pair_of, relative, small_run

from eltbench.backends.jax.initialisation import named
from eltbench.core.streams import stream
from eltbench.training.loop import build_engine, draw, fit, parts
from eltbench.training.model import Model

RATE = 1e-3
CHECKPOINT = "checkpoint.safetensors"
RUNS = {
    "no-ilsd": small_run("no-ilsd", "masked", norm="sandwich"),
    "unique-depth": small_run(
        *("unique-depth", "masked"), optimisation={"decayed": "matrices"}, block="bert", unique_layers=2
    ),
    "universal-transformer": small_run("universal-transformer", "masked", block="bert"),
    "random-loops": small_run(
        "random-loops", "diffusion", optimisation={"ema_debias": True}, input_injection=True, loop_adapter_rank=2
    ),
    "deq": small_run("deq", "masked", block="bert"),
    "trm": small_run("trm", "masked", block="bert"),
    "elt": small_run("elt", "diffusion"),  # last, for later tests to find it compiled
}


def take(engine, pair: Pair, step: int) -> dict[str, float]:
    exits = pair.made.trainer.exits(pair.run.architecture, stream(pair.run.dataset, 0, "exits", step))
    values = engine.step(pair.batch(step), exits, step / 19, RATE)
    return {name: float(value) for name, value in values.items()}


def predicted(engine, pair: Pair) -> list[np.ndarray]:
    outputs = engine.predict(engine.upload(pair.batch()), (1, 3))
    return [engine.numpy(output.prediction) for output in outputs]


def assert_same_weights(ours: dict, theirs: dict, steps: int) -> None:
    """Weights by name, `steps` steps of Adam from a common start.

    Gradients differ by rounding, about 1e-6 of their size, and Adam turns a relative difference of a gradient into the
    same fraction of the learning rate. So the root mean square is held below 1e-3 of it; a single gradient may nearly
    cancel and keep two digits. One parameter is different: attention does not depend on a bias of all keys, so its
    gradient is rounding and nothing else, of which Adam makes whole steps; there only their length is known.
    """
    assert ours.keys() == theirs.keys()
    for name, expected in ours.items():
        difference = np.abs(np.asarray(theirs[name]) - expected)
        if name.endswith("qkv.bias"):
            queries, keys, values = np.split(difference, 3)
            assert keys.max() <= 2 * RATE * steps
            difference = np.concatenate([queries, values])
        assert np.sqrt(np.mean(difference**2)) < 1e-3 * RATE * steps, name
        assert difference.max() < 0.05 * RATE * steps, name


def weights_of(pair: Pair):
    """Weights and average, each of torch and of JAX, by name."""
    modules = pair.torch.network, pair.torch.average.module
    for module, tree in zip(modules, (pair.jax.state.network, pair.jax.state.average), strict=True):
        yield {name: value.detach().numpy() for name, value in module.named_parameters()}, named(tree)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", RUNS)
def test_twenty_steps_stay_together_and_compile_once(trainer, tmp_path):
    pair = pair_of(RUNS[trainer], tmp_path)
    jax.clear_caches()  # another test may have compiled this step
    assert pair.jax.parameter_count() == pair.torch.parameter_count()
    lengths, clipped = set(), 0
    for step in range(20):
        with compilations() as compiled:
            theirs = take(pair.jax, pair, step)
        assert len(compiled) == (step == 0)  # whatever L_int
        ours = take(pair.torch, pair, step)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():  # a term may be small beside the loss it is part of
            assert abs(theirs[name] - value) < 1e-5 * max(ours["loss"], value), (step, name)
        for weights in weights_of(pair):
            assert_same_weights(*weights, step + 1)
        lengths.add(pair.made.trainer.exits(pair.run.architecture, stream(pair.run.dataset, 0, "exits", step)))
        clipped += ours["gradient_norm"] > pair.run.optimisation.gradient_clip
    assert len(lengths) == {"elt": 2, "random-loops": 3}.get(trainer, 1)
    assert clipped > 0


@pytest.mark.slow
def test_new_loop_counts_do_not_compile_and_equal_torchs(tmp_path):
    pair = pair_of(RUNS["universal-transformer"], tmp_path)
    batch = pair.jax.upload(pair.batch())
    pair.jax.predict(batch, (1, 2))
    with compilations() as compiled:
        for exits in ((1, 3), (4, 9), (2, 17)):
            pair.jax.predict(batch, exits)
    assert not compiled
    for ours, theirs in pair.predictions((2, 17)):
        assert relative(ours[0], theirs[0]) < 1e-5


@pytest.mark.slow
def test_the_loss_is_not_waited_for(tmp_path):
    pair = pair_of(RUNS["elt"], tmp_path)
    values = pair.jax.step(pair.batch(), (1, 3), 0.0, RATE)
    assert all(isinstance(value, jax.Array) and value.shape == () for value in values.values())


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["elt", "random-loops"])
def test_checkpoints_cross_over_both_ways_and_training_goes_on(trainer, tmp_path):
    """Moments, average and the step of both bias corrections included: all enter the next steps."""
    pair = pair_of(RUNS[trainer], tmp_path)
    for engine in pair.engines:
        for step in range(3):
            take(engine, pair, step)
    pair.jax.save(tmp_path / "from jax", 3)
    pair.torch.save(tmp_path / "from torch", 3)
    there, back = (load_file(tmp_path / folder / CHECKPOINT) for folder in ("from jax", "from torch"))
    assert {name: array.shape for name, array in there.items()} == {name: array.shape for name, array in back.items()}
    crossed = pair._replace(torch=build_engine(pair.run), jax=build_engine(replace(pair.run, backend="jax")))
    assert crossed.torch.load(tmp_path / "from jax") == crossed.jax.load(tmp_path / "from torch") == 3
    for step in range(3, 6):
        losses = [take(engine, each, step)["loss"] for each in (pair, crossed) for engine in each.engines]
        assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    for each in (crossed, crossed._replace(torch=pair.torch), crossed._replace(jax=pair.jax)):
        for weights in weights_of(each):
            assert_same_weights(*weights, 6)


@pytest.mark.slow
def test_a_run_resumed_in_its_middle_ends_bit_identical_to_an_uninterrupted_one(tmp_path):
    run = replace(RUNS["elt"], backend="jax")

    def stop(done, _):
        if done >= 8:
            raise InterruptedError

    fit(run, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        fit(run, tmp_path / "resumed", stop)
    kept = load_file(tmp_path / "resumed" / CHECKPOINT)  # of step 5; steps 6 to 8 are lost
    fit(run, tmp_path / "resumed")
    whole, resumed = (load_file(tmp_path / name / CHECKPOINT) for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(array, resumed[name]) for name, array in whole.items())
    assert any(not np.array_equal(array, kept[name]) for name, array in whole.items())


@pytest.mark.slow
def test_snapshots_cross_over_both_ways(tmp_path):
    pair = pair_of(RUNS["elt"], tmp_path)
    for engine in pair.engines:
        take(engine, pair, 0)
        engine.save_snapshot(tmp_path / type(engine).__name__, 1)
    crossed = pair._replace(torch=build_engine(pair.run), jax=build_engine(replace(pair.run, backend="jax")))
    crossed.torch.load_snapshot(tmp_path / "JaxEngine", 1)
    crossed.jax.load_snapshot(tmp_path / "TorchEngine", 1)
    for engine, other in zip(pair.engines, reversed(crossed.engines), strict=True):
        for saved, loaded in zip(*(predicted(each, pair) for each in (engine, other)), strict=True):
            assert relative(saved, loaded) < 1e-5
    assert relative(predicted(pair.torch, pair)[0], predicted(build_engine(pair.run), pair)[0]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"sampler": "ddpm", "guidance_scale": 2.0}], ids=str)
def test_samplers_fed_the_same_draws_give_the_same_images(options, tmp_path):
    pair = pair_of(RUNS["elt"], tmp_path)
    models = [Model(replace(pair.run, backend=name), getattr(pair, name), pair.made) for name in ("torch", "jax")]
    labels = np.arange(4, dtype=np.int32)
    ours, theirs = (model.sample(labels, 5, seed=3, steps=4, **options) for model in models)
    assert relative(ours, theirs) < 1e-4  # four steps, each with the rounding of a call


@pytest.mark.slow
def test_samplers_fed_the_same_draws_give_the_same_tokens(tmp_path):
    pair = pair_of(RUNS["no-ilsd"], tmp_path)
    models = [Model(replace(pair.run, backend=name), getattr(pair, name), pair.made) for name in ("torch", "jax")]
    given = pair.made.dataset.heldout().select(slice(16))
    ours, theirs = (model.sample(given.labels, 5, seed=3, steps=4, given=given) for model in models)
    assert np.array_equal(ours, theirs)
    assert len(np.unique(ours)) > 1


@pytest.mark.slow
def test_a_recurrence_outlives_the_next_step(tmp_path):
    pair = pair_of(RUNS["elt"], tmp_path)
    recurrence = pair.jax.recurrence(pair.jax.upload(pair.batch()))
    before = np.asarray(recurrence.loop(recurrence.initial, 1))
    pair.jax.step(pair.batch(), (1, 3), 0.5, RATE)  # which gives its old weights away
    assert np.array_equal(recurrence.loop(recurrence.initial, 1), before)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_a_debiased_average_weighs_every_step_as_the_closed_form_does(decay, tmp_path):
    """w̄_t = Σ_k d^(t-k) (1 - d) w_k / (1 - d^t), at decays near 1 too, where float32 has few digits of 1 - d^t."""
    run = small_run("no-ilsd", "masked", optimisation={"ema_debias": True, "ema_decay": decay})
    engine, made, seen = build_engine(replace(run, backend="jax")), parts(run), []
    for step in range(4):
        batch, exits = draw(run, made, step)
        engine.step(batch, exits, 0.0, 1e-2)
        seen.append({name: np.asarray(leaf, np.float64) for name, leaf in named(engine.state.network).items()})
    share = [decay ** (3 - k) * (1 - decay) / (1 - decay**4) for k in range(4)]
    for name, averaged in named(engine.state.average).items():
        expected = sum(part * then[name] for part, then in zip(share, seen, strict=True))
        assert np.abs(np.asarray(averaged) - expected).max() < 1e-6
