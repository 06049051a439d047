"""What a report over a million rows costs: `pytest tests/benchmarks/test_report_benchmark.py --benchmark-enable -s`.

Without --benchmark-enable it is done with few rows, to see that it works.
"""

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
from eltbench.studies.deciding import MOST_ROWS

DIGITS = Path(__file__).parents[2] / "results" / "extrapolation" / "digits"
REPORT = """
import resource, sys
from eltbench.cli.main import main
code = main(["report", "--results", sys.argv[1], "--out", sys.argv[2]])
print("MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("folders", [1, 2], ids=["verdicts as published", "decided anew"])
def test_report_over_many_rows(request, tmp_path, folders):
    enabled = request.config.getoption("--benchmark-enable")
    each = 2 * MOST_ROWS // folders if enabled else 5_000
    rows = eltbench.load_rows(DIGITS)
    copies = [rows.assign(seed=rows["seed"] + 100 * copy) for copy in range(each // len(rows) + 1)]  # further seeds
    many = pd.concat(copies, ignore_index=True).head(each)
    for number in range(folders):
        folder = tmp_path / "results" / "extrapolation" / f"many-{number}"
        shutil.copytree(DIGITS, folder)
        write_rows(folder / "rows.parquet", many, row_schema(create("extrapolation").columns))
    command = [sys.executable, "-c", REPORT, str(tmp_path / "results"), str(tmp_path / "r.html")]
    started = time.perf_counter()
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    seconds, peak = time.perf_counter() - started, int(said.split("MiB")[1])
    print(f"\nreport over {folders} × {each} rows: {seconds:.1f} s, {peak} MiB at the most (aim: below 1024)")
    assert f"{each} rows" in (tmp_path / "r.html").read_text()
    assert not enabled or peak < 1024
