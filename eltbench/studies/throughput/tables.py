"""The throughput study in the forms that people read: lines about the machine, a table of a terminal, a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.table import Table

from eltbench.core import tables
from eltbench.evaluation.speed.roofline import rate_at
from eltbench.studies.throughput.rows import RATIOS
from eltbench.studies.throughput.summary import UNIT

SHOWN = (*dict.fromkeys(name for its in RATIOS.values() for name, *_ in its), "speed_over_peer")
HEAD = ("cell", "what", "ratio, interval", "predicted", "roofline", "regime", "block, MiB", "layers, MiB", "remark")
NUMBERS = (*HEAD[2:5], *HEAD[6:8])


def machine(rows: pd.DataFrame) -> list[str]:
    """The ceilings in a few lines."""
    here = rows[rows["measure"] == "ceiling"]
    first = here.iloc[0]

    def of(metric: str) -> pd.DataFrame:
        return here[here["metric"] == metric]

    levels = {str(line["role"]): float(line["value"]) for _, line in of("cache_bytes").iterrows()}
    reads = of("read_bytes_per_second").sort_values("bytes")
    ladder = [(int(size), float(rate)) for size, rate in zip(reads["bytes"], reads["value"], strict=True)]
    halves = [size / 2 for size in levels.values()]
    sizes = [size for size in halves if ladder[0][0] <= size < ladder[-1][0]] + [ladder[-1][0]]
    rates = ", ".join(f"{rate_at(ladder, size) / 1e9:.0f} GB/s of {size / UNIT:.3g} MiB" for size in sizes)
    peaks = ", ".join(
        f"{line['value'] / 1e9:.0f} GFLOP/s in {line['precision']}"
        for _, line in of("peak_flops_per_second").iterrows()
    )
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
    if summary.empty:
        return
    for _, line in summary[summary["metric"].isin(SHOWN) | summary["reason"].notna()].iterrows():
        missing = pd.isna(line["mean"])
        interval = "–" if missing else f"{line['mean']:.3f}"
        if not missing and line["high"] < 1e6:
            interval += f" [{line['low']:.3f}, {line['high']:.3f}]"
        noisy = f"noisy in {line['noisy']} of {line['processes']}" if line["noisy"] else ""
        sizes = ("" if pd.isna(line[name]) else f"{line[name] / UNIT:.1f}" for name in ("block_bytes", "unique_bytes"))
        told = ("" if pd.isna(line[name]) else f"{line[name]:.3f}" for name in ("predicted", "roofline"))
        what = str(line["metric"]).replace("_", " ") + ("" if pd.isna(line["role"]) else f": {line['role']}")
        regime = "" if pd.isna(line["regime"]) else str(line["regime"])
        remark = noisy if pd.isna(line["reason"]) else str(line["reason"])
        yield str(line["name"]), what, interval, *told, regime, *sizes, remark
