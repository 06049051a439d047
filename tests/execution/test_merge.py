"""Two machines' results become what one machine that ran it all would have published, or are refused."""

import json
import os
import shutil
from pathlib import Path

import pytest

from eltbench.cli import main as cli
from eltbench.core import atomic
from eltbench.evidence import results
from eltbench.evidence.schema import row_schema
from eltbench.execution import results_merge as merge
from eltbench.execution.results_merge import ContradictionError, read_folders
from eltbench.studies.extrapolation.study import Extrapolation

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
    audit = {path.name: path.read_bytes() for path in (tmp_path / "both" / "audit").iterdir() if path.name != ".lock"}
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


class KilledError(BaseException):
    """Stands for the end of the process: no handler of the code under test catches it."""


def killed(monkeypatch, after, merge):
    """Merge until so many files have appeared; gives whether there would have been more."""
    replaced, real = [], os.replace

    def replace_or_die(source, target):
        if len(replaced) == after:
            raise KilledError
        real(source, target)
        replaced.append(target)

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "replace", replace_or_die)
        try:
            merge()
        except KilledError:
            return True
    return False


@pytest.fixture
def merging(tmp_path, monkeypatch):
    """Two machines that share one study and have a second and a third one each, with a publishing that is fast."""

    def publish(folder, study, preset, rows, commands, *, smoke):
        for name in ("summary.csv", "claims.json", "figure.png"):
            atomic.write_text(folder / name, f"{name} of {sorted(rows['seed'].unique())}")
        atomic.write_text(folder / "provenance.json", json.dumps({"commands": commands}))
        results.write_rows(folder / "rows.parquet", rows, row_schema(study.columns))

    monkeypatch.setattr(merge, "publish", publish)
    one, two = machine(tmp_path / "one", (0, 1)), machine(tmp_path / "two", (1, 2))
    for root, name in ((one, "early"), (two, "late")):
        (alone,) = read_folders([root], tmp_path / "both")
        publish(root / RELAY, alone.study, RELAY.name, alone.rows, alone.commands, smoke=False)
        (root / RELAY / "samples-masked-relay-torch.png").write_text(f"picture of {root.name}")
        shutil.copytree(root / RELAY, root / "extrapolation" / name)
    return one, two, tmp_path / "both"


def tree(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_merge_that_is_killed_anywhere_is_noticed_and_the_repeated_one_ends_as_one_that_was_not(
    merging, tmp_path, monkeypatch, capsys
):
    one, two, _ = merging
    assert cli.main(["merge", str(one), str(two), "--into", str(tmp_path / "whole")]) == 0
    whole, after = tree(tmp_path / "whole"), 0
    killed_before_its_end = True
    while killed_before_its_end:
        into = tmp_path / f"killed-{after}"
        arguments = ["merge", str(one), str(two), "--into", str(into)]
        killed_before_its_end = killed(monkeypatch, after, lambda: cli.main(arguments))  # noqa: B023, called at once
        if after and killed_before_its_end:
            for rows in into.rglob("rows.parquet"):
                with pytest.raises(
                    ValueError, match=f"has not ended.* repeat it: eltbench merge {one} {two} --into {into}"
                ):
                    results.load_rows(rows)
                if rows.parent == into / RELAY:
                    assert set(results.read_table(rows, merging=True).column("seed").to_pylist()) == {0, 1, 2}
            assert cli.main(["merge", str(one), str(tmp_path / "two" / "extrapolation"), "--into", str(into)]) == 2
            assert "repeat it first" in capsys.readouterr().err
        assert cli.main(arguments) == 0
        assert tree(into) == whole
        after += 1
    assert after > 10
    assert (tmp_path / "whole" / RELAY / "samples-masked-relay-torch.png").read_text() == "picture of one"


def test_only_files_that_the_package_writes_are_copied_and_no_links(merging, tmp_path):
    one, two, both = merging
    secret = tmp_path / "secret"
    secret.write_text("mine")
    folder = one / "extrapolation" / "early"
    (folder / "figure.png").unlink()
    (folder / "figure.png").symlink_to(secret)
    for name in (".bashrc", "notes.txt", "index.html", "figure.svg", "samples-.png.sh", "rows.parquet.damaged-1"):
        (folder / name).write_text("theirs")
    assert cli.main(["merge", str(one), str(two), "--into", str(both)]) == 0
    copied = {path.name for path in (both / "extrapolation" / "early").iterdir()}
    assert copied - {".lock"} == {
        "rows.parquet",
        "provenance.json",
        "summary.csv",
        "claims.json",
        "samples-masked-relay-torch.png",
    }


def test_nothing_is_written_through_a_link_out_of_the_target(merging, tmp_path, capsys):
    one, two, both = merging
    (tmp_path / "elsewhere").mkdir()
    both.mkdir()
    (both / "extrapolation").symlink_to(tmp_path / "elsewhere")
    assert cli.main(["merge", str(one), str(two), "--into", str(both)]) == 2
    assert "link out of" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_host_in_rows_is_printed_without_what_controls_a_terminal(tmp_path, capsys):
    one = machine(tmp_path / "one", (0, 1), lambda rows: rows.assign(host="\x1b]0;owned\x07"))
    two = machine(tmp_path / "two", (1, 2), lambda rows: rows.assign(value=rows["value"] + 1e-9))
    assert cli.main(["merge", str(one), str(two), "--into", str(tmp_path / "both")]) == 2
    error = capsys.readouterr().err
    assert (r"\x1b]0;owned\x07" in error, "\x1b" in error) == (True, False)


@pytest.mark.parametrize(
    "text", ['{"commands": [{"seconds": Infinity}]}', '{"commands": 3}', '{"commands": [3]}', "[" * 9000, "[]"]
)
def test_an_odd_provenance_is_refused(tmp_path, text):
    one, two = machine(tmp_path / "one", (0,)), machine(tmp_path / "two", (1,))
    (two / RELAY / "provenance.json").write_text(text)
    with pytest.raises(ValueError, match=r"provenance.json cannot be read"):
        read_folders([one, two], tmp_path / "both")
