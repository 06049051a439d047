"""From what was measured to rows: ceilings, times, ratios, what the roofline says, and why something is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from eltbench.accounting import macs, parameters
from eltbench.evaluation.speed.roofline import Ceilings, Predicted, Shape, predict
from eltbench.studies.throughput.cells import TRAINED, Cell
from eltbench.studies.throughput.measuring import Record

COLUMNS: dict[str, pa.DataType] = {
    "measure": pa.string(),  # call, self, sampler, hoisting, step, memory, peers; ceiling: of the machine
    "name": pa.string(),  # the cell in words
    "role": pa.string(),  # looped, unique, …: whose time it is; of a ratio both
    "mode": pa.string(),  # eager, compiled, cuda-graph, scan, unrolled
    "block": pa.string(),
    "tokens": pa.int64(),
    "batch_size": pa.int64(),
    "threads": pa.int64(),
    "sampling_steps": pa.int64(),
    "guidance_scale": pa.float64(),
    "scale": pa.string(),  # the paper's name of the size
    "assumed": pa.string(),  # what the paper does not say of it
    "regime": pa.string(),  # by sizes alone: fits, spills, between, neither
    "block_bytes": pa.int64(),  # of the weights that every loop reads
    "unique_bytes": pa.int64(),  # of the unique-depth network's layers
    "cache_bytes": pa.int64(),  # of the last level of cache
    "bytes": pa.int64(),  # of the set that was read, copied or multiplied with in turn, or of a level of cache
    "shape": pa.string(),  # of a product: vectors × inputs × outputs
    "part": pa.string(),  # the kernel that a prediction is of
    "bound": pa.string(),  # what decides a kernel's predicted time: compute, memory, launch
    "matmul_precision": pa.string(),  # how float32 products are computed: highest or float32 is in float32
    "spread": pa.float64(),  # of the bursts of this process: quartile distance over median, the worst contender's
    "attempt": pa.int64(),
    "noisy": pa.bool_(),
    "reason": pa.string(),  # why there is no value
}
RAW = ("contender", "round", "place", "calls", "seconds")

# (metric, whose time is above, whose below) of each measure; the first of a network call is predicted, too
RATIOS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "call": (("throughput_ratio", "unique", "looped"),),
    "self": (("self_ratio", "unique-copy", "unique"),),
    "sampler": (("throughput_ratio", "unique", "looped"), ("block_share", "blocks", "looped")),
    "hoisting": (("hoisting_gain", "unhoisted", "looped"),),
    "step": (("step_time_ratio", "elt", "no-ilsd"), ("step_time_ratio_to_unique", "elt", "unique-depth")),
    "memory": (("peak_memory_ratio", "elt", "unique-depth"),),
}
LOWER_IS_BETTER = ("step_time_ratio", "step_time_ratio_to_unique", "peak_memory_ratio")
TIMES = {"sampler": "sample_seconds", "step": "step_seconds"}


def regime(cell: Cell, cache: int | None) -> str | None:
    """What the sizes say before anything is timed; None where the system does not say how large its cache is.

    fits: all D layers take half of the last level of cache or less. spills: they take over twice the cache, and the
    shared block under half of it. neither: the block is larger than the cache. between: what is left.
    """
    if cache is None:
        return None
    block, unique = cell.looped_bytes("looped"), cell.looped_bytes("unique")
    if unique <= cache / 2:
        return "fits"
    if block > cache:
        return "neither"
    return "spills" if unique > 2 * cache and block < cache / 2 else "between"


def all_rows(ceilings: Ceilings, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every row of the study, without what all rows share (study, preset, versions, time)."""
    rows = list(_of_machine(ceilings))
    for cell in dict.fromkeys(record.cell for record in records):
        rows += _of_cell(cell, ceilings, [record for record in records if record.cell == cell])
    return rows


def timings(records: Iterable[Record]) -> pd.DataFrame:
    """The raw table: every burst of every attempt, by cell (run_id), process and attempt."""
    found = [
        (each.cell.id, each.process, each.attempt, each.noisy, each.last, *burst)
        for each in records
        for burst in each.bursts
    ]
    return pd.DataFrame(found, columns=["run_id", "process", "attempt", "noisy", "last", *RAW])


def _of_machine(ceilings: Ceilings) -> Iterator[dict[str, Any]]:
    known = {"measure": "ceiling", "device": ceilings.device, "threads": ceilings.threads, "name": ceilings.name}
    known |= {"backend": "torch", "higher_is_better": True, "matmul_precision": ceilings.matmul or None}
    yield {**known, "metric": "memory_bytes", "value": float(ceilings.memory)}
    yield {**known, "metric": "launch_seconds", "value": ceilings.launch, "higher_is_better": False}
    for level, size in ceilings.caches.items():
        yield {**known, "metric": "cache_bytes", "role": level, "value": float(size), "bytes": size}
    for precision, rate in ceilings.peaks.items():
        yield {**known, "metric": "peak_flops_per_second", "precision": precision, "value": rate}
    for precision, rates in ceilings.rates.items():
        for shape, ladder in rates.items():
            about = {"metric": "flops_per_second", "precision": precision, "shape": in_words(shape)}
            yield from ({**known, **about, "bytes": size, "value": rate} for size, rate in ladder)
    for metric, steps in (("read", ceilings.read), ("copy", ceilings.copy)):
        for size, rate in steps:
            yield {**known, "metric": f"{metric}_bytes_per_second", "bytes": size, "value": rate}


def _of_cell(cell: Cell, ceilings: Ceilings, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    known = _known(cell, ceilings)
    for record in records:
        if record.last:
            attempt = {"seed": record.process, "attempt": record.attempt, "spread": record.spread}
            yield from _of_record({**known, **attempt}, record)
    if cell.measure in TRAINED:  # by arithmetic alone: steps by their FLOPs, peaks by the bytes that are kept
        size = cell.step_flops if cell.measure == "step" else cell.training_bytes
        for metric, above, below in RATIOS[cell.measure]:
            ratio = {"metric": "roofline_ratio", "role": _role(metric, above, below)}
            yield {**known, **ratio, "value": size(above) / size(below)}
    if not cell.shapes or not cell.shapes <= set(ceilings.rates.get(cell.precision, {})):  # not in memory
        return
    metric, above, below = RATIOS[cell.measure][0]
    kernels = {name: _predicted(cell, name, ceilings) for name in (above, below)}
    about = {name: {**known, **_shape(cell, name), "role": name, "higher_is_better": False} for name in kernels}
    for name, its in kernels.items():
        for each in its:
            kernel = {"part": each.kernel.part, "shape": in_words(each.kernel.shape), "bound": each.bound}
            yield {**about[name], **kernel, "metric": "predicted_kernel_seconds", "value": each.seconds}
    for by, term in (("predicted", "seconds"), ("roofline", "roofline")):
        seconds = {name: sum(getattr(each, term) for each in its) for name, its in kernels.items()}
        for name, value in seconds.items():
            yield {**about[name], "metric": f"{by}_seconds", "value": value}
        ratio = {"metric": f"{by}_ratio", "role": f"{below} over {above}"}
        yield {**known, **ratio, "value": seconds[above] / seconds[below], "higher_is_better": True}
        if cell.measure == "sampler":
            loops = sum(getattr(each, term) for each in kernels["looped"] if each.kernel.looped)
            share = {"metric": f"{by}_share", "role": "blocks over looped"}
            yield {**known, **share, "value": loops / seconds["looped"]}


def _of_record(known: Mapping[str, Any], record: Record) -> Iterator[dict[str, Any]]:
    cell, noisy = record.cell, record.noisy
    nothing = {**known, "value": None, "noisy": False}
    if reason := record.skipped or record.failed:
        kind = "skipped" if record.skipped else "failed"
        yield {**nothing, "metric": f"{kind}_{cell.measure}", "reason": reason}
        return
    for name in record.absent:
        yield {**nothing, "metric": "speed_over_peer", "role": name, "reason": "not installed here"}
    measured = record.peaks or record.seconds
    metric = "peak_bytes" if record.peaks else TIMES.get(cell.measure, "call_seconds")
    for name, value in measured.items():
        shared = {**known, **_shape(cell, name), "role": name, "noisy": noisy}
        yield {**shared, "metric": metric, "value": float(value), "higher_is_better": False}
        if metric == "sample_seconds" and name != "blocks":
            yield {**shared, "metric": "samples_per_second", "value": cell.batch / value, "higher_is_better": True}
    peers = tuple(("speed_over_peer", name, "ours") for name in measured if name != "ours")
    for name, above, below in RATIOS.get(cell.measure, peers):
        better = None if name == "self_ratio" else name not in LOWER_IS_BETTER
        ratio = {"metric": name, "role": _role(name, above, below), "value": measured[above] / measured[below]}
        yield {**known, **ratio, "higher_is_better": better, "noisy": noisy}


def _role(metric: str, above: str, below: str) -> str:
    """What a ratio compares: a speed is of the second over the first, a time or a size of the first over the second."""
    if metric == "speed_over_peer":
        return above
    return f"{above} over {below}" if metric in (*LOWER_IS_BETTER, "block_share") else f"{below} over {above}"


def in_words(shape: Shape) -> str:
    """A product for people: vectors × inputs × outputs."""
    if shape.heads:
        return f"attention of {shape.items}×{shape.vectors} tokens, width {shape.inputs}, {shape.heads} heads"
    return f"{shape.vectors}×{shape.inputs}×{shape.outputs}"


def _known(cell: Cell, ceilings: Ceilings) -> dict[str, Any]:
    trained = cell.measure in TRAINED
    timed = not trained and cell.measure != "peers"
    alike = ("measure", "name", "backend", "precision", "unique_layers", "loops", "width", "mode", "tokens")
    return {
        **{name: getattr(cell, name) for name in alike},
        **{name: getattr(cell, name) or None for name in ("sampling_steps", "scale", "assumed")},
        "run_id": cell.id,
        "task": "diffusion" if trained else cell.task,
        "dataset": "digits" if trained else None,
        "device": ceilings.device,
        "compiled": cell.mode == "compiled",
        "max_loops": cell.loops,
        "effective_depth": cell.depth,
        "block": "dit" if trained else cell.block,
        "batch_size": cell.batch,
        "threads": ceilings.threads,
        "guidance_scale": cell.guidance_scale if cell.sampling_steps else None,
        "regime": regime(cell, ceilings.cache) if timed else None,
        "block_bytes": cell.looped_bytes("looped") if timed else None,
        "unique_bytes": cell.looped_bytes("unique") if timed else None,
        "cache_bytes": ceilings.cache,
        "matmul_precision": ceilings.matmul or None if cell.backend == "torch" else "float32",
    }


def _shape(cell: Cell, contender: str) -> dict[str, Any]:
    """What the networks of one cell differ in; nothing for blocks and trainers, whose tasks are not the cell's."""
    if cell.measure in (*TRAINED, "peers"):
        return {}
    network = "unique" if contender.startswith("unique") else "looped"
    body = cell.body(network)
    counted = None if contender == "unhoisted" else macs(body.network, body.loops)  # which counts the modulation once
    return {
        "unique_layers": body.network.architecture.unique_layers,
        "max_loops": body.network.architecture.max_loops,
        "loops": body.loops,
        "params": sum(parameters(body.network).values()),
        "weight_bytes": cell.weight_bytes(network),
        "macs": counted,
        "flops": None if counted is None else 2 * counted,
    }


def _predicted(cell: Cell, contender: str, ceilings: Ceilings) -> list[Predicted]:
    """The kernels of one call of the contender, or of all calls of a sampler."""
    body = cell.body("looped" if contender == "unhoisted" else contender)
    launch, hoisted = cell.mode in ("eager", "compiled"), contender != "unhoisted"
    kernels = predict(ceilings, body.network, body.loops, cell.items, cell.precision, launch=launch, hoisted=hoisted)
    calls = cell.sampling_steps or 1
    return [each._replace(seconds=calls * each.seconds, roofline=calls * each.roofline) for each in kernels]
