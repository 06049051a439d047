"""How much memory there is: what the machine says, and what the control groups around the process allow."""

from __future__ import annotations

import pytest

from eltbench.core.machine import memory

KB = 1024


@pytest.fixture
def machine(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  1000 kB\nMemAvailable:  400 kB\nHugePages_Total: 0\n")
    return path


def grouped(tmp_path, lines, **files):
    """The account of a process in these groups; `files`: folder → name and content of each file."""
    (tmp_path / "cgroup").write_text("".join(f"{line}\n" for line in lines))
    for place, its in files.items():
        folder = tmp_path / "tree" / place.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in its.items():
            (folder / name).write_text(f"{text}\n")
    return tmp_path / "cgroup", tmp_path / "tree"


def test_without_a_limit_memory_is_the_machine_s(tmp_path, machine):
    found = {"total": 1000 * KB, "available": 400 * KB}
    assert memory(machine, tmp_path / "nowhere", tmp_path) == found
    unlimited = {"memory.max": "max", "memory.current": 0, "memory.stat": "inactive_file 0"}
    assert memory(machine, *grouped(tmp_path, ["0::/a"], a=unlimited)) == found
    huge = {"memory.limit_in_bytes": 2**63 - 4096, "memory.usage_in_bytes": 5, "memory.stat": "cache 0"}
    assert memory(machine, *grouped(tmp_path, ["4:memory:/b"], memory__b=huge)) == found


def test_a_group_of_version_2_limits_what_is_there_and_files_can_be_given_back(tmp_path, machine):
    own = {"memory.max": 300 * KB, "memory.current": 250 * KB, "memory.stat": f"anon 1\ninactive_file {100 * KB}"}
    found = memory(machine, *grouped(tmp_path, ["0::/slice/own"], slice__own=own))
    assert found == {"total": 300 * KB, "available": 150 * KB}


def test_the_tightest_of_the_groups_around_a_process_counts(tmp_path, machine):
    own = {"memory.max": "max", "memory.current": 0, "memory.stat": ""}
    around = {"memory.max": 200 * KB, "memory.current": 190 * KB, "memory.stat": ""}
    found = memory(machine, *grouped(tmp_path, ["0::/slice/own"], slice__own=own, slice=around))
    assert found == {"total": 200 * KB, "available": 10 * KB}


def test_a_group_of_version_1_is_found_at_the_root_where_its_place_is_the_host_s(tmp_path, machine):
    root = {
        "memory.limit_in_bytes": 500 * KB,
        "memory.usage_in_bytes": 600 * KB,
        "memory.stat": f"cache 3\ntotal_inactive_file {20 * KB}",
    }
    lines = ["9:cpu,cpuacct:/docker/x", "4:memory:/docker/x", "0::/"]
    assert memory(machine, *grouped(tmp_path, lines, memory=root)) == {"total": 500 * KB, "available": 0}


def test_without_linux_what_there_is_counts_as_available(tmp_path):
    found = memory(tmp_path / "nowhere", tmp_path / "nowhere", tmp_path)
    assert 0 < found["available"] == found["total"]
