"""Throughput: what does sharing weights buy in speed and memory on this machine, and why?

Nothing is trained to its end: networks with random weights are timed in fresh processes, beside ceilings measured in
the same run (eltbench.evaluation.speed.roofline). Times hold for this machine as it was then.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyarrow as pa
from rich.console import RenderableType

from eltbench import backends
from eltbench.core.durations import duration
from eltbench.core.machine import processors
from eltbench.evidence.claims import Cell, Claim, Evidence
from eltbench.studies import register
from eltbench.studies.presets import load_table
from eltbench.studies.throughput import evidence, figure, measuring, sentences, summary, tables
from eltbench.studies.throughput.cell_groups import Preset, preset_from_table
from eltbench.studies.throughput.claims import CLAIMS
from eltbench.studies.throughput.rows import COLUMNS, all_rows, timings
from eltbench.studies.throughput.timing_process import ProcessError
from eltbench.studies.untrained import Made, Output, Prepared, UnmeasuredError, Untrained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COVERS = "fresh processes on this machine, one after the other, in one run"


@dataclass(frozen=True)
class ThroughputCommand(Output):
    """Time looped against unique-depth networks on this machine, kept idle, beside its measured roofline."""

    preset: str = "cpu"
    """a packaged preset (smoke, cpu, cpu-scales, gpu), or FILE.toml:NAME"""
    device: str = ""
    """the preset's, or another: cpu, cuda; then the results' folder is named after it too"""
    results: Path = Path("results")
    """where the study's folder is written"""
    dry_run: bool = False
    """list the cells and the estimated time; measure nothing"""
    force: bool = False
    """replace what an earlier command wrote there"""


@register("throughput", version=1)
class Throughput(Untrained):
    """Looped against unique-depth networks of equal depth, their training steps and memory, and blocks of others."""

    columns: ClassVar = COLUMNS
    library = "torch"
    options = ThroughputCommand
    claims = CLAIMS
    covers = COVERS

    def prepared(self, options: ThroughputCommand) -> Prepared:
        preset = preset_from_table(*load_table(self.name, options.preset))
        device = options.device or preset.device
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ValueError(f"torch has no device {device!r} that is timed here; give cpu, cuda or cuda:N")
        if device != preset.device:
            preset = replace(preset, device=device, name=f"{preset.name}-{device.replace(':', '-')}")
        if device == "cpu" and preset.threads > (there := processors()):  # more would wait for each other
            print(f"note: preset {preset.name!r} asks for {preset.threads} threads, here are {there}", file=sys.stderr)
            preset = replace(preset, threads=there)
        if not options.dry_run:
            backends.get("torch").check_device(device)
        listing = preset.listing() if options.dry_run else None
        make, presets = partial(made, preset), [asdict(preset)]
        return Prepared(preset.name, preset.name, make, presets, preset.smoke, listing, replaces=options.force)

    def tables(self, rows: pd.DataFrame) -> list[RenderableType]:
        return [*tables.machine(rows), tables.terminal(self.summarise(rows))]

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        return summary.summary(rows)

    def figure(self, rows: pd.DataFrame) -> Figure:
        return figure.figure(rows)

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        return {**evidence.evidence(rows), "operating-point": {}}

    def remarks(self, rows: pd.DataFrame) -> list[str]:
        return sentences.sentences(rows)

    def told(self, rows: pd.DataFrame) -> dict[str, Any]:
        left_out = summary.left_out(self.summarise(rows)).to_dict("records")
        return {"machine": tables.machine(rows), "sentences": self.remarks(rows), "left_out": left_out}

    def why_nothing(self, rows: pd.DataFrame, claim: Claim) -> str:
        return evidence.why_nothing(rows, claim.id)


def made(preset: Preset) -> Made:
    """Measure the preset's cells; raises UnmeasuredError without the machine's ceilings."""
    started = time.monotonic()

    def report(done: int, of: int, what: str) -> None:
        print(f"[{done}/{of}, {duration(time.monotonic() - started)}] {what}", file=sys.stderr, flush=True)

    try:
        ceilings, records = measuring.measure(preset, report)
    except ProcessError as error:
        raise UnmeasuredError(f"the machine's ceilings could not be measured: {error}") from None
    failed = {each.cell.id: each.failed for each in records if each.failed}
    skipped = {each.cell.id: each.skipped for each in records if each.skipped}
    done = [id for id in dict.fromkeys(each.cell.id for each in records) if id not in {**failed, **skipped}]
    raw = pa.Table.from_pandas(timings(records), preserve_index=False)
    runs = {"done": done, "cached": [], "failed": failed, "skipped": skipped}
    failures = [f"{each.cell.name}, process {each.process}: {each.failed}" for each in records if each.failed]
    return Made(all_rows(ceilings, records), {"timings": raw}, runs, failures)
