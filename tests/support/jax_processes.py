"""JAX in the processes that tests start: compiling would dominate them."""

from __future__ import annotations

from pathlib import Path


def compile_quickly(monkeypatch, programs: Path) -> None:
    """Let processes that are started meanwhile leave optimisations out and keep their programs for one another."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(programs))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
