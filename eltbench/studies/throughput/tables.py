"""The throughput study in the forms that people read: lines about the machine, a table of a terminal, a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from eltbench.core import tables
from eltbench.evaluation.speed.roofline import rate_at
from eltbench.studies.throughput.rows import RATIOS
from eltbench.studies.throughput.summary import BY, UNIT

SHOWN = (*dict.fromkeys(name for its in RATIOS.values() for name, *_ in its), "speed_over_peer")
HEAD = ("cell", "what", "ratio, interval", "predicted", "roofline", "regime", "block, MiB", "layers, MiB", "remark")
SIZES = ("block_bytes", "unique_bytes")
NAMES = ("role", "regime", "reason", *BY, *SIZES)
NUMBERS = (*HEAD[2:5], *HEAD[6:8])


def machine(rows: pd.DataFrame) -> list[str]:
    """The ceilings in a few lines."""
    here = rows[rows["measure"] == "ceiling"]
    first = here.iloc[0]

    def of(metric: str) -> pd.DataFrame:
        return here[here["metric"] == metric]

    levels = {str(line["role"]): float(line["value"]) for _, line in of("cache_bytes").iterrows()}
    reads = of("read_bytes_per_second").sort_values("bytes")
    ladder = [(int(size), float(rate)) for size, rate in reads[["bytes", "value"]].to_numpy()]
    halves = [size / 2 for size in levels.values()]
    sizes = [size for size in halves if ladder[0][0] <= size < ladder[-1][0]] + [ladder[-1][0]]
    rates = ", ".join(f"{rate_at(ladder, size) / 1e9:.0f} GB/s of {size / UNIT:.3g} MiB" for size in sizes)
    best = of("peak_flops_per_second")[["precision", "value"]].to_numpy()
    peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in best)
    caches = ", ".join(f"{name} {size / UNIT:.3g} MiB" for name, size in levels.items()) or "not told"
    memory, launch = of("memory_bytes")["value"].iloc[0], of("launch_seconds")["value"].iloc[0]
    threads = int(first["threads"])
    matmul = "" if pd.isna(first["matmul_precision"]) else f" (float32 at precision {first['matmul_precision']!r})"
    return [
        f"machine: {first['name']}, {first['device']}, threads: {threads}, memory: {memory / 2**30:.0f} GiB",
        f"caches: {caches}; a launch takes {launch * 1e6:.1f} µs",
        f"products: {peaks}{matmul}; reading again and again: {rates}",
    ]


def terminal(summary: pd.DataFrame) -> Table:
    """One line a ratio with its interval, what is predicted, and what is missing or noisy."""
    return tables.terminal(HEAD, _lines(summary), NUMBERS)


def markdown(rows: pd.DataFrame, summary: pd.DataFrame, sentences: Sequence[str]) -> str:
    """The same for a document: the machine, the table, and where looping pays."""
    about, told = ("".join(f"- {line}\n" for line in lines) for lines in (machine(rows), sentences))
    return f"{about}\n{tables.markdown(HEAD, _lines(summary), NUMBERS)}\n{told}"


def _lines(summary: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    for _, line in summary[summary["metric"].isin(SHOWN) | summary["reason"].notna()].iterrows():
        told: dict[str, Any] = {name: "" if pd.isna(line[name]) else line[name] for name in NAMES}
        interval = "–" if pd.isna(line["mean"]) else f"{line['mean']:.3f}"
        if line["high"] < 1e6:
            interval += f" [{line['low']:.3f}, {line['high']:.3f}]"
        what = str(line["metric"]).replace("_", " ") + (told["role"] and f": {told['role']}")
        noisy = f"noisy in {line['noisy']} of {line['processes']}" if line["noisy"] else ""
        predicted = ("" if told[name] == "" else f"{told[name]:.3f}" for name in BY)
        sizes = ("" if told[name] == "" else f"{told[name] / UNIT:.1f}" for name in SIZES)
        yield str(line["name"]), what, interval, *predicted, str(told["regime"]), *sizes, str(told["reason"]) or noisy
