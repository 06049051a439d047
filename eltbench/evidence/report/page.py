"""The page itself: what `page.html` is given."""

from __future__ import annotations

import base64
import functools
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from eltbench.core.durations import duration
from eltbench.evidence import verdicts
from eltbench.evidence.claims import COVERS, Claim
from eltbench.evidence.figures import ABOUT
from eltbench.evidence.report.forest import forest
from eltbench.evidence.report.published import Published
from eltbench.evidence.schema import CONTROL

FIGURE_WIDTH = 1400  # pixels; wider figures are made smaller, the PDF keeps every detail


def render(found: Sequence[Published], unreadable: Mapping[str, str], asked: Mapping[str, Sequence[Claim]]) -> str:
    """The page as HTML; unreadable: folder → why it is left out. asked: the claims of every study."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": duration, "picture": _picture, "caption": _caption}
    template = environment.from_string((files(__package__) / "page.html").read_text(encoding="utf-8"))
    claims: dict[str, dict[str, Any]] = {}  # every one that a result decides, once, with what each result found
    for published in found:
        for id, decided in published.claims.items():
            if decided["cells"]:
                claim = claims.setdefault(id, {"id": id, "known": decided, "results": []})
                result = {"published": published, "verdict": decided["verdict"], "lines": list(_lines(decided))}
                claim["results"].append(result)
    machines: dict[tuple[str, ...], list[Published]] = defaultdict(list)  # → what was made there
    for published in found:
        for command in published.commands:
            libraries = ", ".join(f"{name} {version}" for name, version in command["libraries"].items())
            known = (str(command["cpu"]), str(command["cpu_count"]), command["platform"], command["python"], libraries)
            if published not in machines[known]:
                machines[known].append(published)
    text = template.render(
        claims=list(claims.values()),
        found=found,
        unreadable=unreadable,
        undecided=[
            {"id": claim.id, "statement": claim.statement, "study": study}
            for study, its in asked.items()
            for claim in its
            if claim.id not in claims
        ],
        limits=limits(),
        covers=COVERS,
        marks=verdicts.MARKS,
        machines=dict(machines),
    )
    return CONTROL.sub("", text)


def _lines(decided: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One line a cell and condition, with the pictures and the words of both witnesses."""
    for where, condition, primary, second in verdicts.results_of(decided):
        effect = verdicts.interval_in_words(primary)
        line = {name: condition[name] for name in ("estimand", "verdict", "reason")}
        line |= {"where": where, "estimate": verdicts.estimate_in_words(primary), "effect": effect, "second": ""}
        line |= {"region": verdicts.region_in_words(primary), "seeds": primary["n"]}
        if second:
            name = second["witness"].replace("_", " ")
            line["second"] = f"{name} {second['verdict']}: {verdicts.interval_in_words(second)}"
        yield {**line, "forest": Markup(forest(primary, f"{condition['estimand']}, {where}: {effect}"))}


def limits() -> list[dict[str, str]]:
    """What cannot be shown with this package alone: what, why, and what is shown instead."""
    with (files(__package__) / "limits.csv").open(encoding="utf-8") as file:
        return [{str(name): value for name, value in line.items()} for line in pd.read_csv(file).to_dict("records")]


def _picture(path: Path) -> str:
    """The picture as a data URI, no wider than FIGURE_WIDTH."""
    return _encoded(path, path.stat().st_mtime_ns)


@functools.cache
def _encoded(path: Path, written: int) -> str:
    with _opened(path) as opened:
        buffer, image = BytesIO(), opened.convert("RGB")
        if image.width > FIGURE_WIDTH:
            image = image.resize((FIGURE_WIDTH, image.height * FIGURE_WIDTH // image.width))
            image = image.quantize(256, dither=Image.Dither.NONE)
        image.save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A PNG of a size that can be shown, decoded whole; raises ValueError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=["PNG"])
        with image:
            image.load()
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} is no PNG that can be shown: {error}") from None


def _caption(path: Path) -> str:
    """The text that a picture carries about itself, else its name."""
    with _opened(path) as image:
        return str(image.info.get(ABOUT, path.stem))
