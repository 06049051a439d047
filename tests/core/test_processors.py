"""How many processors may be used: of those that are there, as many as the control groups give time for."""

from __future__ import annotations

import pytest

from eltbench.core import machine


@pytest.fixture
def allowed(tmp_path, monkeypatch):
    """The count on a machine of eight, in these groups whose folders hold these files."""
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)

    def count(line, **files):
        (tmp_path / "cgroup").write_text(f"{line}\n")
        for place, its in files.items():
            folder = tmp_path / "tree" / place.replace("__", "/")
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in its.items():
                (folder / name).write_text(f"{text}\n")
        return machine.processors(tmp_path / "cgroup", tmp_path / "tree")

    return count


@pytest.mark.parametrize(
    ("limit", "count"), [("max 100000", 8), ("100000 100000", 1), ("350000 100000", 3), ("50000 100000", 1)]
)
def test_a_group_of_version_2_gives_time_for_whole_processors(allowed, limit, count):
    assert allowed("0::/own", own={"cpu.max": limit}) == count


def test_the_tightest_group_around_a_process_counts(allowed):
    assert allowed("0::/slice/own", slice__own={"cpu.max": "400000 100000"}, slice={"cpu.max": "200000 100000"}) == 2


@pytest.mark.parametrize(("quota", "count"), [(-1, 8), (200000, 2)])
def test_a_group_of_version_1_is_found_at_the_root_where_its_place_is_the_host_s(allowed, quota, count):
    files = {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": 100000}
    assert allowed("3:cpu,cpuacct:/docker/x", cpu=files) == count


def test_without_groups_every_processor_that_is_there_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert machine.processors(tmp_path / "nowhere", tmp_path) == 2
    monkeypatch.delattr(machine.os, "sched_getaffinity")  # not on every system
    monkeypatch.setattr(machine.os, "cpu_count", lambda: None)
    assert machine.processors(tmp_path / "nowhere", tmp_path) == 1
