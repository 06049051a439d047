"""The command line of the throughput study: measure, decide, write everything into one folder, print."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from rich.console import Console

from eltbench import backends
from eltbench.cli import command_line
from eltbench.core.atomic import check_writable
from eltbench.core.durations import duration
from eltbench.core.processors import processors
from eltbench.core.provenance import provenance, row_provenance
from eltbench.evidence import publishing, results, verdicts
from eltbench.evidence.claims import Decision
from eltbench.evidence.schema import row_schema, validate
from eltbench.studies.presets import load_table
from eltbench.studies.throughput import measuring, tables
from eltbench.studies.throughput.measuring import Record, Report
from eltbench.studies.throughput.presets import Preset, preset_from_table
from eltbench.studies.throughput.process import ProcessError
from eltbench.studies.throughput.rows import COLUMNS, all_rows, timings
from eltbench.training.job import measurement_hash

if TYPE_CHECKING:
    from eltbench.studies.throughput.study import Throughput

PIPED_WIDTH = 160  # columns of the tables where stdout is no terminal


@dataclass(frozen=True)
class ThroughputCommand:
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


def main(study: Throughput, arguments: Sequence[str] | None = None) -> int:
    """Run the study's command line; returns the exit code, 1 where a cell failed. Raises ValueError for bad input."""
    about = ThroughputCommand.__doc__
    command = command_line.read(ThroughputCommand, f"eltbench study {study.name}", arguments, about)
    preset = preset_from_table(*load_table(study.name, command.preset))
    check_device_name(command.device or preset.device)
    if command.device and command.device != preset.device:
        preset = replace(preset, device=command.device, name=f"{preset.name}-{command.device.replace(':', '-')}")
    preset = within(preset)
    if command.dry_run:
        for cell in preset.cells:
            seconds = cell.seconds(preset.processes, preset.device, preset.burst_seconds)
            print(f"{cell.id}  about {duration(seconds)}  {cell.name}")
        print(
            f"{len(preset.cells)} cells in {preset.processes} processes each, about {duration(preset.seconds)} in all "
            "on an idle machine, more where noisy processes are repeated"
        )
        return 0
    backends.get("torch").check_device(preset.device)
    folder = command.results / study.name / preset.name
    check_writable(folder)
    if (folder / "rows.parquet").exists() and not command.force:
        raise ValueError(
            f"{folder} holds an earlier run; repeat with --force to replace it, or choose another --results"
        )
    started = time.monotonic()
    try:
        ceilings, records = measuring.measure(preset, teller(started))
    except ProcessError as error:
        print(f"error: the machine's ceilings could not be measured: {error}", file=sys.stderr)
        return 1
    rows = stamped(study, preset, all_rows(ceilings, records))
    entry = {**provenance(), "wall_seconds": round(time.monotonic() - started, 1), "presets": [asdict(preset)]}
    decisions = write(folder, study, preset, rows, records, entry)
    show(study, preset, folder, rows, decisions)
    failed = [record for record in records if record.failed]
    for record in failed:
        print(f"failed: {record.cell.name}, process {record.process}: {record.failed}", file=sys.stderr)
    return int(bool(failed))


def check_device_name(device: str) -> None:
    """Raises ValueError for what is no device of torch's that this study knows, whether it is here or not."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"torch has no device {device!r} that is timed here; give cpu, cuda or cuda:N")


def within(preset: Preset) -> Preset:
    """The preset with no more threads than this process has processors, which it says; more would wait for each other.

    On CUDA the threads only launch kernels, and are left as they are.
    """
    there = processors()
    if preset.device != "cpu" or preset.threads <= there:
        return preset
    print(f"note: preset {preset.name!r} asks for {preset.threads} threads, here are {there}", file=sys.stderr)
    return replace(preset, threads=there)


def teller(started: float) -> Report:
    """One line of progress on stderr for each process, with the time since `started` by the monotonic clock."""

    def say(done: int, of: int, what: str) -> None:
        print(f"[{done}/{of}, {duration(time.monotonic() - started)}] {what}", file=sys.stderr, flush=True)

    return say


def schema() -> pa.Schema:
    """The shared columns and the study's own; most may be empty, since they describe a trained model."""
    kept = row_schema(COLUMNS)
    return pa.schema([field.with_nullable(True) for field in kept], metadata=kept.metadata)


def stamped(study: Throughput, preset: Preset, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows completed with study, preset, versions and time, in the form of `schema`."""
    form = schema()
    known = {
        **dict.fromkeys(form.names),
        **row_provenance("torch"),
        "study": study.name,
        "preset": preset.name,
        "measurement": measurement_hash(study.name, study.version, {}),
    }
    of_backend = {name: row_provenance(name) for name in backends.names()}
    whole = [{**known, **of_backend.get(row.get("backend") or "torch", {}), **row} for row in rows]
    return validate(pd.DataFrame(whole), form).to_pandas()


def write(
    folder: Path,
    study: Throughput,
    preset: Preset,
    rows: pd.DataFrame,
    records: Sequence[Record],
    entry: dict[str, Any],
) -> list[Decision]:
    """All files of the study into its folder, each whole, the rows last; returns the verdicts."""
    decisions = study.decide(rows, smoke=preset.smoke)
    failed = {each.cell.id: each.failed for each in records if each.failed}
    skipped = {each.cell.id: each.skipped for each in records if each.skipped}
    done = [id for id in dict.fromkeys(each.cell.id for each in records) if id not in {**failed, **skipped}]
    entry = {**entry, "runs": {"done": done, "cached": [], "failed": failed, "skipped": skipped}}
    raw = pa.Table.from_pandas(timings(records), preserve_index=False)
    results.write_table(folder / "timings.parquet", raw)
    publishing.write(folder, study, rows, schema(), verdicts.content(study, preset.name, decisions, rows), [entry])
    return decisions


def show(
    study: Throughput,
    preset: Preset,
    folder: Path,
    rows: pd.DataFrame,
    decisions: Sequence[Decision],
) -> None:
    """Ceilings, ratios beside what was predicted, verdicts, the plain sentences, and one JSON line."""
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    print("\n".join(tables.machine(rows)))
    console.print(tables.terminal(study.summarise(rows)))
    console.print(verdicts.table(decisions))
    print(f"intervals cover {study.covers}")
    for decision in decisions:
        if not decision.cells:
            print(f"{decision.claim.id}: {decision.reason}")
    for sentence in study.remarks(rows):
        print(sentence)
    line: dict[str, Any] = {
        "study": study.name,
        "preset": preset.name,
        "results": str(folder),
        "claims": verdicts.in_short(decisions),
    }
    sys.stdout.flush()
    print(json.dumps(line), flush=True)
