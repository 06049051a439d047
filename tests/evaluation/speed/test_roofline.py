"""The roofline: its FLOPs and bytes are those that torch counts, and its three regimes come out as by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from eltbench import accounting
from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec
from eltbench.evaluation.speed.roofline import (
    Ceilings,
    Shape,
    block_bytes,
    ceilings_from_dict,
    kernels,
    predict,
    rate_at,
)

TOKENS = DataSpec("tokens", (4, 4), vocabulary=32, classes=5)
LATENTS = DataSpec("continuous", (4, 4), channels=3, classes=5)
LOOPED = Architecture(unique_layers=2, max_loops=3, width=32, heads=4, block="bert", patch=1)
UNIQUE = Architecture(unique_layers=6, max_loops=1, width=32, heads=4, block="bert", patch=1)
CASES = {
    "looped bert": (NetworkSpec(LOOPED, "looped", TOKENS, False), 3),
    "unique bert": (NetworkSpec(UNIQUE, "unique", TOKENS, False), 1),
    "looped dit": (NetworkSpec(Architecture(3, 2, width=32, heads=2, patch=1), "looped", LATENTS, True), 2),
    "unique dit": (NetworkSpec(Architecture(5, 1, width=64, heads=2, patch=2), "unique", LATENTS, True), 1),
}


class Weights(TorchDispatchMode):
    """Values of weights and biases that linear maps read."""

    def __init__(self):
        super().__init__()
        self.read = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        if operation is torch.ops.aten.addmm.default:
            bias, _, weight = arguments
            self.read += bias.numel() + weight.numel()
        return operation(*arguments, **(keywords or {}))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_flops_and_weights_of_the_kernels_are_those_that_torch_counts(case, batch):
    asked, loops = CASES[case]
    spec, timed = asked.data, asked.timed
    with torch.device("meta"):  # where fused attention is counted exactly
        network = Network(asked)
        shape = (batch, *spec.grid, spec.channels) if spec.kind == "continuous" else (batch, spec.tokens)
        inputs = torch.zeros(shape, dtype=torch.float32 if spec.kind == "continuous" else torch.int64)
        labels, level = torch.zeros(batch, dtype=torch.int64), torch.zeros(batch) if timed else None
    counter, weights = FlopCounterMode(display=False), Weights()
    with torch.no_grad(), weights, counter:
        network(inputs, labels, None, level, (loops,))
    found = kernels(asked, loops, batch)
    assert sum(kernel.times * kernel.shape.flops for kernel in found) == counter.get_total_flops()
    assert sum(kernel.times * kernel.weights for kernel in found) == weights.read


@pytest.mark.parametrize("case", CASES)
def test_flops_and_bytes_agree_with_the_closed_forms(case):
    call = CASES[case]
    found = kernels(*call, 3)
    assert sum(each.times * each.shape.flops for each in found) == 3 * accounting.flops(*call)
    moved = accounting.moved_bytes(*call, batch=3)
    assert sum(4 * each.times * each.weights for each in found) == moved["weights"]
    assert sum(4 * each.times * each.activations for each in found) == moved["activations"]
    looped = sum(4 * each.weights * call[0].architecture.unique_layers for each in found if each.looped)
    assert looped == block_bytes(call[0].architecture)


def machine(cache=10e6, near=100e9, far=10e9, rate=1e15, launch=0.0, waiting=1.0):
    """Bandwidth `near` below the cache's size and `far` above it; the same rate of arithmetic for every shape.

    waiting: times that a product takes longer where its weights come from beyond the cache.
    """
    step = [(1000, near), (int(cache), near), (int(cache) + 1, far), (10**12, far)]
    shapes = {kernel.shape for call in CASES.values() for batch in (1, 3) for kernel in kernels(*call, batch)}
    its = [(1, rate), (int(cache), rate), (int(cache) + 1, rate / waiting)]
    rates = {"fp32": {shape: its[:1] if shape.heads else its for shape in shapes}}
    return Ceilings("cpu", "made up", 1, 10**9, launch, {"fp32": rate}, rates, step, step, {"L1": 10, "L2": int(cache)})


def ratio(ceilings, by="roofline"):
    looped, unique = CASES["looped bert"], CASES["unique bert"]
    times = [sum(getattr(each, by) for each in predict(ceilings, *call)) for call in (looped, unique)]
    return times[1] / times[0]


def test_looping_gains_only_where_the_block_fits_and_the_layers_do_not():
    block, layers = block_bytes(LOOPED), block_bytes(UNIQUE)
    assert layers == 3 * block
    assert ratio(machine(cache=100 * layers)) == pytest.approx(1.0)  # all fits
    assert ratio(machine(cache=block / 2)) == pytest.approx(1.0)  # nothing does
    between = ratio(machine(cache=1.6 * block))
    assert 7 < between < 10 + 1e-9  # bandwidths are ten to one
    assert ratio(machine(cache=1.6 * block, rate=1e6)) == pytest.approx(1.0)  # compute decides
    assert ratio(machine(cache=1.6 * block, launch=1.0)) == pytest.approx(1.0)  # launches do


def test_products_that_wait_for_far_weights_give_the_same_three_regimes_where_bandwidth_does_not():
    block, layers = block_bytes(LOOPED), block_bytes(UNIQUE)
    regimes = {"fits": 100 * layers, "neither": block / 2, "spills": 1.6 * block}
    waiting = {name: machine(cache=cache, rate=1e9, waiting=4.0) for name, cache in regimes.items()}
    assert {name: round(ratio(its), 6) for name, its in waiting.items()} == dict.fromkeys(regimes, 1.0)
    assert ratio(waiting["fits"], "seconds") == pytest.approx(1.0)
    assert ratio(waiting["neither"], "seconds") == pytest.approx(1.0)
    looped, unique = (predict(waiting["spills"], *CASES[name]) for name in ("looped bert", "unique bert"))
    assert {each.bound for each in looped} == {"compute"}
    assert {each.bound for each in unique if each.kernel.weights} == {"memory"}
    attention, products = (
        sum(each.seconds for each in looped if bool(each.kernel.weights) == with_weights)
        for with_weights in (False, True)
    )
    assert sum(each.seconds for each in unique) == pytest.approx(attention + 4 * products)


def test_the_first_loop_of_a_call_reads_what_the_call_before_left():
    loops, waiting = 3, 4.0
    alive = accounting.peak_bytes(*CASES["looped bert"])
    between = machine(cache=block_bytes(LOOPED) + alive + 1, rate=1e9, waiting=waiting)  # a block fits, a call does not
    roomy = machine(cache=1e12, rate=1e9)
    for found, plain in zip(*(predict(its, *CASES["looped bert"]) for its in (between, roomy)), strict=True):
        times = (loops - 1 + waiting) / loops if found.kernel.looped else waiting
        assert found.seconds == pytest.approx((times if found.kernel.weights else 1.0) * plain.seconds)


def test_a_weight_larger_than_the_cache_waits_for_memory_though_it_is_alone():
    found = predict(machine(cache=1000.0, rate=1e9), *CASES["looped bert"])
    assert {each.kernel.part: each.bound for each in found} == {
        each.kernel.part: "memory" if 4 * each.kernel.weights > 1000 else "compute" for each in found
    }


def test_modulation_made_in_every_loop_is_read_in_every_loop_and_lives_with_the_block():
    network, loops = CASES["looped dit"]
    parts = {each.part: each for each in kernels(network, loops, hoisted=False)}
    once = {each.part: each for each in kernels(network, loops)}
    assert (parts["modulation"].times, parts["modulation"].looped) == (loops * once["modulation"].times, True)
    assert {name: each for name, each in parts.items() if name != "modulation"} == {
        name: each for name, each in once.items() if name != "modulation"
    }
    level = machine(cache=1e9, near=1e9, rate=1e18)
    hoisted, unhoisted = (
        sum(each.roofline for each in predict(level, network, loops, hoisted=made_once)) for made_once in (True, False)
    )
    width = network.architecture.width  # one vector in, six out
    read_again = 4 * (once["modulation"].weights + 7 * width) * once["modulation"].times * (loops - 1)
    assert unhoisted - hoisted == pytest.approx(read_again / 1e9)


def test_in_the_textbook_a_kernel_takes_the_longest_of_its_three_terms():
    found = predict(machine(cache=1e9, near=1e9, rate=1e9), *CASES["looped bert"])
    by_part = {each.kernel.part: each for each in found}
    map_ = by_part["queries, keys, values"]  # 17 vectors: 34 FLOPs a weight of four bytes
    assert map_.bound == "compute"
    assert (map_.roofline, map_.seconds) == pytest.approx((6 * 2 * 17 * 32 * 96 / 1e9,) * 2)
    memory = predict(machine(cache=1e9, near=1e9, rate=1e12), *CASES["looped bert"])
    assert memory[0].roofline == pytest.approx(6 * 4 * (33 * 96 + 17 * (32 + 96)) / 1e9)
    assert memory[0].seconds == pytest.approx(6 * 2 * 17 * 32 * 96 / 1e12)  # measured at no less than that in place
    launched = predict(machine(launch=1.0), *CASES["looped bert"])
    assert {each.bound for each in launched} == {"launch"}
    assert sum(each.seconds for each in launched) == pytest.approx(6 * 5 + 1)
    assert sum(each.roofline for each in launched) == pytest.approx(6 * 5 + 1)
    free = predict(machine(launch=1.0), *CASES["looped bert"], launch=False)
    assert sum(each.roofline for each in free) < 1


def test_a_rate_lies_between_measured_sizes_and_level_beyond_them():
    ladder = [(100, 8.0), (10_000, 2.0)]
    assert rate_at(ladder, 1000) == pytest.approx(4.0)
    assert rate_at(ladder, 1) == 8.0
    assert rate_at(ladder, 10**9) == 2.0
    assert rate_at(ladder, 100) == 8.0
    with pytest.raises(ValueError, match="empty"):
        rate_at([], 1)


def test_ceilings_survive_json():
    made = machine()
    assert ceilings_from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert made.cache == 10_000_000


def test_a_shape_without_a_rate_and_a_network_that_is_not_timed_are_refused():
    with pytest.raises(ValueError, match=r"no rate was measured for .* in bf16"):
        predict(machine(), *CASES["looped bert"], precision="bf16")
    with pytest.raises(ValueError, match="plain looped and unique-depth networks, given universal"):
        kernels(NetworkSpec(LOOPED, "universal", TOKENS, False), 3)
    assert Shape(2, 3, 5).flops == 60
