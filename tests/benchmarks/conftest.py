"""What benchmarks share."""

import pytest


@pytest.fixture
def rounds(request) -> int:
    """How often to measure; pytest-benchmark's own loop cannot interleave, so only its switch is used."""
    return 60 if request.config.getoption("--benchmark-enable") else 1
