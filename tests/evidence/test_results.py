"""Rows: one schema, whole files, provenance, and published rows that a narrowed command cannot remove."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eltbench.core.atomic import NotWritableError, check_writable
from eltbench.core.config import Architecture, Run
from eltbench.core.provenance import provenance, row_provenance
from eltbench.evidence import results
from eltbench.evidence.schema import COLUMNS, part_schema, row_schema, validate
from eltbench.execution.collect import collect
from eltbench.execution.store import RunStore
from eltbench.training.job import Job

DIGEST = "0" * 12
EXTRA = {"role": pa.string(), "sampling_steps": pa.int64()}
RUN = Run("elt", "diffusion", "digits", seed=3, architecture=Architecture(unique_layers=2, max_loops=4))


def rows(run=RUN, run_id="a" * 16, values=(0.5, 0.25), **more):
    measured = [
        {"loops": loops, "split": "heldout", "metric": "loss", "value": value, "higher_is_better": False, **more}
        for loops, value in enumerate(values, start=1)
    ]
    return results.stamp(measured, run, run_id, DIGEST, EXTRA)


def published(run=RUN, run_id="a" * 16, role="main", **more):
    return rows(run, run_id, **more).assign(study="extrapolation", preset="smoke", role=role)


def table():
    """Two published rows as an arrow table, none of whose columns is declared free of gaps."""
    written = validate(published(), row_schema(EXTRA))
    free = pa.schema([field.with_nullable(True) for field in written.schema], metadata=written.schema.metadata)
    return pa.Table.from_arrays(written.columns, schema=free)


def planned(*jobs_with_ids, digest=DIGEST):
    """Jobs with the identities that the test chose."""
    for job, run_id in jobs_with_ids:
        vars(job).update(run_id=run_id, digest=digest)
    return [job for job, _ in jobs_with_ids]


def cell(model):
    return tuple(model[name] for name in (*results.CELL, "role"))


class TestSchema:
    def test_every_column_of_the_design_is_there_with_a_meaning(self):
        design = (
            "study preset run_id trainer task dataset backend device precision compiled unique_layers max_loops "
            "min_loops loops effective_depth width params weight_bytes macs flops seed split metric value "
            "higher_is_better n_samples feature_extractor"
        )
        assert " ".join(row_schema().names).startswith(design)
        assert all(column.meaning for column in COLUMNS.values())

    def test_a_stamped_row_carries_the_run_the_depth_and_the_provenance(self):
        row = rows(macs=10).iloc[1]
        assert (row.trainer, row.seed, row.loops, row.effective_depth) == ("elt", 3, 2, 4)
        assert (row.macs, row.flops) == (10, 20)
        assert row.time.tzinfo is not None
        assert row.host

    def test_what_a_row_says_itself_is_kept(self):
        assert set(rows(device="cuda").device) == {"cuda"}

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda frame: frame.assign(colour="red"), "unknown columns.*colour"),
            (lambda frame: frame.drop(columns="metric"), "missing columns.*metric"),
            (lambda frame: frame.assign(value="low"), "'value' must hold double"),
            (lambda frame: frame.assign(seed="3"), "'seed' must hold int64"),
            (lambda frame: frame.assign(loops=1.5), "'loops' must hold int64"),
            (lambda frame: frame.assign(compiled=1), "'compiled' must hold bool"),
            (lambda frame: frame.assign(seed=True), "'seed' must hold int64"),
            (lambda frame: frame.assign(time="yesterday"), "'time' must hold timestamp"),
            (lambda frame: frame.assign(metric=None), "'metric' must not be empty, 2 of 2"),
        ],
    )
    def test_a_frame_that_does_not_fit_is_refused_by_column(self, change, words):
        with pytest.raises(ValueError, match=words):
            validate(change(rows()), part_schema(EXTRA))

    def test_an_undeclared_column_of_a_measurement_is_refused(self):
        with pytest.raises(ValueError, match=r"unknown columns.*stratum"):
            rows(stratum=1)

    def test_a_shared_column_cannot_be_declared_again(self):
        with pytest.raises(ValueError, match="'seed' is one of the shared columns"):
            row_schema({"seed": pa.int64()})


class TestFiles:
    @pytest.mark.slow
    @given(
        st.lists(
            st.tuples(
                st.none() | st.integers(1, 64),
                st.none() | st.floats(allow_nan=False),
                st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_rows_come_back_as_they_were_written(self, tmp_path_factory, cells):
        path = tmp_path_factory.mktemp("rows") / "rows.parquet"
        frame = pd.concat([rows(values=(0.0,))] * len(cells), ignore_index=True)
        for name, values in zip(("loops", "value", "split"), zip(*cells, strict=True), strict=True):
            frame[name] = pd.Series(list(values), dtype=object)
        results.write_rows(path, frame, part_schema(EXTRA))
        back = pq.read_table(path)
        assert [(row["loops"], row["value"], row["split"]) for row in back.to_pylist()] == cells
        assert back.schema.equals(part_schema(EXTRA), check_metadata=True)

    @pytest.mark.parametrize("error", [OSError(5, "Input/output error"), PermissionError(13, "Permission denied")])
    @pytest.mark.parametrize(
        "read", [results.read_rows, results.load_rows, lambda path: results.read_columns(path, [])]
    )
    def test_what_the_system_refuses_to_read_is_not_called_damaged(self, tmp_path, monkeypatch, error, read):
        results.write_rows(tmp_path / "rows.parquet", published(), row_schema(EXTRA))

        def refuse(*arguments, **named):
            raise error

        monkeypatch.setattr(results.Path, "open", refuse)
        with pytest.raises(OSError, match=error.strerror):
            read(tmp_path / "rows.parquet")

    def test_a_measurement_that_cannot_be_read_stops_collecting_and_stays(self, tmp_path, monkeypatch):
        store, (job,) = RunStore(tmp_path), planned((Job(RUN, "extrapolation", {}), "a" * 16))
        path = store.measurement_path(job.run_id, "extrapolation", job.digest)
        results.write_rows(path, rows(), part_schema(EXTRA))

        def refuse(*arguments, **named):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(results.Path, "open", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            collect([job], store, "extrapolation", "smoke", EXTRA)
        assert path.exists()

    def test_a_plain_pandas_reader_sees_the_same_table(self, tmp_path):
        results.write_rows(tmp_path / "rows.parquet", published(), row_schema(EXTRA))
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "rows.parquet"), results.load_rows(tmp_path))

    def test_a_folder_gives_the_rows_of_all_its_studies(self, tmp_path):
        for preset in ("smoke", "quick"):
            path = tmp_path / "extrapolation" / preset / "rows.parquet"
            results.write_rows(path, published().assign(preset=preset), row_schema(EXTRA))
        assert set(results.load_rows(tmp_path).preset) == {"smoke", "quick"}

    def test_another_schema_version_is_refused_with_both_versions(self, tmp_path):
        schema = row_schema(EXTRA).with_metadata({"eltbench_schema": "0"})
        results.write_rows(tmp_path / "rows.parquet", published(), schema)
        with pytest.raises(ValueError, match=r"schema version '0'.*reads version '1'"):
            results.load_rows(tmp_path)

    @pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: b"", lambda data: data[: len(data) // 2]])
    def test_a_truncated_file_is_a_clear_error(self, tmp_path, damage):
        path = tmp_path / "rows.parquet"
        results.write_rows(path, published(), row_schema(EXTRA))
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(ValueError, match=r"rows.parquet is damaged or no parquet file"):
            results.load_rows(path)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", COLUMNS)
    def test_a_column_that_is_missing_or_of_another_type_is_refused_by_name(self, tmp_path, name):
        whole = table()
        other = pa.array([[1]] * len(whole))
        at = whole.column_names.index(name)
        for odd in (whole.drop_columns([name]), whole.set_column(at, name, other)):
            results.write_table(tmp_path / "rows.parquet", odd)
            with pytest.raises(ValueError, match=f"rows.parquet: rows: .*{name}"):
                results.load_rows(tmp_path)

    @pytest.mark.parametrize("name", [name for name, column in COLUMNS.items() if not column.nullable])
    def test_a_gap_where_none_may_be_is_refused_by_name(self, tmp_path, name):
        whole = table()
        gaps = pa.array([None, *whole.column(name).to_pylist()[1:]], whole.schema.field(name).type)
        results.write_table(tmp_path / "rows.parquet", whole.set_column(whole.column_names.index(name), name, gaps))
        with pytest.raises(ValueError, match=f"column '{name}' must not be empty, 1 of 2 rows are"):
            results.load_rows(tmp_path)

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("unique_layers", -5, "must be at least 1, found -5"),
            ("unique_layers", 2000, "must be at most 1024, found 2000"),
            ("loops", 0, "must be at least 1, found 0"),
            ("loops", 10**9, "must be at most 16384, found 1000000000"),
            ("max_loops", 10**7, "must be at most 1024"),
            ("seed", -1, "must be at least 0, found -1"),
            ("seed", 0.5, "must hold int64"),
            ("higher_is_better", "yes", "must hold bool"),
            ("value", "0.5", "must hold double"),
            ("time", "today", "must hold timestamp"),
            ("trainer", "elt\x1b[2J", r"holds control characters: 'elt\\x1b\[2J'"),
            ("role", "main\r", "holds control characters"),
            ("odd", [1], "must hold text, numbers or times"),
            ("odd", b"x", "must hold text, numbers or times"),
        ],
    )
    def test_values_that_no_row_can_have_are_refused_by_column(self, tmp_path, name, value, words):
        whole, column = table(), pa.array([value, value])
        if name in whole.column_names:
            odd = whole.set_column(whole.column_names.index(name), name, column)
        else:
            odd = whole.append_column(name, column)
        results.write_table(tmp_path / "rows.parquet", odd)
        with pytest.raises(ValueError, match=f"rows.parquet: rows: column '{name}' {words}"):
            results.load_rows(tmp_path)

    def test_a_column_named_twice_is_refused(self, tmp_path):
        whole = table()
        results.write_table(tmp_path / "rows.parquet", whole.append_column("value", whole.column("value")))
        with pytest.raises(ValueError, match=r"rows: columns named twice: \['value'\]"):
            results.load_rows(tmp_path)

    def test_numbers_that_a_reader_made_floats_of_and_columns_of_ones_own_are_taken(self, tmp_path):
        whole = table()
        floats = whole.set_column(whole.column_names.index("seed"), "seed", whole.column("seed").cast(pa.float64()))
        results.write_table(tmp_path / "rows.parquet", floats.append_column("mine", pa.array(["a", None])))
        rows = results.load_rows(tmp_path)
        assert rows["seed"].dtype == "int64"
        assert rows["mine"].iloc[0] == "a"

    def test_no_rows_is_a_clear_error(self, tmp_path):
        with pytest.raises(ValueError, match=r"no rows.parquet in .* or below it$"):
            results.load_rows(tmp_path)
        with pytest.raises(ValueError, match=r"; python -m eltbench.studies.depth_grid --preset relay writes them$"):
            results.load_rows(tmp_path / "results" / "depth_grid" / "relay")

    def test_an_interrupted_write_leaves_the_old_rows(self, tmp_path, monkeypatch):
        path = tmp_path / "rows.parquet"
        results.write_rows(path, published(), row_schema(EXTRA))
        before = path.read_bytes()

        def interrupted(table, where, **options):
            where.write(b"PAR1 half a ta")
            raise KeyboardInterrupt

        monkeypatch.setattr(results.pq, "write_table", interrupted)
        with pytest.raises(KeyboardInterrupt):
            results.write_rows(path, published(values=(9.0,)), row_schema(EXTRA))
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["rows.parquet"]

    def test_a_directory_that_cannot_be_written_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(NotWritableError, match=r"cannot write to .*file/results"):
            check_writable(tmp_path / "file" / "results")

    def test_a_writable_directory_is_left_empty(self, tmp_path):
        check_writable(tmp_path / "results")
        assert list((tmp_path / "results").iterdir()) == []


class TestCollect:
    def write_part(self, store, job, study, **more):
        path = store.measurement_path(job.run_id, study, job.digest)
        results.write_rows(path, rows(job.run, job.run_id, **more), part_schema(EXTRA))
        return path

    @pytest.fixture
    def study(self, monkeypatch):
        monkeypatch.setattr(Job, "digest", "0" * 12)
        return "extrapolation"

    def test_parts_are_stamped_with_study_preset_and_keys(self, tmp_path, study):
        store = RunStore(tmp_path)
        jobs = [Job(RUN, study, keys={"role": "main"}), Job(RUN, study, keys={"role": "control"})]
        self.write_part(store, jobs[0], study)
        frame = collect(jobs, store, study, "smoke", EXTRA)
        assert list(zip(frame.role, frame.loops, strict=True)) == [
            ("main", 1),
            ("main", 2),
            ("control", 1),
            ("control", 2),
        ]
        assert set(frame.study) == {"extrapolation"}
        assert set(frame.preset) == {"smoke"}

    def test_runs_without_a_measurement_give_no_rows(self, tmp_path, study):
        store, other = RunStore(tmp_path), replace(RUN, seed=4)
        self.write_part(store, Job(RUN, study), study)
        frame = collect([Job(RUN, study), Job(other, study)], store, study, "smoke", EXTRA)
        assert set(frame.seed) == {3}

    def test_no_measurement_at_all_gives_an_empty_table_of_the_schema(self, tmp_path, study):
        frame = collect([Job(RUN, study)], RunStore(tmp_path), study, "smoke", EXTRA)
        assert frame.empty
        assert list(frame.columns) == row_schema(EXTRA).names

    def test_a_damaged_part_is_set_aside_and_named(self, tmp_path, study):
        store, job = RunStore(tmp_path), Job(RUN, study)
        path = self.write_part(store, job, study)
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(ValueError, match=r"damaged-1.*\n.*repeat the command"):
            collect([job], store, study, "smoke", EXTRA)
        assert [file.name for file in path.parent.iterdir()] == [f"{path.name}.damaged-1"]


class TestPublishedRows:
    other = replace(RUN, seed=4)

    def test_a_narrowed_command_removes_nothing(self):
        old = pd.concat([published(), published(self.other, "b" * 16)])
        new = published(values=(0.4, 0.2))
        merged = results.merge_published(old, new, planned((Job(RUN, keys={"role": "main"}), "a" * 16)), cell)
        assert sorted(zip(merged.seed, merged.value, strict=True)) == [(3, 0.2), (3, 0.4), (4, 0.25), (4, 0.5)]

    def test_a_run_in_another_role_keeps_its_rows(self):
        old = pd.concat([published(), published(role="control")])
        plan = planned((Job(RUN, keys={"role": "main"}), "a" * 16))
        merged = results.merge_published(old, published(), plan, cell)
        assert sorted(merged.role) == ["control", "control", "main", "main"]

    def test_rows_of_a_planned_run_that_failed_now_are_kept(self):
        plan = planned((Job(RUN, keys={"role": "main"}), "a" * 16), (Job(self.other, keys={"role": "main"}), "b" * 16))
        old = pd.concat([published(), published(self.other, "b" * 16)])
        assert len(results.merge_published(old, published(), plan, cell)) == 4

    def test_another_version_of_a_planned_cell_is_refused(self):
        plan = planned((Job(RUN, keys={"role": "main"}), "c" * 16))
        with pytest.raises(ValueError, match=r"1 models of the planned cells under another identity.*--force"):
            results.merge_published(published(), published(run_id="c" * 16), plan, cell)

    def test_another_measurement_of_the_same_run_is_refused(self):
        plan = planned((Job(RUN, keys={"role": "main"}), "a" * 16), digest="1" * 12)
        with pytest.raises(ValueError, match="another identity"):
            results.merge_published(published(), published(), plan, cell)

    def test_what_a_cell_is_belongs_to_the_study(self):
        wider = replace(RUN, architecture=replace(RUN.architecture, width=128))
        plan = planned((Job(wider, keys={"role": "main"}), "c" * 16))
        new = published(wider, "c" * 16)
        assert len(results.merge_published(published(), new, plan, cell)) == 4
        with pytest.raises(ValueError, match="another identity"):
            results.merge_published(published(), new, plan, lambda model: (model["trainer"], model["seed"]))

    def test_cells_without_a_role_are_recognised_too(self):
        plan = planned((Job(RUN, keys={"role": None}), "c" * 16))
        with pytest.raises(ValueError, match="another identity"):
            results.merge_published(published(role=None), published(run_id="c" * 16, role=None), plan, cell)

    def test_force_leaves_the_present_rows_alone(self):
        plan = planned((Job(RUN, keys={"role": "main"}), "c" * 16))
        new = published(run_id="c" * 16)
        pd.testing.assert_frame_equal(results.merge_published(published(), new, plan, cell, force=True), new)

    def test_repeating_a_command_changes_nothing(self):
        plan = planned((Job(RUN, keys={"role": "main"}), "a" * 16))
        once = results.merge_published(None, published(), plan, cell)
        pd.testing.assert_frame_equal(results.merge_published(once, once, plan, cell), once)


class TestProvenance:
    def test_it_names_package_libraries_host_time_and_command(self):
        about = provenance()
        assert about["libraries"]["numpy"]
        assert about["host"]
        assert about["time"].endswith("+00:00")
        assert about["command"]
        assert about["python"].count(".") == 2

    def test_a_row_names_the_libraries_of_its_backend_alone(self):
        assert row_provenance("torch")["libraries"].startswith("torch==")
        assert "torch" not in row_provenance("jax")["libraries"]

    def test_the_commit_is_that_of_the_package_whatever_repository_the_environment_names(self, tmp_path, monkeypatch):
        from eltbench.core import provenance as module

        package = Path(module.__file__).parent
        committed = module._git(package, "rev-parse", "HEAD"), module._git(package, "ls-files", "__init__.py")
        subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
        for name, path in (("DIR", ".git"), ("WORK_TREE", "."), ("INDEX_FILE", ".git/index"), ("COMMON_DIR", ".git")):
            monkeypatch.setenv(f"GIT_{name}", str(tmp_path / path))
        found = module._git(package, "rev-parse", "HEAD"), module._git(package, "ls-files", "__init__.py")
        assert found == committed

    def test_an_untracked_copy_inside_a_repository_names_no_commit(self, tmp_path, monkeypatch):
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        package = tmp_path / "site-packages" / "eltbench"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        from eltbench.core import provenance as module

        monkeypatch.setattr(module, "__file__", str(package / "core" / "provenance.py"))
        assert module._commit.__wrapped__() == {"git_commit": None, "git_dirty": None}

    def test_a_changed_file_of_the_package_is_dirt_and_other_files_are_not(self, tmp_path, monkeypatch):
        def git(*arguments):
            identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
            done = subprocess.run(
                ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
            )
            return done.stdout.strip()

        package = tmp_path / "eltbench"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (tmp_path / "results.csv").write_text("")
        git("init", "-q")
        git("add", ".")
        git("commit", "-qm", "first")
        from eltbench.core import provenance as module

        monkeypatch.setattr(module, "__file__", str(package / "core" / "provenance.py"))
        (tmp_path / "results.csv").write_text("new results")
        assert module._commit.__wrapped__() == {"git_commit": git("rev-parse", "HEAD"), "git_dirty": False}
        (package / "__init__.py").write_text("changed = True")
        assert module._commit.__wrapped__()["git_dirty"] is True
