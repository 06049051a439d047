"""A machine that exists on paper only: ceilings, and a nursery whose processes answer by a formula."""

from __future__ import annotations

from eltbench import studies
from eltbench.evaluation.speed.roofline import Ceilings, Shape
from eltbench.studies.throughput import measuring
from eltbench.studies.throughput.cells import Cell
from eltbench.studies.throughput.rows import RATIOS, all_rows
from eltbench.studies.throughput.timing_process import ProcessError

CACHE = 2**20
GROUP = {"measure": "call", "pairs": [[3, 4]], "widths": [32], "heads": 2}
STUDY = studies.create("throughput")
DIT = {"block": "dit"}
GROUPS = [
    {**GROUP, "widths": [32, 64], "pairs": [[3, 4], [1, 12]]},
    {**GROUP, "measure": "self"},
    {**GROUP, "measure": "sampler", "sampling_steps": 2},
    {**GROUP, **DIT, "measure": "hoisting"},
    {**GROUP, **DIT, "measure": "step"},
    {**GROUP, **DIT, "measure": "memory"},
    {**GROUP, "measure": "peers"},
]


def ceilings_of(shapes, cache=CACHE) -> Ceilings:
    ladder = [(1000, 1e11), (CACHE, 1e11), (CACHE + 1, 1e10), (10**12, 1e10)]
    products = [(1, 8e11), (CACHE, 8e11), (CACHE + 1, 8e10), (10**12, 8e10)]
    rates = {
        name: {each: products[:1] if each.heads else products for each in map(Shape._make, its)}
        for name, its in shapes.items()
    }
    peaks = dict.fromkeys(shapes, 1e12)
    return Ceilings("cpu", "paper", 1, 2**30, 1e-9, peaks, rates, ladder, ladder, {"L2": cache} if cache else {})


class Paper:
    """A nursery. `ratio(cell, process)` is what every ratio of the cell comes to; `noisy` and `broken` name cells.

    A cell of `noisy` is noisy in so many of its attempts; one of `skipped` says that it does not fit; one of `broken`
    ends without an answer, and one of `killed` by that signal.
    """

    def __init__(self, ratio=lambda cell, process: 2.0, noisy=None, skipped=(), broken=(), killed=None, cache=CACHE):
        self.ratio, self.noisy, self.skipped, self.broken, self.cache = ratio, dict(noisy or {}), skipped, broken, cache
        self.killed = dict(killed or {})
        self.asked: list[dict] = []
        self.nurseries = 0

    def __call__(self, threads):
        self.nurseries += 1
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, message):
        self.asked.append(message)
        if message["what"] == "ceilings":
            return {"ceilings": ceilings_of(message["shapes"], self.cache).to_dict()}
        cell = Cell(**message["cell"])
        process = message["process"]
        if cell.id in self.broken:
            raise ProcessError("process ended with exit code 1")
        if cell.id in self.killed:
            raise ProcessError("process was killed", self.killed[cell.id])
        if cell.id in self.skipped:
            return {"skipped": "needs about 9 GiB of memory, 1 GiB are free"}
        times = dict.fromkeys(cell.contenders, 1.0)
        if cell.measure == "peers":
            times["torch.nn.TransformerEncoderLayer"] = self.ratio(cell, process)
        for _, above, below in RATIOS.get(cell.measure, ()):
            if above not in ("blocks", "unique-copy"):
                times[above] = times[below] * self.ratio(cell, process)
        if message["what"] == "memory":
            return {"peak_bytes": round(1000 * times[message["contender"]])}
        left = self.noisy.get(cell.id, 0)
        self.noisy[cell.id] = left - 1
        bursts = [
            [name, number, place, 10, 10 * seconds * (1 + number if left > 0 else 1)]
            for number in range(cell.rounds)
            for place, (name, seconds) in enumerate(times.items())
        ]
        return {"bursts": bursts, "absent": []}


def rows_of(preset, **settings):
    """Rows and records of a preset on this machine; settings are those of `Paper`."""
    ceilings, records = measuring.measure(preset, nursery=Paper(**settings))
    return STUDY.stamped(preset.name, all_rows(ceilings, records)), records


def wobble(process):
    """A ratio near 1 that differs a little from process to process."""
    return 1 + 0.001 * (process - 2)
