"""Rows and run caches of several machines become one set: nothing twice, nothing lost, nothing that contradicts."""

import hashlib
import json
import os
import shutil
import stat

import pandas as pd
import pyarrow as pa
import pytest
from cached import RUN, done, partial, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from eltbench.cli import main as cli
from eltbench.evidence import results
from eltbench.evidence.schema import row_schema, validate
from eltbench.execution.cache import cached_runs, merge_caches, tensors
from eltbench.execution.results_merge import ContradictionError, merged_rows
from eltbench.execution.store import WEIGHTS, RunStore
from eltbench.training.job import Job

EXTRA = {"role": pa.string(), "sampling_steps": pa.int64(), "threshold": pa.float64()}
DAY = pd.Timedelta(days=1)
UMASK = os.umask(0)
os.umask(UMASK)


def table(seeds=(0, 1), losses=(0.5, 0.25), seconds=0.1, host="one", day=0, role="main"):
    """Rows of two exits a seed and a call's time, as one machine measured them."""
    parts = []
    for seed in seeds:
        run = seeded(seed)
        rows = [{"loops": loops, "metric": "loss", "value": loss + seed} for loops, loss in enumerate(losses, 1)]
        rows += [{"loops": None, "metric": "saved", "threshold": limit, "value": 2 * limit} for limit in (0.1, 0.2)]
        rows += [{"loops": 1, "metric": "call_seconds", "sampling_steps": 4, "value": seconds}]
        parts.append(results.stamp(rows, run, Job(run).run_id, "0" * 12, EXTRA))
    time = pd.Timestamp("2026-01-01", tz="UTC") + day * DAY
    frame = pd.concat(parts).assign(host=host, time=time, study="extrapolation", preset="made-up", role=role)
    return validate(frame, row_schema(EXTRA))


def plain(frame, leave=()):
    """Rows as a list that two tables share where they hold the same, in whatever order."""
    return sorted(frame.drop(columns=list(leave)).astype(object).fillna("").astype(str).to_numpy().tolist())


class TestRows:
    @pytest.mark.slow
    @settings(max_examples=20)
    @given(st.lists(st.sampled_from(["a", "b", "both"]), min_size=8, max_size=8))
    def test_however_rows_are_divided_the_merge_is_the_whole(self, owners):
        whole = table()
        owner = [owners[name] for name in (0, 1, 2, 2, 3, 4, 5, 6, 6, 7)]  # rows of one name stay together
        parts = {origin: whole.filter(pa.array([its in (origin, "both") for its in owner])) for origin in ("a", "b")}
        assert plain(merged_rows(parts)) == plain(whole.to_pandas())

    def test_the_order_of_the_origins_does_not_matter_and_merging_again_changes_nothing(self):
        one, two = table(), table(seeds=(1, 2), host="two", day=1, seconds=0.3)
        merged = merged_rows({"a": one, "b": two})
        assert plain(merged_rows({"b": two, "a": one})) == plain(merged)
        assert plain(merged_rows({"a": one, "c": validate(merged, row_schema(EXTRA))})) == plain(merged)

    def test_a_row_of_two_machines_stands_once_as_it_was_measured_first(self):
        merged = merged_rows({"a": table(host="late", day=2), "b": table(host="early", day=1)})
        assert len(merged) == len(table())
        assert set(merged.host) == {"early"}

    def test_of_two_wall_clocks_the_first_stands(self):
        merged = merged_rows({"a": table(seconds=0.3, day=2), "b": table(seconds=0.1, day=1)})
        assert set(merged[merged.metric == "call_seconds"].value) == {0.1}

    @pytest.mark.parametrize("changed", [{"losses": (0.5, 0.25000001)}, {"losses": (0.5, float("nan"))}])
    def test_another_value_under_one_name_is_refused_with_both_origins(self, changed):
        with pytest.raises(ContradictionError) as refused:
            merged_rows({"here/a": table(), "there/b": table(seeds=(1,), host="two", **changed)})
        words = str(refused.value)
        assert "1 rows contradict" in words
        assert "trainer elt role main task diffusion dataset digits seed 1 loops 2" in words
        assert "here/a has 1.25 (one, " in words
        assert "there/b has " in words

    @pytest.mark.parametrize("column", ["threshold", "n_samples", "macs"])
    def test_other_numbers_beside_the_value_are_a_contradiction_too(self, column):
        two = table(host="two")
        other = two.to_pandas()
        other.loc[0, column] = 7
        with pytest.raises(ContradictionError):
            merged_rows({"a": table(), "b": validate(other, row_schema(EXTRA))})

    def test_what_differs_by_a_key_column_is_another_row(self):
        assert len(merged_rows({"a": table(), "b": table(role="control")})) == 2 * len(table())


def with_metadata(path, names):
    """Write these names into a safetensors file in this order; the library's own is another in every process."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict.fromkeys(names, "said"), **json.loads(data[8:end])}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    assert load_file(path)["weights"].shape == (8, 8)


@pytest.fixture
def machines(tmp_path):
    """Two caches: seed 0 on both, seeds 1 and 2 on one each; the second machine measured a day later."""
    one, two = RunStore(tmp_path / "one"), RunStore(tmp_path / "two")
    done(one), done(one, seeded(1))
    shutil.copytree(one.directory(Job(RUN).run_id), two.directory(Job(RUN).run_id))
    done(two, seeded(2))
    partial(two, seeded(3))
    for store in (one, two):
        for record in store.root.glob("*/done.json"):
            said = json.loads(record.read_text())
            said["provenance"] |= {"host": store.root.name, "time": f"2026-01-0{1 + (store is two)}T00:00:00+00:00"}
            record.write_text(json.dumps(said))
    return one, two


@pytest.fixture
def ask(capsys):
    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return run


class TestCaches:
    def test_every_finished_run_is_there_once_with_what_was_measured(self, machines, tmp_path, ask):
        one, two = machines
        (one.directory(Job(RUN).run_id) / f"{WEIGHTS}.damaged-1").write_text("of an earlier attempt")
        code, said, _ = ask("merge", one.root, two.root, "--into", tmp_path / "all")
        assert code == 0
        assert json.loads(said[-1]) | {"into": ""} == {
            "into": "", "runs": 3, "duplicates": 1, "unfinished": 1, "dry_run": False
        }  # fmt: skip
        store = RunStore(tmp_path / "all")
        merged = cached_runs(store)
        assert {each.run_id for each in merged} == {Job(seeded(seed)).run_id for seed in range(3)}
        assert all(each.state == "done" and store.tables(each.run_id) for each in merged)
        assert ask("runs", "verify", "--runs", tmp_path / "all")[0] == 0
        assert not list(tmp_path.glob("all/*/*.damaged-*"))

    def test_the_first_record_stands_and_keeps_the_others(self, machines, tmp_path):
        for number, order in enumerate((machines, machines[::-1])):
            merge_caches([store.root for store in order], tmp_path / str(number))
            record = RunStore(tmp_path / str(number)).record(Job(RUN).run_id)
            assert record["provenance"]["host"] == "one"
            assert [also["provenance"]["host"] for also in record["also_made"]] == ["two"]

    def test_merging_again_changes_nothing(self, machines, tmp_path):
        roots = [store.root for store in machines]
        merge_caches(roots, tmp_path / "all")
        before = {path: path.read_bytes() for path in (tmp_path / "all").rglob("*") if path.is_file()}
        merge_caches([*roots, tmp_path / "all"], tmp_path / "all")
        assert {path: path.read_bytes() for path in (tmp_path / "all").rglob("*") if path.is_file()} == before

    def test_a_measurement_that_one_machine_lacks_is_taken_from_the_other(self, machines, tmp_path):
        one, two = machines
        shutil.rmtree(one.directory(Job(RUN).run_id) / "measurements")
        merge_caches([one.root, two.root], tmp_path / "all")
        files = (tmp_path / "all" / Job(RUN).run_id / "measurements").iterdir()
        assert sorted(path.name.partition(".")[2] for path in files) == ["items.parquet", "parquet"]

    def test_other_weights_of_one_run_are_refused_with_both_origins_before_anything_is_written(
        self, machines, tmp_path, ask
    ):
        one, two = machines
        done(two, fill=2.0)
        code, _, error = ask("merge", one.root, two.root, "--into", tmp_path / "all")
        assert code == 2
        for origin in (f"{one.root} (made on one, 2026-01-01", f"{two.root} (made on "):
            assert origin in error
        assert f"eltbench runs prune {Job(RUN).run_id} --runs {two.root}" in error
        assert not (tmp_path / "all").exists()

    def test_equal_weights_in_files_that_differ_are_the_same(self, machines, tmp_path):
        job = Job(RUN)
        for store, order in zip(machines, (("format", "step"), ("step", "format")), strict=True):
            with_metadata(store.directory(job.run_id) / WEIGHTS, order)
            store.finish(RUN, job.run_id, seconds=8.0, resumed=False)
        one, two = (store.directory(job.run_id) / WEIGHTS for store in machines)
        assert one.read_bytes() != two.read_bytes()
        merge_caches([store.root for store in machines], tmp_path / "all")
        assert tensors(tmp_path / "all" / job.run_id / WEIGHTS) == tensors(one) == tensors(two)

    def test_another_value_of_one_measurement_is_refused(self, machines, tmp_path):
        one, two = machines
        done(two, loss=0.75)
        with pytest.raises(ContradictionError, match="1 rows contradict"):
            merge_caches([one.root, two.root], tmp_path / "all")

    def test_other_rows_of_one_measurement_are_refused(self, machines, tmp_path):
        one, two = machines
        job = done(two)
        path = two.measurement_path(job.run_id, job.study, job.digest)
        results.write_table(path, results.pq.read_table(path).slice(0, 1))
        with pytest.raises(ContradictionError, match="has other rows in"):
            merge_caches([one.root, two.root], tmp_path / "all")

    def test_another_wall_clock_is_no_contradiction(self, machines, tmp_path):
        one, two = machines
        done(two, call_seconds=9.0)
        merge_caches([two.root, one.root], tmp_path / "all")
        rows = pd.concat(map(results.read_rows, (tmp_path / "all" / Job(RUN).run_id).glob("*/*[0-9a-f].parquet")))
        assert set(rows[rows.metric == "call_seconds"].value) == {0.25}

    def test_a_damaged_run_is_refused_with_what_to_do(self, machines, tmp_path):
        one, two = machines
        path = two.directory(Job(RUN).run_id) / WEIGHTS
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(
            ValueError, match=f"{WEIGHTS} is not the file that was written.*verify .* --runs {two.root}"
        ):
            merge_caches([one.root, two.root], tmp_path / "all")

    def test_rows_of_an_older_schema_are_refused_with_the_version(self, machines, tmp_path):
        one, two = machines
        job = done(two, seeded(2))
        path = two.measurement_path(job.run_id, job.study, job.digest)
        rows = results.pq.read_table(path)
        results.write_table(path, rows.replace_schema_metadata({results.VERSION_KEY: b"0"}))
        with pytest.raises(ValueError, match="schema version '0', this eltbench reads version '1'"):
            merge_caches([one.root, two.root], tmp_path / "all")

    def test_a_run_that_does_not_say_where_it_was_made_is_refused(self, machines, tmp_path):
        one, two = machines
        path = two.directory(Job(seeded(2)).run_id) / "done.json"
        record = json.loads(path.read_text())
        del record["provenance"]
        path.write_text(json.dumps(record))
        with pytest.raises(ValueError, match=r"done.json does not say when and where the run was made"):
            merge_caches([one.root, two.root], tmp_path / "all")

    def test_a_run_in_work_where_it_would_go_is_refused(self, machines, tmp_path):
        one, two = machines
        run = RunStore(tmp_path / "all").lock(Job(seeded(1)).run_id)
        with run, pytest.raises(ValueError, match=r"is in work in .*all: wait for its end and merge again"):
            merge_caches([one.root, two.root], tmp_path / "all")

    @pytest.mark.parametrize("name", ["../../.profile", "../victim", "/etc/hostname", "run.json"])
    def test_a_merge_writes_nothing_outside_its_target(self, machines, tmp_path, ask, name):
        one, two = machines
        directory = two.directory(Job(seeded(2)).run_id)
        (directory / "../../.profile").write_text("theirs")
        (directory / "../victim").write_text("theirs")
        record = json.loads((directory / "done.json").read_text())
        path = directory / name
        data = path.read_bytes()
        record["checkpoint"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        (directory / "done.json").write_text(json.dumps(record))
        (tmp_path / "deep" / "er").mkdir(parents=True)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        code, _, error = ask("merge", one.root, two.root, "--into", tmp_path / "deep" / "er" / "all")
        assert code == 2
        assert "done.json does not say which files of its own there are" in error
        assert f"eltbench runs verify {directory.name} --repair --runs {two.root}" in error
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    def test_what_links_lead_to_is_not_copied(self, machines, tmp_path):
        one, two = machines
        secret = tmp_path / "secret"
        secret.write_text("mine")
        directory = two.directory(Job(seeded(2)).run_id)
        for name in (
            "log.jsonl",
            "measurements/extrapolation-0123.parquet",
            "measurements/extrapolation-0123.x.parquet",
        ):
            (directory / name).symlink_to(secret)
        merge_caches([one.root, two.root], tmp_path / "all")
        copied = [path for path in (tmp_path / "all").rglob("*") if path.is_file()]
        assert all(not path.is_symlink() and path.read_bytes() != b"mine" for path in copied)
        assert RunStore(tmp_path / "all").state(directory.name) == "done"

    def test_nothing_is_written_through_links_in_the_target(self, machines, tmp_path):
        one, two = machines
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (tmp_path / "all").mkdir()
        (tmp_path / "all" / Job(seeded(1)).run_id).symlink_to(elsewhere)
        with pytest.raises(ValueError, match="is a link, which is not followed"):
            merge_caches([one.root, two.root], tmp_path / "all")
        assert list(elsewhere.iterdir()) == []

    def test_where_a_run_was_made_is_printed_without_what_controls_a_terminal(self, machines, tmp_path, ask):
        one, two = machines
        done(two, fill=2.0)
        path = two.directory(Job(RUN).run_id) / "done.json"
        record = json.loads(path.read_text())
        record["provenance"]["host"] = "\x1b]0;owned\x07"
        path.write_text(json.dumps(record))
        code, _, error = ask("merge", one.root, two.root, "--into", tmp_path / "all")
        assert (code, r"\x1b]0;owned\x07" in error, "\x1b" in error) == (2, True, False)

    def test_copies_follow_the_umask(self, machines, tmp_path):
        for path in machines[0].root.rglob("*.safetensors"):
            path.chmod(0o4600)
        merge_caches([store.root for store in machines], tmp_path / "all")
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "all").glob("*/*.safetensors")}
        assert modes == {0o666 & ~UMASK}

    def test_a_dry_run_writes_nothing(self, machines, tmp_path):
        assert merge_caches([store.root for store in machines], tmp_path / "all", dry_run=True).runs == 3
        assert not (tmp_path / "all").exists()


def test_folders_of_two_kinds_or_none_are_refused(machines, tmp_path, ask):
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows").mkdir()
    results.write_table(tmp_path / "rows" / "rows.parquet", table())
    one = machines[0].root
    for others, words in [
        ([tmp_path / "empty"], "holds neither results"),
        ([tmp_path / "rows"], "cannot be mixed"),
        ([tmp_path / "nowhere"], "no folder"),
        ([one], "two folders or more, each once"),
        ([], "two folders or more, each once"),
    ]:
        code, _, error = ask("merge", one, *others, "--into", tmp_path / "all")
        assert (code, words in error) == (2, True)
