"""The run cache: what counts as done, and damage that is noticed, set aside and redone."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from filelock import Timeout
from safetensors.numpy import save_file

from eltbench.core.atomic import write_json
from eltbench.core.config import Run
from eltbench.execution import store as runs
from eltbench.execution.store import WEIGHTS, RunStore, problems, set_aside, set_damage_aside
from eltbench.execution.sweep import Durations
from eltbench.training.job import Job, measurement_hash

RUN = Run("elt", "diffusion", "digits")


def test_what_is_written_of_a_run_is_json_that_every_reader_takes(tmp_path):
    store = RunStore(tmp_path)
    store.finish(RUN, "0123", seconds=float("inf"), resumed=False)
    record = json.loads((tmp_path / "0123" / "done.json").read_text(), parse_constant=pytest.fail)
    assert record["seconds"] is None


def test_a_number_that_is_not_finite_stands_as_null_wherever_it_is(tmp_path):
    write_json(tmp_path / "some.json", {"a": [1.5, float("nan"), {"b": (float("-inf"), "x")}]}, indent=1)
    assert json.loads((tmp_path / "some.json").read_text()) == {"a": [1.5, None, {"b": [None, "x"]}]}


ID = "0123456789abcdef"


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def checkpoint(store, fill=1.0):
    directory = store.directory(ID)
    directory.mkdir(parents=True, exist_ok=True)
    save_file({"weights": np.full((64, 64), fill, np.float32)}, directory / WEIGHTS)
    (directory / "checkpoint.json").write_text('{"step": 1000}')


@pytest.fixture
def done(store):
    checkpoint(store)
    store.begin(RUN, ID)
    store.finish(RUN, ID, seconds=1.5, resumed=False)
    return store.directory(ID)


def repaired(store):
    warnings = []
    with store.lock(ID):
        store.repair(ID, warnings.append)
    return warnings


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


class TestState:
    def test_a_run_goes_from_missing_over_partial_to_done(self, store):
        assert store.state(ID) == "missing"
        checkpoint(store)
        assert store.state(ID) == "partial"
        store.finish(RUN, ID, seconds=1.5, resumed=False)
        assert store.state(ID) == "done"

    def test_a_failure_is_not_a_result_and_is_forgotten_when_the_run_succeeds(self, store):
        store.fail(ID, "Traceback: no")
        assert (store.state(ID), store.failure(ID)) == ("failed", "Traceback: no")
        checkpoint(store)
        assert store.state(ID) == "failed"
        store.finish(RUN, ID, seconds=1.5, resumed=False)
        assert (store.state(ID), store.failure(ID)) == ("done", None)

    def test_the_record_says_steps_seconds_and_where_it_was_made(self, store, done):
        record = store.record(ID)
        assert (record["steps"], record["seconds"]) == (RUN.optimisation.steps, 1.5)
        assert record["provenance"]["host"]

    def test_the_folder_says_which_run_it_holds(self, done):
        assert json.loads((done / "run.json").read_text()) == json.loads(json.dumps(RUN.to_dict()))

    @pytest.mark.parametrize("name", [WEIGHTS, "checkpoint.json", "done.json"])
    def test_a_run_with_a_truncated_file_is_not_done(self, store, done, name):
        truncate(done / name)
        assert store.state(ID) == "partial"

    @pytest.mark.parametrize("text", ["[]", "{}", "null", '{"checkpoint": 1}'])
    def test_a_record_of_another_form_is_not_done(self, store, done, text):
        (done / "done.json").write_text(text)
        assert store.state(ID) == "partial"


class TestRepair:
    def test_a_sound_run_is_left_alone(self, store, done):
        before = {path.name: path.read_bytes() for path in done.iterdir()}
        assert repaired(store) == []
        after = {path.name: path.read_bytes() for path in done.iterdir() if path.name != "lock"}
        assert after == before

    def test_a_truncated_checkpoint_of_a_done_run_is_set_aside_with_its_record(self, store, done):
        truncate(done / WEIGHTS)
        warnings = repaired(store)
        assert f"{done / WEIGHTS} (" in warnings[0]
        assert (done / f"{WEIGHTS}.damaged-1").exists()
        assert store.state(ID) == "missing"

    def test_one_flipped_bit_is_noticed(self, store, done):
        data = bytearray((done / WEIGHTS).read_bytes())
        data[-1] ^= 1
        (done / WEIGHTS).write_bytes(data)
        assert store.state(ID) == "done"  # sizes agree: only reading all of it tells
        assert "is not the file that was written" in repaired(store)[0]
        assert store.state(ID) == "missing"

    def test_a_damaged_record_is_set_aside_and_the_checkpoint_kept(self, store, done):
        truncate(done / "done.json")
        assert len(repaired(store)) == 1
        assert store.state(ID) == "partial"

    @pytest.mark.parametrize("name", [WEIGHTS, "checkpoint.json"])
    def test_a_truncated_checkpoint_of_an_unfinished_run_is_set_aside(self, store, name):
        checkpoint(store)
        (store.directory(ID) / name).write_bytes((store.directory(ID) / name).read_bytes()[:-5])
        assert name in repaired(store)[0]
        assert store.state(ID) == "missing"

    def test_damaged_files_are_numbered(self, tmp_path):
        for _ in range(2):
            (tmp_path / "rows.parquet").write_text("no parquet")
            set_aside(tmp_path / "rows.parquet", "damaged")
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "rows.parquet.damaged-1",
            "rows.parquet.damaged-2",
        ]

    def test_what_a_killed_writer_left_is_removed(self, store, done):
        (done / f"{WEIGHTS}.77.tmp").write_bytes(b"half")
        repaired(store)
        assert not list(done.glob("*.tmp"))


def changed(path, **changes):
    """Write a record with some of its fields otherwise; None takes a field away."""
    record = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))


SUM = {"sha256": "0" * 64, "bytes": 4}
ODD_RECORDS = [
    *({name: None} for name in ("run_id", "steps", "seconds", "resumed", "checkpoint", "provenance")),
    {"run_id": "f" * 16},
    {"run_id": 3},
    {"steps": "1000"},
    {"steps": True},
    {"seconds": "soon"},
    {"seconds": -1.0},
    {"seconds": 10**400},
    {"resumed": 0},
    {"provenance": {}},
    {"provenance": {"time": 3, "host": "here"}},
    {"also_made": 3},
    {"checkpoint": {}},
    {"checkpoint": {WEIGHTS: SUM, "checkpoint.json": {"sha256": "0" * 64}}},
    {"checkpoint": {WEIGHTS: SUM, "checkpoint.json": {"sha256": "0" * 64, "bytes": "4"}}},
    {"checkpoint": {WEIGHTS: SUM, "checkpoint.json": {"sha256": 0, "bytes": 4}}},
    {"checkpoint": {WEIGHTS: SUM, "checkpoint.json": [4]}},
    *(
        {"checkpoint": {WEIGHTS: SUM, "checkpoint.json": SUM, name: SUM}}
        for name in (
            "../../.profile",
            "/etc/hostname",
            "..",
            "",
            "run.json",
            "done.json",
            "lock",
            "measurements/a.parquet",
            "snapshot-.safetensors",
            "snapshot-../x.safetensors",
            "snapshot-3.safetensors\n",
            "snapshot-" + "9" * 300 + ".safetensors",
            "x\0y",
        )
    ),
]


class TestStrangers:
    """A run's folder that someone else made."""

    @pytest.mark.parametrize("changes", ODD_RECORDS, ids=lambda changes: json.dumps(changes)[:60])
    def test_a_record_that_this_package_does_not_write_is_damaged_and_set_aside(self, store, done, changes):
        changed(done / "done.json", **changes)
        assert store.state(ID) == "partial"
        assert store.record(ID) is None
        assert Durations(store, [vars(job := Job(RUN)).update(run_id=ID) or job]).training(RUN) is None
        assert store.record_damage(ID)
        (warning,) = repaired(store)
        assert "set aside as done.json.damaged-1" in warning

    @pytest.mark.parametrize(
        "data", [b"[" * 5000, b"[" * 500 + b"]" * 500, b'{"seconds": NaN}', b"\xff\xfe", b'{"seconds": 1e999}']
    )
    def test_an_unreadable_record_is_damaged_and_set_aside(self, store, done, data):
        (done / "done.json").write_bytes(data)
        assert store.state(ID) == "partial"
        assert "is unreadable" in repaired(store)[0]

    @pytest.mark.parametrize("name", ["../victim", "../../victim"])
    def test_repair_touches_nothing_outside_the_run(self, store, done, name):
        victim = done / name
        victim.write_text("mine")
        files = json.loads((done / "done.json").read_text())["checkpoint"]
        changed(done / "done.json", checkpoint={**files, name: SUM})
        truncate(done / WEIGHTS)
        repaired(store)
        assert victim.read_text() == "mine"

    @pytest.mark.parametrize("name", [WEIGHTS, "checkpoint.json", "done.json"])
    def test_a_link_is_no_file_of_the_run(self, store, done, tmp_path, name):
        victim = tmp_path / "victim"
        (done / name).rename(victim)  # whose content is as it was written
        (done / name).symlink_to(victim)
        before = victim.read_bytes()
        assert store.state(ID) == "partial"
        assert any("is a link, which is not followed" in warning for warning in repaired(store))
        assert victim.read_bytes() == before
        assert not (done / name).is_symlink()

    def test_measurements_and_lock_that_lead_elsewhere_are_not_written_through(self, store, done, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "rows.parquet").write_text("no parquet")
        (elsewhere / "a.1-0123abcd.tmp").write_text("theirs")
        (done / "measurements").symlink_to(elsewhere)
        (done / "lock").unlink(missing_ok=True)
        (done / "lock").symlink_to(elsewhere / "rows.parquet")
        before = {path: path.read_bytes() for path in elsewhere.iterdir()}
        assert not store.at_work(ID)
        assert [problem.path.name for problem in problems(store, ID) if problem.damaged] == ["lock", "measurements"]
        with pytest.raises(ValueError, match=r"lock is a link, which is not followed; .*verify --repair"):
            store.lock(ID)
        assert set_damage_aside(store, ID, lambda text: None)
        assert {path: path.read_bytes() for path in elsewhere.iterdir()} == before
        assert store.obstacles(ID) == {}

    def test_a_run_that_lies_in_another_cache_is_repaired_there_alone(self, store, done, tmp_path):
        other = RunStore(tmp_path / "other")
        other.root.mkdir()
        truncate(done / WEIGHTS)
        other.directory(ID).symlink_to(done)
        said = []
        set_damage_aside(other, ID, said.append)
        assert "is a link into another cache" in said[0]
        assert (done / WEIGHTS).exists()


REFUSED = r"Input/output error|Permission denied"


class TestReadErrors:
    """What the system refuses to read is not damaged."""

    @pytest.fixture(params=[OSError(5, "Input/output error"), PermissionError(13, "Permission denied")])
    def refused(self, request, monkeypatch):
        """From now on no file of this name can be opened; files and folders are listed as before."""

        def refuse(name):
            opened = runs.Path.open

            def open_or_refuse(path, *arguments, **named):
                if path.name == name:
                    raise request.param
                return opened(path, *arguments, **named)

            monkeypatch.setattr(runs.Path, "open", open_or_refuse)

        return refuse

    @pytest.mark.parametrize("name", [WEIGHTS, "checkpoint.json", "done.json"])
    def test_nothing_of_a_run_is_set_aside(self, store, done, refused, name):
        before = sorted(path.name for path in done.iterdir())
        refused(name)
        with pytest.raises(OSError, match=REFUSED):
            repaired(store)
        assert sorted(path.name for path in done.iterdir() if path.name != "lock") == before

    def test_the_weights_of_an_unfinished_run_are_not_set_aside(self, store, refused):
        checkpoint(store)
        refused(WEIGHTS)
        with pytest.raises(OSError, match=REFUSED):
            repaired(store)
        assert (store.directory(ID) / WEIGHTS).exists()

    def test_a_measurement_is_not_set_aside_and_not_taken_for_missing(self, store, done, refused):
        path = store.measurement_path(ID, "extrapolation", "0" * 12)
        path.parent.mkdir()
        pd.DataFrame({"value": np.arange(100.0)}).to_parquet(path)
        refused(path.name)
        with pytest.raises(OSError, match=REFUSED):
            repaired(store)
        with pytest.raises(OSError, match=REFUSED):
            store.measured(ID, "extrapolation", "0" * 12)
        assert path.exists()


class TestMeasurements:
    @pytest.fixture
    def path(self, store, done):
        path = store.measurement_path(ID, "extrapolation", "0" * 12)
        path.parent.mkdir()
        pd.DataFrame({"value": np.arange(100.0)}).to_parquet(path)
        return path

    def measured(self, store):
        return store.measured(ID, "extrapolation", "0" * 12)

    def test_a_whole_file_counts(self, store, path):
        assert self.measured(store)
        assert repaired(store) == []

    @pytest.mark.parametrize("keep", [0, 3, 11, 100, -1])
    def test_a_truncated_file_does_not_count_and_is_set_aside(self, store, path, keep):
        path.write_bytes(path.read_bytes()[:keep])
        assert not self.measured(store)
        assert str(path) in repaired(store)[0]
        assert not path.exists()

    def test_a_damaged_raw_table_takes_its_rows_along(self, store, path):
        path.with_suffix(".samples.parquet").write_text("no parquet")
        assert len(repaired(store)) == 2
        assert not self.measured(store)

    def test_the_hash_covers_study_version_and_every_setting(self):
        settings = {"exits": [1, 2], "steps": 16, "guidance_scale": 1.0}
        variants = [
            measurement_hash("extrapolation", 1, settings),
            measurement_hash("depth_grid", 1, settings),
            measurement_hash("extrapolation", 2, settings),
            *(measurement_hash("extrapolation", 1, {**settings, name: 3}) for name in settings),
        ]
        assert len(set(variants)) == len(variants)
        assert all(len(digest) == 12 and int(digest, 16) >= 0 for digest in variants)

    def test_the_hash_does_not_depend_on_the_order_of_settings(self):
        assert measurement_hash("a", 1, {"x": 1, "y": 2}) == measurement_hash("a", 1, {"y": 2, "x": 1})


class TestLock:
    HOLDER = (
        "import sys; from eltbench.execution.store import RunStore; "
        "lock = RunStore(sys.argv[1]).lock(sys.argv[2]).acquire()"
    )

    def test_another_process_holds_it_until_it_is_killed(self, store):
        script = self.HOLDER + "; print('held', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", script, str(store.root), ID]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(Timeout):
                store.lock(ID).acquire(timeout=0)
            os.kill(holder.pid, signal.SIGKILL)
        with store.lock(ID).acquire(timeout=5):
            pass

    def test_runs_do_not_lock_each_other(self, store):
        with store.lock(ID), store.lock("f" * 16).acquire(timeout=0):
            pass


def test_equal_runs_share_a_folder_and_other_seeds_do_not(store):
    assert Job(RUN).run_id == Job(replace(RUN)).run_id != Job(replace(RUN, seed=1)).run_id
