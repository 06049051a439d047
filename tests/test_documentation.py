"""Every page of the documentation is reachable, and every link leads to a page, a heading or a file that is there."""

import re
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FENCED = re.compile(r"^(`{3,})[^\n]*\n.*?^\1$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The fragments by which a page's headings are reached: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    kept = ("".join(c for c in it.lower() if c in " -_" or unicodedata.category(c)[0] in "LN") for it in headings)
    return {it.replace(" ", "-") for it in kept}


def test_the_navigation_names_every_page_once():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"```\{toctree\}\n:glob:\n:hidden:\n\n(.*?)```", text, re.DOTALL)
    *names, rest = listed.split()
    assert rest == "*"  # whatever is not named comes last
    assert len(set(names)) == len(names)
    assert all((ROOT / "docs" / f"{name}.md").exists() for name in names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_heading_or_a_file(page):
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if not link.startswith("https://"):
            path, _, fragment = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not fragment or fragment in anchors(target), link


def test_a_heading_is_reached_as_it_is_written():
    assert "the-two-backends-verdicts-side-by-side" in anchors(ROOT / "docs" / "backends.md")


def test_the_site_is_built_by_the_command_that_ci_runs():
    """The build itself takes seconds and its own libraries: `make docs`, warnings being errors."""
    recipe = re.search(r"^docs: setup\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "--fail-on-warning" in recipe[1]
    assert "make docs" in (ROOT / ".ci" / "run").read_text().splitlines()
    assert "/docs/_build/" in (ROOT / ".gitignore").read_text().splitlines()


def test_a_light_picture_of_the_report_is_shown():
    assert "](report.png)" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    picture = ROOT / "docs" / "report.png"
    assert picture.stat().st_size < 200_000
    with Image.open(picture) as image:
        assert image.width >= 1000
