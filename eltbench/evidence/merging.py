"""The mark of a merge of results that has not ended: who reads there is told, and the next merge goes on with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eltbench.core import atomic
from eltbench.core.validation import printable

MARKER = "merging.json"  # stands in the target until all of it is written
DEEPEST = 3  # folders above one with rows in which the marker is looked for: results/STUDY/PRESET


@contextmanager
def announced(origins: Sequence[Path], into: Path) -> Iterator[None]:
    """Leave the mark in the target; it goes when all is written, and stays where it is not."""
    said = {"origins": [str(path.resolve()) for path in origins], "into": str(into.resolve())}
    atomic.write_json(into / MARKER, said, indent=1)
    yield
    (into / MARKER).unlink()


def refuse_interrupted(folder: Path) -> None:
    """Raise ValueError, saying how to go on, for a folder in or below one where a merge was begun and did not end."""
    folder = folder.absolute()
    for place in (folder, *folder.parents[:DEEPEST]):
        if (place / MARKER).exists():
            raise ValueError(
                f"a merge into {place} has not ended, so that some of it may be missing; wait where it is at work, "
                f"else repeat it: {_command(place)}"
            )


def check_repeated(origins: Sequence[Path], into: Path) -> None:
    """Raise ValueError where another merge into the target did not end, which this one would not go on with."""
    if (into / MARKER).exists() and not _origins(into) <= {str(path.resolve()) for path in origins}:
        raise ValueError(
            f"a merge of other folders into {into} did not end; repeat it first: {_command(into)}; or remove "
            f"{into / MARKER} to leave out what they have"
        )


def _origins(into: Path) -> set[str]:
    """The origins of the merge that did not end; ValueError where its marker does not say them."""
    try:
        return {str(path) for path in atomic.read_json(into / MARKER)["origins"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{into / MARKER} does not say what was merged; merge into another folder") from None


def _command(into: Path) -> str:
    return printable(shlex.join(["eltbench", "merge", *sorted(_origins(into)), "--into", str(into)]))
