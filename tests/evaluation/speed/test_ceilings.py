"""Measuring ceilings: fake probes on a clock of their own, and what the system's files say."""

from __future__ import annotations

import pytest

from eltbench.backends.torch.probes import TorchProbes
from eltbench.evaluation.speed import ceilings
from eltbench.evaluation.speed.roofline import Shape

NEAR, FAR, CACHE = 100e9, 10e9, 2**20
RATE = 1e12


class Probes:
    """An asynchronous machine with one cache, whose first call of anything takes ten times as long."""

    def __init__(self, stutter=1.0, overhead=0.0):
        self.now, self.queued, self.stutter, self.overhead = 0.0, 0.0, stutter, overhead

    def _call(self, seconds):
        calls = 0

        def run():
            nonlocal calls
            calls += 1
            self.queued += seconds * (10 if calls == 1 else 1) * (self.stutter if calls % 7 == 0 else 1) + self.overhead

        return run

    def product(self, vectors, inputs, outputs, precision, weights=1):
        """Products whose weights come from beyond the cache take three times as long."""
        size = weights * (2 if precision == "bf16" else 4) * (inputs + 1) * outputs
        once = 2 * vectors * inputs * outputs / (RATE * (2 if precision == "bf16" else 1))
        return self._call(weights * once * (3 if weights > 1 and size > CACHE else 1))

    def attention(self, items, tokens, width, heads, precision):
        return self._call(4 * items * tokens**2 * width / (RATE / 10))

    def read(self, size, times=1):
        return self._call(times * size / (NEAR if size <= CACHE else FAR))

    def copy(self, size):
        return self._call(2 * size / (NEAR if size <= CACHE else FAR))

    def launch(self):
        return self._call(5e-6)

    def repeated(self, call, times):
        """One launch for all calls, as a graph has; what a launch takes is not theirs."""

        def burst():
            for _ in range(times):
                call()
            self.queued -= times * self.overhead

        return burst

    def matmul(self):
        return "highest"

    def wait(self, last):
        self.now, self.queued = self.now + self.queued, 0.0

    def accelerator(self):
        return {"name": "fake", "memory": 8 * CACHE, "caches": {"L2": CACHE}}


def test_every_ceiling_is_that_of_the_machine():
    probes = Probes()
    shapes = {"fp32": [Shape(16, 32, 96), Shape(17, 32, 32, 4, 2), Shape(16, 4, 4)], "bf16": [Shape(16, 32, 96)]}
    found = ceilings.measure(probes, "cuda", 1, shapes, seconds=1e-6, clock=lambda: probes.now)
    assert found.peaks == pytest.approx({"fp32": RATE, "bf16": 2 * RATE})
    assert found.rates["fp32"][shapes["fp32"][1]] == [(0, pytest.approx(RATE / 10))]
    (tiny,) = found.rates["fp32"][Shape(16, 4, 4)]  # of so small a weight no set is measured
    assert tiny == (4 * 5 * 4, pytest.approx(RATE))
    for precision, rate, weight in (("fp32", RATE, 4 * 33 * 96), ("bf16", 2 * RATE, 2 * 33 * 96)):
        ladder = found.rates[precision][shapes[precision][0]]
        assert ladder[0] == (weight, pytest.approx(rate))
        assert [size for size, _ in ladder[1:]] == pytest.approx([share * CACHE for share in ceilings.SETS], rel=0.2)
        assert dict(ladder) == pytest.approx({size: rate if size <= CACHE else rate / 3 for size, _ in ladder})
    assert found.launch == pytest.approx(5e-6)
    assert dict(found.read) == pytest.approx({size: NEAR if size <= CACHE else FAR for size, _ in found.read})
    assert dict(found.copy) == pytest.approx({size: rate / 2 for size, rate in found.read})
    assert found.read[0][0] < CACHE < found.read[-1][0] == 8 * CACHE
    assert (found.name, found.cache, found.matmul) == ("fake", CACHE, "highest")


def test_a_spell_in_which_the_machine_stands_still_is_in_no_ceiling():
    class Stalled(Probes):
        """All calls of the first product that is asked for take a second longer."""

        stalled = False

        def product(self, vectors, inputs, outputs, precision, weights=1):
            call = super().product(vectors, inputs, outputs, precision, weights)
            if self.stalled or weights > 1 or vectors != 16:
                return call
            self.stalled = True
            return lambda: (call(), setattr(self, "queued", self.queued + 1.0))

    probes, shape = Stalled(), Shape(16, 32, 96)
    found = ceilings.measure(probes, "cuda", 1, {"fp32": [shape]}, seconds=1e-6, clock=lambda: probes.now)
    assert probes.stalled
    assert found.rates["fp32"][shape][0][1] == pytest.approx(RATE)


def test_a_shape_that_does_not_fit_into_memory_has_no_rate():
    class Short(Probes):
        def product(self, vectors, inputs, outputs, precision, weights=1):
            if inputs == 64:
                raise MemoryError("full")
            return super().product(vectors, inputs, outputs, precision, weights)

    shapes = {"fp32": [Shape(16, 32, 96), Shape(16, 64, 96), Shape(16, 10**4, 10**4)]}
    probes = Short()
    settings = {"seconds": 1e-6, "clock": lambda: probes.now}
    found = ceilings.measure(probes, "cuda", 1, shapes, **settings, lacks_memory=lambda error: "full" in str(error))
    assert list(found.rates["fp32"]) == shapes["fp32"][:1]
    with pytest.raises(MemoryError):
        ceilings.measure(probes, "cuda", 1, shapes, **settings)


def test_what_a_launch_takes_is_in_no_ceiling_but_its_own():
    probes = Probes(overhead=1e-3)
    found = ceilings.measure(probes, "cuda", 1, {"fp32": [Shape(16, 32, 96)]}, clock=lambda: probes.now)
    assert found.peaks["fp32"] == pytest.approx(RATE)
    assert found.rates["fp32"][Shape(16, 32, 96)][0][1] == pytest.approx(RATE, rel=1e-3)
    assert found.read[0][1] == pytest.approx(NEAR, rel=1e-3)
    assert found.launch == pytest.approx(1e-3 + 5e-6)


def test_the_ladder_has_two_steps_to_a_doubling():
    assert ceilings.ladder(2**30)[0] == 2**14
    assert ceilings.ladder(2**20, 2**18) == [
        2**18,
        pytest.approx(2**18.5, rel=1e-4),
        2**19,
        pytest.approx(2**19.5, rel=1e-4),
        2**20,
    ]


@pytest.mark.parametrize("largest", [0, 1, 2**18])
def test_a_tiny_cache_still_gives_an_ascending_ladder(largest):
    found = ceilings.ladder(largest, 2**18)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (2**18, 2**19)


def test_caches_are_read_from_the_system_and_instructions_left_out(tmp_path):
    for index, level, kind, size in ((0, 1, "Data", "32K"), (1, 1, "Instruction", "64K"), (2, 2, "Unified", "1M")):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    (tmp_path / "index3").mkdir()  # one that says nothing
    (tmp_path / "index4").mkdir()
    for name, text in (("level", 4), ("type", "Unified"), ("size", "0K")):  # of a virtual machine
        (tmp_path / "index4" / name).write_text(f"{text}\n")
    assert ceilings.caches(tmp_path) == {"L1": 32 * 1024, "L2": 2**20}
    assert ceilings.caches(tmp_path / "nowhere") == {}


def test_products_take_weights_of_their_own_in_turn(monkeypatch):
    given = []
    monkeypatch.setattr("torch.nn.functional.linear", lambda x, weight, bias: given.append(weight) or x)
    call = TorchProbes("cpu", 1).product(4, 300, 1000, "fp32", weights=3)
    call()
    assert len({weight.data_ptr() for weight in given}) == 3
    assert all(weight.equal(given[0]) and weight.std() > 0.5 for weight in given)


def test_torch_can_be_probed():
    probes = TorchProbes("cpu", 1)
    shapes = {"fp32": [Shape(4, 8, 8), Shape(4, 8, 8, 2, 1)], "bf16": []}
    found = ceilings.measure(probes, "cpu", 1, shapes, seconds=1e-6, largest=2**19)
    numbers = [
        found.launch,
        *found.peaks.values(),
        *(rate for ladder in found.rates["fp32"].values() for _, rate in ladder),
        *dict(found.read + found.copy).values(),
    ]
    assert all(number > 0 for number in numbers)
    assert found.memory > 2**20
    with pytest.raises(ValueError, match="torch has no device 'tpu'"):
        TorchProbes("tpu", 1)
