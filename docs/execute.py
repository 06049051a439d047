"""Runs the notebooks and keeps what they show, for readers and the site: `python docs/execute.py [NAME …]`.

A test runs them again and compares what cells print; one that is tagged `varies` prints what depends on the machine.
"""

from __future__ import annotations

import base64
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
WIDEST, COLOURS = 1000, 64  # pixels, and colours: lines and text need no more
SECONDS = 240  # for one cell


def executed(path: Path) -> Any:
    """The notebook as it is after its cells were run in its folder, its pictures made small."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=SECONDS, record_timing=False, resources=place).execute()
    notebook.metadata.pop("language_info", None)  # the version of this machine's Python
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = small(output.data["image/png"])
    return notebook


def small(picture: str) -> str:
    """A picture, as base64, in few colours and no wider than a page."""
    image = Image.open(BytesIO(base64.b64decode(picture))).convert("RGB")
    image.thumbnail((WIDEST, 10 * WIDEST))
    kept = BytesIO()
    image.quantize(COLOURS).save(kept, "PNG", optimize=True)
    return base64.b64encode(kept.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(executed(NOTEBOOKS / f"{name}.ipynb"), NOTEBOOKS / f"{name}.ipynb")
