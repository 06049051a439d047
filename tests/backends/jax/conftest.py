from __future__ import annotations

import jax
import pytest


@pytest.fixture
def compiled_quickly():
    """Compiling dominates here: leave optimisations out where the program that users run is not the question."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
