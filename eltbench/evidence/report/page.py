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
from eltbench.evidence.claims import COVERS, Cell, Claim
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
    text = template.render(
        claims=_claims(found),
        found=found,
        unreadable=unreadable,
        undecided=_undecided(found, asked),
        limits=limits(),
        covers=COVERS,
        marks=verdicts.MARKS,
        machines=_machines(found),
    )
    return CONTROL.sub("", text)


def _claims(found: Sequence[Published]) -> list[dict[str, Any]]:
    """Every claim that a result decides, once, with what each result says of it."""
    told: dict[str, dict[str, Any]] = {}
    for published in found:
        for id, decided in published.claims.items():
            if decided["cells"]:
                claim = told.setdefault(id, {"id": id, "known": decided, "results": []})
                claim["results"].append(
                    {"published": published, "verdict": decided["verdict"], "lines": _lines(decided)}
                )
    return list(told.values())


def _lines(decided: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One line a cell and condition, with the pictures and the words of both witnesses."""
    lines = []
    for cell in decided["cells"]:
        where = Cell.of(cell).name
        for condition in cell["conditions"]:
            primary, *second = condition["witnesses"]
            words = f"{condition['estimand']}, {where}: {verdicts.interval_in_words(primary)}"
            lines.append(
                {
                    "where": where,
                    "estimand": condition["estimand"],
                    "verdict": condition["verdict"],
                    "reason": condition["reason"],
                    "estimate": verdicts.estimate_in_words(primary),
                    "effect": verdicts.interval_in_words(primary),
                    "region": verdicts.region_in_words(primary),
                    "forest": Markup(forest(primary, words)),
                    "seeds": primary["n"],
                    "second": f"{second[0]['witness'].replace('_', ' ')} {second[0]['verdict']}: "
                    f"{verdicts.interval_in_words(second[0])}"
                    if second
                    else "",
                }
            )
    return lines


def _undecided(found: Sequence[Published], claims: Mapping[str, Sequence[Claim]]) -> list[dict[str, str]]:
    """The claims, by study, that no result here decides, and the study that would."""
    here = {id for published in found for id, decided in published.claims.items() if decided["cells"]}
    return [
        {"id": claim.id, "statement": claim.statement, "study": study}
        for study, its in claims.items()
        for claim in its
        if claim.id not in here
    ]


def limits() -> list[dict[str, str]]:
    """What cannot be shown with this package alone: what, why, and what is shown instead."""
    with (files(__package__) / "limits.csv").open(encoding="utf-8") as file:
        return [{str(name): value for name, value in line.items()} for line in pd.read_csv(file).to_dict("records")]


def _machines(found: Sequence[Published]) -> dict[tuple[str, ...], list[Published]]:
    """(processor, number, platform, python, versions) → what was made there."""
    machines: dict[tuple[str, ...], list[Published]] = defaultdict(list)
    for published in found:
        for command in published.commands:
            libraries = ", ".join(f"{name} {version}" for name, version in command["libraries"].items())
            known = (str(command["cpu"]), str(command["cpu_count"]), command["platform"], command["python"], libraries)
            if published not in machines[known]:
                machines[known].append(published)
    return dict(machines)


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
    """What a picture says of itself, else its name."""
    with _opened(path) as image:
        return str(image.info.get(ABOUT, path.stem))
