"""The reviewer's path of the README, walked as it stands there, in a clone, with the preset that it names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eltbench
from eltbench.studies.presets import load_preset

FILES = [".lock", "claims.json", "figure.pdf", "figure.png", "provenance.json", "rows.parquet", "summary.csv"]
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENVIRONMENT = """#!{python}
# stands for `make setup`: an environment that is there already, and the clone's package in it
import pathlib, sys
assert sys.argv[1:] == ["setup"]
folder = pathlib.Path(".venv/bin")
folder.mkdir(parents=True)
(folder / "python").write_text("#!/bin/sh\\nPYTHONPATH=" + str(pathlib.Path.cwd()) + " exec {python} \\"$@\\"")
(folder / "eltbench").write_text("#!/bin/sh\\nexec python -m eltbench \\"$@\\"")
for program in folder.iterdir():
    program.chmod(0o755)
(folder / "activate").write_text("PATH=" + str(folder.resolve()) + ":$PATH")
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_the_reviewer_s_path_is_walked_from_clone_to_verdicts(tmp_path):
    (path,) = re.findall(r"<!-- reviewer -->\n```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "make").write_text(ENVIRONMENT.format(python=sys.executable))
    (programs / "make").chmod(0o755)
    environment = {**os.environ, "REPOSITORY": str(ROOT), "ELTBENCH_RUNS": str(tmp_path / "runs")}
    environment |= {"PYTHONWARNINGS": "error::UserWarning"}
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    walked = subprocess.run(
        ["bash", "-euc", path], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert walked.returncode == 0, walked.stderr
    mine = tmp_path / "eltbench" / "mine" / "extrapolation" / "smoke"
    preset, rows = load_preset("extrapolation", "smoke"), eltbench.load_rows(mine)
    worlds = {(world.task, world.dataset) for world in preset.worlds}
    assert set(zip(rows["task"], rows["dataset"], strict=True)) == worlds
    for _, world in rows.groupby(["task", "dataset"]):
        assert set(world["trainer"]) == {arm.trainer for arm in preset.arms}
    assert sorted(path.name for path in mine.iterdir()) == FILES
    claims = json.loads((mine / "claims.json").read_text())["claims"]
    assert {claim["verdict"] for claim in claims.values()} == {"inconclusive"}  # a smoke preset judges nothing
    first, *_, compared = (json.loads(line) for line in walked.stdout.splitlines() if line.startswith("{"))
    assert first["runs_done"] == len(preset.worlds) * len(preset.arms)
    assert compared["first"] == "results/extrapolation/digits"
    page = (tmp_path / "eltbench" / "mine.html").read_text(encoding="utf-8")
    assert "extrapolation, smoke" in page
    assert page.count("? inconclusive") >= len(claims)
    (entry,) = json.loads((mine / "provenance.json").read_text())["commands"]
    assert entry["git_commit"]  # the clone's own
