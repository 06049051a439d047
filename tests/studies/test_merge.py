"""Two machines' results become what one machine that ran it all would have published, or are refused."""

import json
import shutil
from pathlib import Path

import pytest

from eltbench import cli, results
from eltbench.merging import ContradictionError
from eltbench.schema import row_schema
from eltbench.studies.extrapolation import Extrapolation
from eltbench.studies.merge import read_folders

PUBLISHED = Path(__file__).parents[2] / "results"
RELAY = Path("extrapolation") / "relay"


def machine(root, seeds, change=lambda rows: rows):
    """Published results of some seeds, as a machine of its own would have them: with its name and its command."""
    folder = root / RELAY
    folder.mkdir(parents=True)
    rows = results.read_rows(PUBLISHED / RELAY / "rows.parquet")
    rows = change(rows[rows["seed"].isin(seeds)].assign(host=root.name))
    results.write_rows(folder / "rows.parquet", rows, row_schema(Extrapolation.columns))
    command = json.loads((PUBLISHED / RELAY / "provenance.json").read_text())["commands"][0]
    (folder / "provenance.json").write_text(json.dumps({"commands": [{**command, "host": root.name}]}))
    return root


def plain(rows):
    return sorted(rows.drop(columns=["host"]).astype(object).fillna("").astype(str).to_numpy().tolist())


@pytest.mark.slow
def test_seeds_of_two_machines_come_to_the_published_verdicts(tmp_path, capsys):
    one, two = machine(tmp_path / "one", (0, 1, 2)), machine(tmp_path / "two", (2, 3, 4))
    shutil.copytree(PUBLISHED / "audit", two / "audit")  # which one machine alone has
    assert cli.main(["merge", str(one), str(two), "--into", str(tmp_path / "both")]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    merged = tmp_path / "both" / RELAY
    rows = results.read_rows(merged / "rows.parquet")
    published = results.read_rows(PUBLISHED / RELAY / "rows.parquet")
    assert plain(rows) == plain(published)
    assert set(rows[rows["seed"] == 2]["host"]) == {"one"}
    assert (merged / "claims.json").read_text() == (PUBLISHED / RELAY / "claims.json").read_text()
    assert {"summary.csv", "figure.png", "figure.pdf"} <= {path.name for path in merged.iterdir()}
    commands = json.loads((merged / "provenance.json").read_text())["commands"]
    assert [command["host"] for command in commands] == ["one", "two"]
    audit = {path.name: path.read_bytes() for path in (tmp_path / "both" / "audit").iterdir()}
    assert audit == {path.name: path.read_bytes() for path in (PUBLISHED / "audit").iterdir()}
    assert said["folders"] == 2


def test_another_value_is_refused_with_both_origins_and_nothing_is_written(tmp_path, capsys):
    one = machine(tmp_path / "one", (0, 1))
    two = machine(tmp_path / "two", (1, 2), lambda rows: rows.assign(value=rows["value"] + 1e-9))
    assert cli.main(["merge", str(one), str(two), "--into", str(tmp_path / "both")]) == 2
    error = capsys.readouterr().err
    assert "rows contradict one another" in error
    assert f"{one / RELAY} has " in error
    assert f"{two / RELAY} has " in error
    assert not (tmp_path / "both").exists()


def test_two_versions_of_one_model_are_refused_with_both_origins(tmp_path):
    one = machine(tmp_path / "one", (0, 1))
    two = machine(tmp_path / "two", (1, 2), lambda rows: rows.assign(run_id=rows["run_id"].str[::-1]))
    with pytest.raises(ContradictionError, match=f"two versions of one model.* in {one / RELAY}; .* in {two / RELAY}"):
        read_folders([one, two], tmp_path / "both")


def test_models_of_two_recipes_are_refused_with_the_field_and_nothing_is_written(tmp_path, capsys):
    one, two = machine(tmp_path / "one", (0, 1, 2)), machine(tmp_path / "two", (3, 4))
    path = two / RELAY / "provenance.json"
    made = json.loads(path.read_text())
    made["commands"][0]["presets"][0]["optimisation"]["steps"] = 150
    path.write_text(json.dumps(made))
    assert cli.main(["merge", str(one), str(two), "--into", str(tmp_path / "both")]) == 2
    assert (
        f"masked relay torch were trained or measured in two ways: field optimisation.steps: {one} 1500, {two} 150"
        in (capsys.readouterr().err)
    )
    assert not (tmp_path / "both").exists()


def test_what_is_in_the_target_counts_as_an_origin(tmp_path):
    one, two, there = (machine(tmp_path / name, (seed,)) for name, seed in (("one", 0), ("two", 1), ("there", 2)))
    (folder,) = read_folders([one, two], there)
    assert set(folder.rows["seed"]) == {0, 1, 2}


def test_rows_of_an_older_schema_are_refused_with_the_version(tmp_path, capsys):
    one, two = machine(tmp_path / "one", (0,)), machine(tmp_path / "two", (1,))
    path = two / RELAY / "rows.parquet"
    results.write_table(path, results.pq.read_table(path).replace_schema_metadata({results.VERSION_KEY: b"0"}))
    assert cli.main(["merge", str(one), str(two), "--into", str(tmp_path / "both")]) == 2
    assert f"{path} has schema version '0', this eltbench reads version '1'" in capsys.readouterr().err


def test_results_without_where_they_come_from_are_refused(tmp_path):
    one, two = machine(tmp_path / "one", (0,)), machine(tmp_path / "two", (1,))
    (two / RELAY / "provenance.json").unlink()
    with pytest.raises(ValueError, match=r"provenance.json cannot be read"):
        read_folders([one, two], tmp_path / "both")


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    one, two = machine(tmp_path / "one", (0,)), machine(tmp_path / "two", (1,))
    assert cli.main(["merge", str(one), str(two), "--into", str(tmp_path / "both"), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["dry_run"] is True
    assert not (tmp_path / "both").exists()
