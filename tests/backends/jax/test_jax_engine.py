"""The JAX engine's own contracts: cost, start, precision, refusals, dynamics."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jaxpr_macs import macs, products
from two_backends import CASES, pair_of, relative, small_run

from eltbench import accounting, backends
from eltbench.backends.jax.blocks import Linear
from eltbench.backends.jax.engine import JaxEngine, objective
from eltbench.backends.jax.initialisation import named
from eltbench.backends.jax.network import in_precision
from eltbench.core.streams import stream
from eltbench.trainers.elt import ELT
from eltbench.training.loop import build_engine, parts

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def engine_of(run, device: str = "cpu") -> JaxEngine:
    engine = build_engine(replace(run, backend="jax", device=device))
    assert isinstance(engine, JaxEngine)
    return engine


def batch_of(run, step: int = 0):
    made = parts(run)
    clean = made.dataset.batch(stream(run.dataset, 0, "batch", step), 4)
    return made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, 0, "corruption", step))


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "task", "block"), CASES)
def test_the_closed_form_counts_what_the_program_computes(trainer, task, block):
    injected, conditioned = block == "dit" or trainer == "deq", task == "diffusion" and trainer != "deq"
    run = small_run(
        trainer,
        task,
        block=block,
        loop_conditioning=conditioned,
        input_injection=injected,
        loop_adapter_rank=2 if trainer in ("elt", "universal-transformer") else 0,
    )
    made, loops = parts(run), run.architecture.max_loops
    network, batch = engine_of(run).state.network, batch_of(run)
    exits = np.arange(max(1, loops - 1), loops + 1, dtype=np.int32)
    spec = made.network
    expected = accounting.macs(spec, loops, len(exits))
    if spec.depth == "universal":  # the loop's body ends with the halting, also in the last loop without need
        expected += spec.length * run.architecture.width
    further = 0  # damped steps from every exit, while training
    if network.solver is not None:
        one, two = (accounting.macs(spec, each) for each in (1, 2))
        further = len(exits) * network.solver.phantom_steps * (two - one)
    for call, extra in ((network.infer, 0), (lambda *given: network.train(*given, loops=loops), further)):
        traced = jax.make_jaxpr(lambda exits, call=call: call(batch, exits, ("prediction",)))(exits)
        assert macs(traced.jaxpr, loops) == (expected + extra) * len(batch.labels)
    assert sum(accounting.parameters(spec).values()) == engine_of(run).parameter_count()


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "task", "block"), CASES)
def test_the_closed_form_counts_a_training_step(trainer, task, block):
    injected, conditioned = block == "dit" or trainer == "deq", block == "dit" and trainer not in ("deq", "trm")
    run = small_run(trainer, task, block=block, input_injection=injected, loop_conditioning=conditioned)
    made, engine, batch = parts(run), engine_of(run), batch_of(run)
    architecture, depth, loops = run.architecture, made.trainer.depth, run.architecture.max_loops
    exits = engine.recipe.passes(made.trainer.exits(architecture, np.random.default_rng(0)))
    expected = sum(sum(accounting.step_flops(made.network, loops, len(read)).values()) for read, _ in exits) // 2
    length = made.network.length
    if depth == "universal":  # the last loop ends with a halting that nothing needs
        expected += 3 * length * architecture.width
    if depth == "unique" and architecture.input_injection:  # nor does anything need the injection: torch leaves out
        expected += 2 * length * architecture.width**2  # its backward pass
    step = jax.make_jaxpr(jax.grad(lambda network: objective(network, engine.recipe, batch, exits, 0.5)[0]))
    assert macs(step(engine.state.network).jaxpr, loops) == expected * len(batch.labels)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["elt", "universal-transformer"])
@pytest.mark.parametrize(("task", "block"), [("diffusion", "dit"), ("masked", "bert")])
def test_every_weight_starts_from_the_distribution_of_torchs(trainer, task, block):
    run = small_run(trainer, task, block=block, width=64, heads=4, input_injection=True, loop_adapter_rank=8)
    ours = dict(build_engine(run).network.named_parameters())
    theirs = named(engine_of(run).state.network)
    assert ours.keys() == theirs.keys()
    for name, expected in ours.items():
        expected, given = expected.detach().numpy(), np.asarray(theirs[name])
        assert given.shape == expected.shape
        if expected.std() == 0 or name == "injection.weight":
            assert np.array_equal(given, expected), name
        else:  # a standard deviation from n draws is known to 1/sqrt(2n)
            assert given.std() == pytest.approx(expected.std(), rel=5 / np.sqrt(given.size)), name
            assert np.abs(given).max() == pytest.approx(np.abs(expected).max(), rel=0.3), name


def test_the_seed_decides_the_weights():
    first, again, other = (
        np.asarray(engine_of(replace(small_run(), seed=seed)).state.network.blocks[0].mlp.expand.weight)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@dataclass(frozen=True)
class Watching(ELT):
    """ELT that remembers the types of its outputs and terms."""

    def objective(self, outputs, batch, progress, task, ops):
        terms = super().objective(outputs, batch, progress, task, ops)
        seen.update(str(output.prediction.dtype) for output in outputs)
        seen.update(str(term.dtype) for term in terms.values())
        return terms


seen: set[str] = set()


def test_the_gradient_of_a_bias_in_bf16_is_summed_in_fp32():
    """Summed in bf16, 65,536 ones over items, rows and columns come to 1,024."""
    linear = jax.tree.map(lambda shape: jnp.zeros(shape.shape, jnp.bfloat16), Linear(4, 1))
    summed = jax.jit(jax.grad(lambda linear, x, weights: (linear(x) * weights).sum(dtype=jnp.float32)))
    gradient = summed(linear, jnp.zeros((64, 64, 16, 4), jnp.bfloat16), jnp.ones((64, 64, 16, 1), jnp.bfloat16))
    assert float(gradient.bias[0]) == 65_536


@pytest.mark.slow
def test_bf16_computes_products_in_bf16_and_weights_and_losses_in_fp32(tmp_path):
    pair = pair_of(small_run(precision="bf16"), tmp_path)
    batch, network = pair.batch(), in_precision(pair.jax.state.network, "bf16")
    traced = jax.make_jaxpr(lambda: network.infer(batch, np.array([2], np.int32), ("prediction",)))()
    kinds = {str(operand.aval.dtype) for product, _ in products(traced.jaxpr, 1) for operand in product.invars}
    assert kinds == {"bfloat16"}
    for ours, theirs in pair.predictions((2, 5)):
        assert ours[0].dtype == theirs[0].dtype == np.float32
        assert 0 < relative(ours[0], theirs[0]) < 0.02  # bfloat16 keeps 8 bits

    engine = JaxEngine(replace(pair.run, backend="jax"), pair.made.network, Watching(), pair.made.task)
    engine.load(tmp_path / "both")
    mine, other = (each.step(batch, (2, 3), 0.5, 1e-3) for each in (pair.torch, engine))
    assert seen == {"float32"}
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(engine.state) if leaf.ndim)
    assert float(other["loss"]) == pytest.approx(float(mine["loss"]), rel=0.01)


@pytest.mark.slow
def test_an_unrolled_step_is_the_same_step(tmp_path):
    pair = pair_of(small_run(), tmp_path)
    unrolled = engine_of(replace(pair.run, compile=True))
    unrolled.load(tmp_path / "both")
    plain, other = (engine.step(pair.batch(), (1, 3), 0.5, 1e-3) for engine in (pair.jax, unrolled))
    for name, value in plain.items():
        assert float(other[name]) == pytest.approx(float(value), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "task", "block"), [("elt", "diffusion", "dit"), ("elt", "masked", "bert")])
def test_the_recurrence_is_the_loop_of_predict_and_its_jacobian_torchs(trainer, task, block, tmp_path):
    pair = pair_of(small_run(trainer, task, block=block, input_injection=True), tmp_path)
    ours, theirs = (engine.recurrence(engine.upload(pair.batch())) for engine in pair.engines)
    state, there = ours.loop(ours.initial, 1), theirs.loop(theirs.initial, 1)
    ((_, output),) = pair.predictions((2,), ("prediction", "state"))
    looped = theirs.loop(there, 2)
    assert relative(output[0], np.asarray(theirs.read(looped))) < 1e-5
    assert relative(output[1], np.asarray(looped)[:, -output[1].shape[1] :]) < 1e-5
    vector = np.random.default_rng(0).standard_normal(state.shape).astype(np.float32)
    expected = ours.jacobian(state, 2)(torch.tensor(vector)).numpy()
    assert relative(expected, np.asarray(theirs.jacobian(there, 2)(theirs.initial * 0 + vector))) < 1e-5


# Bad input


@pytest.mark.parametrize("exits", [(), (0, 3), (2, 2), (3, 1)])
def test_impossible_exits_are_refused_on_the_host(exits):
    engine = engine_of(small_run())
    with pytest.raises(ValueError, match="exits: "):
        engine.step(batch_of(small_run()), exits, 0.5, 1e-3)
    with pytest.raises(ValueError, match="exits: "):
        engine.predict(engine.upload(batch_of(small_run())), exits)


def test_exits_that_a_gather_would_clamp_are_refused():
    with pytest.raises(ValueError, match=r"a training step ends at max_loops = 3, given \[1, 4\]"):
        engine_of(small_run()).step(batch_of(small_run()), (1, 4), 0.5, 1e-3)
    unique = engine_of(small_run("unique-depth"))
    with pytest.raises(ValueError, match="ends at exit 1"):
        unique.predict(unique.upload(batch_of(small_run("unique-depth"))), (2,))


def test_fields_that_no_exit_has_are_refused():
    engine = engine_of(small_run())
    with pytest.raises(ValueError, match="fields must be among"):
        engine.predict(engine.upload(batch_of(small_run())), (1,), ("logits",))


def test_an_index_beyond_its_table_gives_nan_and_not_its_neighbours_row(tmp_path):
    pair = pair_of(small_run("elt", "masked", block="bert"), tmp_path)
    batch = pair.batch()
    batch.inputs[1, 0] = 5  # 4 colours and the mask
    (output,) = pair.jax.predict(pair.jax.upload(batch), (1,))
    assert np.isnan(output.prediction).all(axis=(1, 2)).tolist() == [False, True, False, False]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", "meta", ""])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(device):
    with pytest.raises(ValueError, match=r"known: cpu"):
        engine_of(small_run(), device)


@pytest.mark.parametrize("missing", ["jax", "equinox", "optax"])
def test_without_its_libraries_the_backend_names_the_extra_to_install(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    for ask in (backends.registry.check, backends.get):
        with pytest.raises(ValueError, match=rf"backend 'jax' needs {missing}, .*pip install 'eltbench\[jax\]'"):
            ask("jax")
    with pytest.raises(ValueError, match=r"pip install 'eltbench\[jax\]'"):
        parts(replace(small_run(), backend="jax"))  # before anything is trained
    backends.registry.check("torch")


def test_arrays_survive_the_way_to_the_device_and_back():
    engine = engine_of(small_run())
    batch = batch_of(small_run())
    uploaded = engine.upload(batch)
    inputs = batch.inputs.copy()
    batch.inputs[:] = 0  # the upload is a copy
    assert np.array_equal(engine.numpy(uploaded.inputs), inputs)
    assert uploaded.context is None
    assert engine.numpy(uploaded.labels).dtype == np.int32
    assert engine.numpy(uploaded.inputs.astype("bfloat16")).dtype == np.float32
