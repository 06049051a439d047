"""In bf16 inference converts weights once, and gives the numbers of autocast on the float32 average."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eltbench.backends.torch.precision import converted
from eltbench.backends.torch.steps import TorchSteps
from eltbench.core.config import Architecture, Run
from eltbench.tasks.base import ExitOutput
from eltbench.training.loop import build_engine, parts

LOOPED = {"unique_layers": 2, "max_loops": 3}
CASES = {
    "dit": ("elt", LOOPED),
    "bert": ("elt", LOOPED | {"block": "bert"}),
    "dit, sandwich": ("no-ilsd", LOOPED | {"norm": "sandwich"}),
    "bert, sandwich": ("deep-supervision", LOOPED | {"block": "bert", "norm": "sandwich"}),
    "dit, injection and embedding": ("random-loops", LOOPED | {"input_injection": True, "loop_embedding": True}),
    "bert, injection, near": ("elt", LOOPED | {"block": "bert", "input_injection": True, "attention_radius": 1}),
    "dit, conditioning": ("elt", LOOPED | {"loop_conditioning": True}),
    "bert, conditioning": ("elt", LOOPED | {"block": "bert", "loop_conditioning": True, "loop_embedding": True}),
    "dit, adapters": ("elt", LOOPED | {"loop_adapter_rank": 2}),
    "bert, adapters": ("elt", LOOPED | {"block": "bert", "loop_adapter_rank": 3}),
    "dit, prelude, coda, rotary": ("elt", LOOPED | {"prelude": 1, "coda": 1, "positions": "rotary"}),
    "bert, recall inside": ("elt", LOOPED | {"block": "bert", "input_injection": True, "recall": "inside"}),
    "dit, unique": ("unique-depth", {"unique_layers": 4, "max_loops": 1}),
    "bert, unique": ("unique-depth", {"unique_layers": 4, "max_loops": 1, "block": "bert"}),
    "dit, universal": ("universal-transformer", LOOPED),
    "bert, universal": ("universal-transformer", LOOPED | {"block": "bert"}),
    "dit, equilibrium": ("deq", LOOPED | {"input_injection": True}),
    "bert, equilibrium": ("deq", LOOPED | {"block": "bert", "input_injection": True}),
}
EVERYTHING = ExitOutput._fields
cases = pytest.mark.parametrize("case", CASES)


def tiny(case, *, precision="bf16", compile=False):
    """An engine whose weights are all away from their (partly zero) start, and an uploaded batch for it."""
    trainer, shape = CASES[case]
    masked = shape.get("block") == "bert"
    architecture = Architecture(**{"width": 32, "heads": 2, **shape})
    task, dataset = ("masked", "digits-codes") if masked else ("diffusion", "digits")
    run = Run(trainer, task, dataset, architecture=architecture, precision=precision, compile=compile)
    made = parts(run)
    engine = build_engine(run, made)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for ours, theirs in zip(engine.network.parameters(), engine.average.module.parameters(), strict=True):
            ours.add_(0.2 * torch.randn(ours.shape, generator=generator))
            theirs.copy_(ours)
    return engine, engine.upload(host_batch(made))


def host_batch(made, items=5):
    clean = made.dataset.heldout().select(slice(items))
    (batch,) = made.task.heldout(clean, made.dataset.spec, np.random.default_rng(0), 1)
    return batch


def exits_of(engine):
    return (1,) if engine.network.depth == "unique" else (1, 2, 5)


def under_autocast(engine, batch, exits, network=None):
    """What autocast makes of the averaged weights, or of another network."""
    given = batch.inputs, batch.labels, batch.context, batch.log_snr
    with torch.inference_mode(), engine.autocast():
        return (network or engine.average.module)(*given, exits, EVERYTHING)


def same(outputs, expected):
    """Whether all fields are there in both or in neither, and equal to the last bit."""
    for one, other in zip(outputs, expected, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            if (ours is None) != (theirs is None) or (ours is not None and not torch.equal(ours, theirs.float())):
                return False
    return True


class Conversions(TorchDispatchMode):
    """Counts operations that make another floating type of a parameter of these networks, or of a part of one."""

    def __init__(self, *networks):
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for network in networks for p in network.parameters()}
        self.found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        given = args[0] if args else None
        if isinstance(given, torch.Tensor) and isinstance(made, torch.Tensor):
            weight = given.untyped_storage().data_ptr() in self.weights
            self.found += weight and {given.dtype, made.dtype} == {torch.float32, torch.bfloat16}
        return made


# The numbers


@pytest.mark.slow
@cases
def test_every_exit_equals_autocast_on_the_float32_average_to_the_last_bit(case):
    engine, batch = tiny(case)
    exits = exits_of(engine)
    outputs = engine.predict(batch, exits, EVERYTHING)
    assert same(outputs, under_autocast(engine, batch, exits))
    assert all(output.prediction.isfinite().all() for output in outputs)
    assert all(parameter.dtype == torch.float32 for parameter in engine.average.parameters())


@pytest.mark.slow
@cases
def test_a_pass_taken_loop_by_loop_equals_autocast_on_the_float32_average_to_the_last_bit(case):
    engine, batch = tiny(case)
    ours, expected = engine.steps(batch), TorchSteps(engine.average.module, batch, engine.autocast)
    assert torch.equal(ours.initial, expected.initial)
    for loop in range(1, exits_of(engine)[-1] + 1):
        assert same([ours.advance(EVERYTHING)], [expected.advance(EVERYTHING)])
        if loop == 2:
            ours.keep(np.array([0, 3]))
            expected.keep(np.array([0, 3]))


@pytest.mark.parametrize("case", ["dit, adapters", "bert, universal"])
def test_float32_is_computed_on_the_average_itself_without_a_copy(case):
    engine, batch = tiny(case, precision="fp32")
    called = []
    engine.average.module.register_forward_hook(lambda *_: called.append(1))
    assert same(engine.predict(batch, (2,), EVERYTHING), under_autocast(engine, batch, (2,)))
    assert len(called) == 2
    assert engine.steps(batch)._network is engine.average.module
    assert engine.converted._copy is None


@pytest.mark.parametrize("case", ["dit", "bert, equilibrium"])
def test_the_recurrence_stays_in_float32(case):
    engine, batch = tiny(case)
    plain, _ = tiny(case, precision="fp32")
    engine.predict(batch, (1,))
    ours, expected = engine.recurrence(batch), plain.recurrence(batch)
    assert torch.equal(ours.loop(ours.initial, 1), expected.loop(expected.initial, 1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's tracer raises it and hides it itself
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler on PATH")
@pytest.mark.parametrize("case", ["dit", "bert, adapters"])
def test_compiled_blocks_give_the_numbers_of_autocast_on_compiled_blocks(case):
    engine, batch = tiny(case, compile=True)
    for exits in ((1,), (2, 5)):
        assert same(engine.predict(batch, exits, EVERYTHING), under_autocast(engine, batch, exits))


@pytest.mark.slow
def test_blocks_of_the_copy_are_compiled_where_the_run_s_are():
    for compile in (False, True):
        engine, _ = tiny("dit", compile=compile)
        assert all((block._compiled_call_impl is not None) == compile for block in engine.averaged().blocks)


# Conversions


@pytest.mark.slow
@cases
def test_no_weight_is_converted_in_a_second_call(case):
    engine, batch = tiny(case)
    exits = exits_of(engine)
    engine.predict(batch, (1,))
    with Conversions(engine.average.module, engine.averaged()) as conversions:
        engine.predict(batch, exits, EVERYTHING)
        engine.steps(batch).advance(EVERYTHING)
    assert conversions.found == 0
    with Conversions(engine.average.module) as conversions:
        under_autocast(engine, batch, exits)
    loops, layers = exits[-1], engine.run.architecture.unique_layers
    assert conversions.found >= 4 * 2 * layers * loops  # weights and biases of the four maps of each layer


def test_all_that_is_converted_is_weights_of_linear_maps():
    engine, _ = tiny("bert, adapters")
    network = engine.averaged()
    kept = {name for name, parameter in network.named_parameters() if parameter.dtype == torch.float32}
    assert kept
    assert all("norm" in name or "embedding" in name or "labels" in name for name in kept)


# Weights that change


def fresh(engine, batch, exits):
    """Autocast's numbers from a network that was converted just now, from the average of just now."""
    assert same(engine.predict(batch, exits, EVERYTHING), under_autocast(engine, batch, exits))
    return engine.predict(batch, exits)[-1].prediction


@pytest.mark.parametrize("case", ["dit, adapters", "bert, universal"])
def test_after_a_step_predictions_are_those_of_the_new_average(case):
    engine, batch = tiny(case)
    exits, host = exits_of(engine), host_batch(parts(engine.run), 8)
    found = [fresh(engine, batch, exits)]
    for _ in range(3):  # the first sets the average to the weights, later ones move it
        engine.step(host, exits[:2], 0.5, 1e-2)
        found.append(fresh(engine, batch, exits))
    assert all(not torch.equal(one, next) for one, next in itertools.pairwise(found))


def test_after_loading_predictions_are_those_of_what_was_loaded(tmp_path):
    engine, batch = tiny("dit")
    host = host_batch(parts(engine.run), 8)
    engine.step(host, (1, 3), 0.5, 1e-2)
    engine.save(tmp_path, 1)
    engine.save_snapshot(tmp_path, 1)
    expected = fresh(engine, batch, (3,))
    engine.step(host, (1, 3), 0.5, 1e-2)
    moved = fresh(engine, batch, (3,))
    assert not torch.equal(moved, expected)
    engine.load(tmp_path)
    assert torch.equal(fresh(engine, batch, (3,)), expected)
    engine.step(host, (1, 3), 0.5, 1e-2)
    assert torch.equal(fresh(engine, batch, (3,)), moved)
    engine.load_snapshot(tmp_path, 1)
    assert torch.equal(fresh(engine, batch, (3,)), expected)


@pytest.mark.parametrize("inference", [False, True])
def test_weights_that_others_write_into_the_average_are_noticed(inference):
    engine, batch = tiny("dit")
    before = fresh(engine, batch, (2,))
    with torch.inference_mode(inference), torch.no_grad():
        engine.average.module.blocks[1].mlp.contract.weight.add_(0.1)
    assert not torch.equal(fresh(engine, batch, (2,)), before)


def test_one_copy_serves_all_weights_that_the_average_ever_has():
    engine, batch = tiny("dit")
    network = engine.averaged()
    engine.step(host_batch(parts(engine.run), 8), (1, 3), 0.5, 1e-2)
    with torch.inference_mode():
        assert engine.averaged() is network
    assert engine.steps(batch)._network is network


def test_converted_in_place_adapters_give_the_numbers_of_adapters_converted_in_every_loop():
    engine, batch = tiny("dit, adapters")
    expected = under_autocast(engine, batch, (1, 5))
    converted(engine.network)
    assert same(under_autocast(engine, batch, (1, 5), engine.network), expected)


def test_a_pass_in_float32_and_one_in_bf16_differ():
    engine, batch = tiny("bert")
    plain, _ = tiny("bert", precision="fp32")
    one, other = engine.predict(batch, (3,))[0].prediction, plain.predict(batch, (3,))[0].prediction
    assert 0 < float((one - other).abs().max()) < 0.1 * float(other.abs().max())
    assert replace(engine.run, precision="fp32") == plain.run
