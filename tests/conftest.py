"""What all tests share."""

import os

import pytest
from hypothesis import settings

# no test asserts wall-clock, hypothesis' own included; new examples are sought by people, not by CI
settings.register_profile("eltbench", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("eltbench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that no processor waits for another's last file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
