"""What the tests of presets share."""

from __future__ import annotations

import pytest


@pytest.fixture
def written(tmp_path):
    """Write TOML and give the name that loads preset NAME of it."""

    def write(text: str, name: str = "") -> str:
        (tmp_path / "mine.toml").write_text(text)
        return f"{tmp_path / 'mine.toml'}" + (f":{name}" if name else "")

    return write
