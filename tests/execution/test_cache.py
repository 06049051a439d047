"""The run cache as a whole: listed and narrowed without reading checkpoints, verified by checksum, pruned with care."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from cached import RUN, done, partial, seeded

from eltbench.cli import main as cli
from eltbench.core.config import run_from_dict
from eltbench.evidence import results
from eltbench.execution import cache
from eltbench.execution.cache import Filter, cached_runs, prune
from eltbench.execution.store import WEIGHTS, RunStore, problems, set_damage_aside

DAY = 86400.0


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def mixed(store):
    """A finished run of each of two trainers, one begun, one failed; by what they are."""
    failed = partial(store, seeded(7))
    store.fail(failed.run_id, "Traceback: no")
    return {
        "elt": done(store).run_id,
        "no-ilsd": done(store, replace(RUN, trainer="no-ilsd", seed=1)).run_id,
        "begun": partial(store, replace(RUN, task="masked", dataset="relay", backend="jax")).run_id,
        "failed": failed.run_id,
    }


@pytest.fixture
def ask(capsys, store):
    """Run a command on this cache; gives exit code, lines of stdout, what its last line says, and stderr."""

    def run(*arguments):
        code = cli.main([*arguments, "--runs", str(store.root)])
        said = capsys.readouterr()
        lines = said.out.splitlines()
        return code, lines[:-1], json.loads(lines[-1]) if lines else {}, said.err

    return run


def altered(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class TestList:
    def test_a_run_is_told_with_its_state_size_age_and_configuration(self, store, mixed):
        found = {each.run_id: each for each in cached_runs(store)}
        assert set(found) == set(mixed.values())
        elt = found[mixed["elt"]]
        assert (elt.state, run_from_dict(dict(elt.config))) == ("done", RUN)
        assert elt.size == sum(path.stat().st_size for path in store.directory(elt.run_id).rglob("*") if path.is_file())
        assert "elt diffusion digits torch 1N×2L width 8 seed 0" in elt.name

    @pytest.mark.parametrize(
        ("wanted", "names"),
        [
            (Filter(), {"elt", "no-ilsd", "begun", "failed"}),
            (Filter(trainers=("no-ilsd",)), {"no-ilsd"}),
            (Filter(tasks=("masked",)), {"begun"}),
            (Filter(datasets=("relay",)), {"begun"}),
            (Filter(backends=("torch",), states=("done", "failed")), {"elt", "no-ilsd", "failed"}),
            (Filter(seeds=(1, 7)), {"no-ilsd", "failed"}),
            (Filter(trainers=("elt",), seeds=(1,)), set()),
        ],
    )
    def test_all_that_a_filter_names_must_hold(self, store, mixed, wanted, names):
        assert {each.run_id for each in cached_runs(store, wanted)} == {mixed[name] for name in names}

    def test_age_counts_from_the_newest_file(self, store, mixed):
        now = 1_800_000_000.0
        for path in store.root.rglob("*"):
            os.utime(path, (now - 40 * DAY, now - 40 * DAY))
        rows = next(store.directory(mixed["elt"]).rglob("*.parquet"))
        os.utime(rows, (now - DAY, now - DAY))  # measured again yesterday
        old = {each.run_id for each in cached_runs(store, Filter(older_than=30 * DAY), now)}
        new = {each.run_id for each in cached_runs(store, Filter(newer_than=30 * DAY), now)}
        assert new == {mixed["elt"]}
        assert old == set(mixed.values()) - new

    def test_the_beginning_of_an_id_is_enough(self, store, mixed):
        assert [each.run_id for each in cached_runs(store, Filter(run_ids=(mixed["elt"][:10],)))] == [mixed["elt"]]

    @pytest.mark.parametrize("begin", ["", "xyz"])
    def test_an_id_that_names_no_run_is_refused(self, store, mixed, begin):
        with pytest.raises(ValueError, match=r"no run in .* has an id that begins with"):
            cached_runs(store, Filter(run_ids=(begin,)))

    def test_an_unknown_name_is_refused_with_the_near_miss(self, ask, mixed):
        code, _, _, error = ask("runs", "--trainers", "etl")
        assert code == 2
        assert "unknown trainer 'etl'; did you mean 'elt'?" in error

    def test_a_known_name_without_runs_gives_none(self, ask, mixed):
        assert ask("runs", "--trainers", "deq")[2]["runs"] == 0

    def test_a_run_of_a_plug_in_that_is_gone_is_still_found_by_name(self, store, mixed):
        config = store.directory(mixed["begun"]) / "run.json"
        config.write_text(config.read_text().replace('"elt"', '"theirs"'))
        assert [each.run_id for each in cached_runs(store, Filter(trainers=("theirs",)))] == [mixed["begun"]]

    def test_a_folder_without_a_cache_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"no run cache at .*nowhere"):
            cached_runs(RunStore(tmp_path / "nowhere"))

    def test_what_else_lies_there_is_not_taken_for_a_run(self, store, mixed):
        (store.root / "notes").mkdir()
        (store.root / "0123456789abcdef").write_text("a file")
        assert len(cached_runs(store)) == len(mixed)

    def test_the_command_prints_a_line_a_run_and_sums_up(self, ask, store, mixed):
        with store.lock(mixed["begun"]):
            code, lines, total, _ = ask("runs")
        assert code == 0
        head, *lines = lines
        assert head.split() == ["RUN", "STATE", "AGE", "SIZE", "MODEL"]
        assert sorted(line.split()[0] for line in lines) == sorted(mixed.values())
        for name in ("STATE", "MODEL"):
            assert {line[head.index(name) - 1] for line in lines} == {" "}
        assert [line.split()[1:3] for line in lines if line.startswith(mixed["begun"])] == [["in", "work"]]
        assert (total["runs"], total["done"], total["failed"], total["in_work"]) == (4, 2, 1, 1)

    @pytest.mark.parametrize("age", ["30", "d", "-1d", "soon"])
    def test_an_age_of_another_form_is_refused(self, ask, mixed, age):
        code, _, _, error = ask("runs", f"--older-than={age}")
        assert code == 2
        assert "--older-than: give a span of time such as 30d, 12h" in error

    def test_an_unknown_action_is_refused_with_the_near_miss(self, ask, mixed):
        code, _, _, error = ask("runs", "purne")
        assert (code, "did you mean 'prune'?" in error) == (2, True)


class TestStrangers:
    """A cache that someone else filled."""

    @pytest.mark.parametrize("action", [(), ("verify",), ("prune", "--states", "done", "partial")])
    @pytest.mark.parametrize("name", ["run.json", "done.json"])
    def test_what_controls_a_terminal_is_written_out(self, ask, store, mixed, action, name):
        path = store.directory(mixed["elt"]) / name
        evil = json.dumps("\x1b]0;owned\x07\u202e\r\n\ud800")[1:-1]
        path.write_text(path.read_text().replace('"elt"', f'"{evil}"').replace(mixed["elt"], evil))
        code, lines, _, error = ask("runs", *action)
        assert code in (0, 1)
        assert all(line.isprintable() for line in (*lines, *error.splitlines()))
        assert (
            name == "done.json"
            or action == ("verify",)
            or any(r"\x1b]0;owned\x07\u202e\r\n\ud800" in line for line in lines)
        )

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "action", [(), ("verify",), ("verify", "--repair"), ("prune", "--states", "done", "partial")]
    )
    @pytest.mark.parametrize("name", ["run.json", "done.json", "checkpoint.json", "log.jsonl", "measurements", "lock"])
    @pytest.mark.parametrize("kind", ["deep", "nan", "binary", "folder", "link", "fifo"])
    def test_one_odd_file_stops_nothing(self, ask, store, mixed, action, name, kind, tmp_path):
        path = store.directory(mixed["elt"]) / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(tmp_path)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.write_bytes({"deep": b"[" * 9000, "nan": b'{"seed": NaN}', "binary": b"\xff\0"}[kind])
        code, *_ = ask("runs", *action)
        assert code in (0, 1)
        assert ask("runs")[2]["runs"] == (1 if "prune" in action else 4)

    def test_a_configuration_as_large_as_can_be_is_only_named(self, ask, store, mixed):
        path = store.directory(mixed["elt"]) / "run.json"
        path.write_text(path.read_text().replace('"unique_layers": 1', f'"unique_layers": {10**9}'))
        code, lines, _, _ = ask("runs", "verify")
        assert (code, len(lines)) == (0, 2)


class TestVerify:
    def test_sound_runs_have_no_problems(self, ask, mixed):
        code, lines, total, _ = ask("runs", "verify")
        assert (code, lines) == (0, [])
        assert (total["verified"], total["damaged"], total["unused"]) == (4, 0, 0)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [WEIGHTS, "checkpoint.json", "done.json", "rows", "items"])
    def test_a_damaged_file_is_named_with_its_run(self, ask, store, mixed, name):
        directory = store.directory(mixed["elt"])
        pattern = {"rows": "*/*[0-9a-f].parquet", "items": "*/*.items.parquet"}.get(name, name)
        path = next(path for path in sorted(directory.glob(pattern), key=lambda path: len(path.name)))
        if name in (WEIGHTS, "checkpoint.json"):
            altered(path)  # sizes agree: only the checksum tells
        else:
            path.write_bytes(path.read_bytes()[:-30])
        code, lines, total, _ = ask("runs", "verify")
        assert (code, total["damaged"]) == (1, 1)
        assert any(line.startswith(f"{mixed['elt']} damaged: {path.relative_to(directory)} ") for line in lines)
        assert any("eltbench runs verify --repair" in line for line in lines)

    def test_repair_sets_damage_aside_so_that_the_run_is_made_again(self, ask, store, mixed):
        altered(store.directory(mixed["elt"]) / WEIGHTS)
        assert store.state(mixed["elt"]) == "done"  # by sizes alone: a repeated command would train nothing
        code, lines, _, _ = ask("runs", "verify", mixed["elt"], "--repair")
        assert code == 1
        assert any(f"set aside as {WEIGHTS}.damaged-1" in line for line in lines)
        assert store.state(mixed["elt"]) == "missing"

    def test_a_run_in_work_is_not_looked_at(self, ask, store, mixed):
        altered(store.directory(mixed["elt"]) / WEIGHTS)
        with store.lock(mixed["elt"]):
            code, lines, total, _ = ask("runs", "verify")
            assert not set_damage_aside(store, mixed["elt"], print)
        assert (code, lines, total["in_work"]) == (0, [f"{mixed['elt']} is in work: not looked at"], 1)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda text: text.replace('"seed": 0', '"seed": 5'), "of another version of its parts, or moved here"),
            (lambda text: text.replace('"elt"', '"theirs"'), "of a part that is not installed here"),
            (lambda text: text.replace('"seed"', '"sede"'), "unreadable"),
            (lambda text: "[]", "unreadable"),
            (lambda text: '{"architecture": [], "seed": []}', "unreadable"),
        ],
    )
    def test_a_run_that_no_command_would_find_is_of_no_use_but_not_damaged(self, ask, store, mixed, change, words):
        path = store.directory(mixed["elt"]) / "run.json"
        path.write_text(change(path.read_text()))
        code, lines, total, _ = ask("runs", "verify")
        assert (code, total["damaged"], total["unused"]) == (0, 0, 1)
        assert words in lines[0]

    def test_rows_of_another_schema_and_of_another_run_are_told(self, store, mixed):
        path = next(store.directory(mixed["elt"]).glob("*/*[0-9a-f].parquet"))
        table = results.pq.read_table(path)
        results.write_table(path, table.replace_schema_metadata({results.VERSION_KEY: b"0"}))
        assert "schema version '0', this eltbench reads version" in problems(store, mixed["elt"])[0].what
        other = table.set_column(table.column_names.index("run_id"), "run_id", [["f" * 16] * len(table)])
        results.write_table(path, other.replace_schema_metadata(table.schema.metadata))
        assert f"rows of the runs ['{'f' * 16}']" in problems(store, mixed["elt"])[0].what


class TestPrune:
    def test_what_is_named_goes_and_all_else_stays(self, ask, store, mixed):
        code, lines, total, _ = ask("runs", "prune", "--states", "failed", "partial")
        assert (code, total["removed"]) == (0, 2)
        assert lines[0].split() == ["RUN", "STATE", "AGE", "SIZE", "MODEL"]
        assert {line.split()[0] for line in lines[1:]} == {mixed["begun"], mixed["failed"]}
        assert {path.name for path in store.root.iterdir()} == {mixed["elt"], mixed["no-ilsd"]}
        assert problems(store, mixed["elt"]) == []

    def test_without_a_filter_nothing_is_removed(self, ask, store, mixed):
        code, _, _, error = ask("runs", "prune")
        assert code == 2
        assert "name what to remove" in error
        assert len(cached_runs(store)) == len(mixed)

    def test_a_dry_run_removes_nothing_and_says_the_same(self, ask, store, mixed):
        for path in store.root.rglob("*"):
            os.utime(path, (0, 0))  # ages in days, which stand still
        said = ask("runs", "prune", "--seeds", "7", "--dry-run")
        assert said[2]["removed"] == 0
        assert len(cached_runs(store)) == len(mixed)
        assert ask("runs", "prune", "--seeds", "7")[1] == said[1]

    def test_a_run_in_work_stays(self, store, mixed):
        with store.lock(mixed["elt"]):
            removed, in_work = prune(store, cached_runs(store))
        assert [each.run_id for each in in_work] == [mixed["elt"]]
        assert len(removed) == 3
        assert store.state(mixed["elt"]) == "done"

    def test_a_link_into_another_cache_goes_and_what_it_leads_to_stays(self, store, mixed, tmp_path):
        other = RunStore(tmp_path / "other")
        other.root.mkdir()
        other.directory(mixed["elt"]).symlink_to(store.directory(mixed["elt"]))
        prune(other, cached_runs(other))
        assert list(other.root.iterdir()) == []
        assert problems(store, mixed["elt"]) == []

    def test_what_the_system_refuses_is_told_without_a_traceback(self, ask, store, mixed, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(cache.Path, "rmdir", refuse)
        code, _, _, error = ask("runs", "prune", mixed["failed"])
        assert code == 2
        assert error.startswith("error: [Errno 13] Permission denied")

    def test_a_removed_run_can_be_made_again(self, store, mixed):
        prune(store, cached_runs(store))
        assert list(store.root.iterdir()) == []
        assert store.state(done(store).run_id) == "done"
