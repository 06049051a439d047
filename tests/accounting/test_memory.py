"""The closed forms of activation bytes equal what torch keeps for its backward pass and has alive during a call."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_architectures import CONTINUOUS, TOKENS, Call, calls, prepared
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eltbench import accounting
from eltbench.accounting import NetworkSpec
from eltbench.core.config import Architecture


class Kept:
    """What autograd holds in place of a tensor; it goes when the graph lets it go."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.detach()


class Trace(TorchDispatchMode):
    """The storages that each operation reads and writes, with their bytes; none is freed, so addresses stay unique."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[dict[int, int]] = []
        self.alive: list[torch.Tensor] = []

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        tensors = [leaf for leaf in tree_leaves((arguments, keywords, result)) if isinstance(leaf, torch.Tensor)]
        self.alive += tensors
        self.operations.append(dict(map(storage, tensors)))
        return result


def storage(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()


def saved_by_autograd(call: Call, batch: int, dropped: torch.Tensor | None = None) -> int:
    """Bytes of the storages that the graph of the predictions holds, without weights, tables and the batch."""
    predict, held = prepared(call, batch)
    packed: list[weakref.ref[Kept]] = []

    def pack(tensor: torch.Tensor) -> Kept:
        kept = Kept(tensor)
        packed.append(weakref.ref(kept))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        outputs = predict() if dropped is None else predict(dropped=dropped)
    kept = dict(storage(it.tensor) for reference in packed if (it := reference()) is not None)
    assert outputs
    return sum(kept[place] for place in kept.keys() - dict(map(storage, held)).keys())


def largest_alive(call: Call, batch: int) -> int:
    """The most bytes alive at one operation: first used by then, and used by it or later."""
    predict, held = prepared(call, batch)
    with torch.no_grad(), Trace() as trace:
        (output,) = predict()
    given = dict(map(storage, held)).keys()
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    size: dict[int, int] = {}
    for index, used in enumerate(trace.operations):
        for place in used.keys() - given:
            first.setdefault(place, index)
            last[place], size[place] = index, used[place]
    last[storage(output.prediction)[0]] = len(trace.operations)
    alive = [
        sum(size[place] for place in size if first[place] <= index <= last[place])
        for index in range(len(trace.operations))
    ]
    return max(alive)


@pytest.mark.slow
@settings(max_examples=40, derandomize=True)
@given(calls().filter(lambda call: call.depth != "recursive"), st.integers(1, 3))
def test_activation_bytes_equal_what_autograd_saves(call, batch):
    parts = accounting.activation_bytes(call.network, call.exits[-1], len(call.exits), batch)
    assert sum(parts.values()) == saved_by_autograd(call, batch)


@pytest.mark.parametrize("norm", ["pre", "sandwich"])
@pytest.mark.parametrize(("depth", "block"), [("looped", "dit"), ("universal", "bert"), ("equilibrium", "dit")])
def test_activation_bytes_with_dropout_are_its_factors_more_whatever_the_loops(depth, block, norm):
    architecture = Architecture(unique_layers=3, width=8, heads=2, block=block, norm=norm, dropout=0.1)
    architecture = replace(architecture, input_injection=depth == "equilibrium")
    call, length = Call(architecture, depth, CONTINUOUS, True, (2, 3)), 8 + (block == "bert")
    dropped = torch.zeros(5, 3, 2, length, 8, dtype=torch.bool)
    parts = accounting.activation_bytes(call.network, 3, 2, batch=5)
    assert sum(parts.values()) == saved_by_autograd(call, 5, dropped)
    plain = call._replace(architecture=replace(architecture, dropout=0.0))
    assert sum(parts.values()) == saved_by_autograd(plain, 5) + 4 * dropped.numel()


@pytest.mark.slow
@settings(max_examples=40, derandomize=True)
@given(calls().filter(lambda call: call.depth not in ("equilibrium", "recursive")), st.integers(1, 3))
def test_peak_bytes_equal_the_most_that_torch_has_alive(call, batch):
    call = call._replace(exits=call.exits[-1:])
    assert accounting.peak_bytes(call.network, call.exits[-1], batch) == largest_alive(call, batch)


def test_the_peak_of_a_call_with_a_solver_is_refused():
    with pytest.raises(ValueError, match="counts no solver's history: expected another depth, given 'equilibrium'"):
        accounting.peak_bytes(NetworkSpec(Architecture(), "equilibrium", CONTINUOUS, True), 4)


@pytest.mark.parametrize("count", [accounting.peak_bytes, accounting.activation_bytes])
def test_activations_of_a_recursion_are_refused(count):
    with pytest.raises(ValueError, match=r"_bytes counts no latent state: expected another depth, given 'recursive'"):
        count(NetworkSpec(Architecture(), "recursive", TOKENS, False), 4)


def test_a_training_step_keeps_as_much_of_a_fixed_point_after_any_number_of_loops():
    architecture = Architecture(input_injection=True)
    kept = [
        accounting.activation_bytes(NetworkSpec(architecture, "equilibrium", TOKENS, False), loops)
        for loops in (1, 4, 64)
    ]
    assert kept[0] == kept[1] == kept[2]


def test_a_training_step_keeps_as_much_for_a_loop_as_for_unique_layers():
    looped, unique = Architecture(unique_layers=2, max_loops=4), Architecture(unique_layers=8, max_loops=1)
    kept = [
        accounting.activation_bytes(NetworkSpec(architecture, depth, CONTINUOUS, True), loops, batch=16)["layers"]
        for architecture, depth, loops in ((looped, "looped", 4), (unique, "unique", 1))
    ]
    assert kept[0] == kept[1]


def test_the_peak_of_a_call_does_not_grow_with_loops_but_what_a_step_keeps_does():
    architecture = Architecture(block="bert", max_loops=8)
    peaks = {accounting.peak_bytes(NetworkSpec(architecture, "looped", TOKENS, False), loops) for loops in (1, 2, 8)}
    kept = [
        accounting.activation_bytes(NetworkSpec(architecture, "looped", TOKENS, False), loops)["layers"]
        for loops in (1, 2, 3)
    ]
    assert len(peaks) == 1
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0


def test_a_bert_layer_keeps_sixteen_states():
    """By hand, MLP ratio 4: norm 1, its output 1, queries, keys and values 3, attention 1, norm 1, its output 1, MLP 8.

    Beside them four statistics and, per head, one log-sum a token; 13 tokens with the condition's.
    """
    one, two = (
        sum(
            accounting.activation_bytes(
                NetworkSpec(
                    Architecture(unique_layers=layers, width=16, heads=2, block="bert"), "looped", TOKENS, False
                ),
                1,
            ).values()
        )
        for layers in (1, 2)
    )
    assert two - one == 4 * 13 * (16 * 16 + 4 + 2)


@pytest.mark.parametrize("count", [accounting.activation_bytes, accounting.peak_bytes])
def test_impossible_calls_are_refused(count):
    with pytest.raises(ValueError, match="loops must be at least 1, given 0"):
        count(NetworkSpec(Architecture(), "looped", CONTINUOUS, True), 0)
    with pytest.raises(ValueError, match="batch must be at least 1, given 0"):
        count(NetworkSpec(Architecture(), "looped", CONTINUOUS, True), 2, batch=0)
