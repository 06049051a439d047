"""What a report over a million rows costs: `pytest tests/benchmarks/test_report_benchmark.py --benchmark-enable -s`.

Without --benchmark-enable it is done with few rows, to see that it works.
"""

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import eltbench
from eltbench.evidence.results import write_rows
from eltbench.evidence.schema import row_schema
from eltbench.studies import create

RELAY = Path(__file__).parents[2] / "results" / "extrapolation" / "relay"


@pytest.mark.slow
def test_report_over_many_rows(request, tmp_path):
    asked = 1_000_000 if request.config.getoption("--benchmark-enable") else 2_000
    folder = tmp_path / "results" / "extrapolation" / "many"
    shutil.copytree(RELAY, folder)
    rows = eltbench.load_rows(RELAY)
    many = pd.concat([rows] * (asked // len(rows) + 1), ignore_index=True).head(asked)
    write_rows(folder / "rows.parquet", many, row_schema(create("extrapolation").columns))
    command = [
        "-m",
        "eltbench.cli.main",
        "report",
        "--results",
        str(tmp_path / "results"),
        "--out",
        str(tmp_path / "r.html"),
    ]
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=300)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\nreport over {asked} rows: {seconds:.1f} s (aim: below 20), {peak:.0f} MiB at the most (aim: below 1024)")
    assert f"{asked} rows" in (tmp_path / "r.html").read_text()
