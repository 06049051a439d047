"""The report: every published verdict is on the page, it stands by itself, and what is left out is named."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, TextStringObject

import eltbench
from eltbench import studies
from eltbench.cli.main import main
from eltbench.evidence import report
from eltbench.evidence.report import published
from eltbench.evidence.report.forest import forest
from eltbench.studies import deciding

RESULTS = Path(__file__).parents[3] / "results"
VOID = {"meta", "link", "img", "br", "rect", "line", "circle"}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images].map(image => [image.complete && image.naturalWidth > 0, image.alt.length > 0]);
  const rows = [...document.querySelectorAll("table")].map(table => table.rows.length);
  const names = performance.getEntriesByType("resource").map(entry => entry.name);
  const fetched = names.filter(name => !name.startsWith("data:"));
  const overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.title = JSON.stringify({images, rows, fetched, overflow});
});</script>"""

pytestmark = pytest.mark.slow  # every published result is decided anew


class Page(HTMLParser):
    """A strict reader: every element is closed in order; gathers links, pictures and the text of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))


def write(results, out):
    return report.write(results, out, studies.claims(), deciding.read_folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return report.write(
        RESULTS, tmp_path_factory.mktemp("report") / "report.html", studies.claims(), deciding.read_folder
    )


@pytest.fixture(scope="module")
def page(written) -> Page:
    return Page(written[0].read_text(encoding="utf-8"))


@pytest.fixture
def one(tmp_path) -> Path:
    """A results tree with one preset in it."""
    shutil.copytree(RESULTS / "extrapolation" / "relay", tmp_path / "results" / "extrapolation" / "relay")
    return tmp_path / "results"


def test_every_published_verdict_and_effect_is_on_the_page(page):
    for folder in published.folders(RESULTS):
        decided = json.loads((folder / "claims.json").read_text())
        for id, claim in decided["claims"].items():
            if claim["cells"]:
                assert claim["statement"] in page.text
                assert id in page.text
            for cell in claim["cells"]:
                for condition in cell["conditions"]:
                    first = condition["witnesses"][0]
                    assert condition["estimand"] in page.text
                    if first["scale"] == "log-ratio" and first["estimate"] is not None:
                        assert f"{first['percent']['estimate']:+.2f} % [" in page.text


def test_the_page_is_well_formed_and_every_link_leads_to_a_place_on_it(page):
    assert not page.open
    places = {attributes["id"] for _, attributes in page.attributes if "id" in attributes}
    assert len(places) == sum("id" in attributes for _, attributes in page.attributes)
    links = [attributes["href"] for tag, attributes in page.attributes if tag == "a"]
    assert links
    assert all(link.startswith("#") and link[1:] in places for link in links)


def test_pictures_are_part_of_the_page_and_tell_what_they_show(page):
    pictures = [attributes for tag, attributes in page.attributes if tag == "img"]
    assert len(pictures) >= sum(1 for folder in published.folders(RESULTS) if (folder / "figure.png").exists())
    for attributes in pictures:
        kind, data = attributes["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert Image.open(BytesIO(base64.b64decode(data))).width > 100
        assert len(attributes["alt"]) > 20
    drawn = [attributes for tag, attributes in page.attributes if tag == "svg"]
    assert drawn
    assert all(attributes["aria-label"] and attributes["role"] == "img" for attributes in drawn)


def test_each_result_says_where_it_comes_from(page):
    for folder in published.folders(RESULTS):
        for command in json.loads((folder / "provenance.json").read_text())["commands"]:
            assert command["command"] in page.text
            assert command["git_commit"] in page.text


def test_claims_that_nothing_decides_are_named(page):
    here = {
        id
        for folder in published.folders(RESULTS)
        for id, claim in json.loads((folder / "claims.json").read_text())["claims"].items()
        if claim["cells"]
    }
    not_shown = page.text[page.text.index("What is not shown, and why") :]
    for claim in (claim for its in studies.claims().values() for claim in its):
        assert (f"{claim.id}: {claim.statement}" in not_shown) == (claim.id not in here)


def test_the_booklet_holds_every_figure(written):
    _, booklet = written
    folders = [folder for folder in published.folders(RESULTS) if (folder / "figure.pdf").exists()]
    pages = sum(len(PdfReader(folder / "figure.pdf").pages) for folder in folders)
    reader = PdfReader(booklet)
    assert len(reader.pages) == pages
    assert len(reader.outline) == len(folders)


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_tables_and_pictures_and_fetches_nothing(written, tmp_path, width):
    text = written[0].read_text(encoding="utf-8")
    probed = text.replace("style-src", "script-src 'unsafe-inline'; style-src", 1).replace("</body>", PROBE + "</body>")
    (tmp_path / "probed.html").write_text(probed, encoding="utf-8")
    options = (
        "headless no-sandbox disable-gpu disable-dev-shm-usage no-first-run disable-background-networking dump-dom"
    )
    valued = [f"user-data-dir={tmp_path / 'profile'}", f"window-size={width},900", "virtual-time-budget=5000"]
    switches = [f"--{name}" for name in (*options.split(), "disable-component-update", "disable-sync", *valued)]
    shown = subprocess.run(
        [BROWSER, *switches, (tmp_path / "probed.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
    )
    told = re.search(r"<title>(\{.*?\})</title>", shown.stdout)
    assert told, shown.stderr
    seen = json.loads(told[1].replace("&quot;", '"'))
    assert seen["images"]
    assert all(loaded and told for loaded, told in seen["images"])
    assert min(seen["rows"]) > 1
    assert seen["rows"][0] > 6
    assert seen["fetched"] == []
    assert seen["overflow"] <= 0  # wide tables scroll by themselves


def test_a_folder_that_cannot_be_read_is_named_with_its_reason(one, tmp_path):
    for name, harm in {
        "cut": lambda folder: (folder / "rows.parquet").write_bytes(b"PAR1 and no more"),
        "unsaid": lambda folder: (folder / "provenance.json").unlink(),
        "broken": lambda folder: (folder / "claims.json").write_text("{"),
    }.items():
        shutil.copytree(one / "extrapolation" / "relay", one / "extrapolation" / name)
        harm(one / "extrapolation" / name)
    (path, _) = write(one, tmp_path / "report.html")
    text = Page(path.read_text(encoding="utf-8")).text
    for said in ("cut/rows.parquet is damaged", "unsaid/provenance.json cannot be read", "broken/claims.json cannot"):
        assert said in text
    assert "extrapolation, relay" in text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("figure.png", b"GIF89a", "is no PNG that can be shown"),
        ("figure.png", b"", "is no PNG that can be shown"),
        ("samples-x.png", b"\x89PNG\r\n\x1a\n and no more", "is no PNG that can be shown"),
        ("summary.csv", b"\xff\xfe\x00", "cannot be read"),
        ("claims.json", b"[" * 100_000, "nested deeper than 64 levels"),
        ("claims.json", b'{"claims": 3}', "holds no claims"),
        ("provenance.json", b'{"commands": [{"runs": {}}]}', "KeyError: 'libraries'"),
        ("provenance.json", b'{"commands": [3]}', "holds no list of commands"),
    ],
)
def test_one_odd_file_costs_its_own_folder_alone(one, tmp_path, name, content, reason):
    odd = one / "extrapolation" / "odd"
    shutil.copytree(one / "extrapolation" / "relay", odd)
    (odd / name).write_bytes(content)
    page = Page(write(one, tmp_path / "report.html")[0].read_text(encoding="utf-8"))
    assert reason in page.text
    assert str(odd) in page.text
    assert "extrapolation, relay" in page.text


def test_a_picture_that_would_fill_the_memory_is_refused(one, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    text = Page(write(one, tmp_path / "report.html")[0].read_text(encoding="utf-8")).text
    assert "figure.png is no PNG that can be shown: Image size" in text


def test_verdicts_forged_in_claims_are_not_shown(one, tmp_path):
    path = one / "extrapolation" / "relay" / "claims.json"
    honest = Page(write(one, tmp_path / "honest.html")[0].read_text(encoding="utf-8"))
    path.write_text(path.read_text().replace('"contradicted"', '"supported"').replace('"inconclusive"', '"supported"'))
    forged = Page(write(one, tmp_path / "forged.html")[0].read_text(encoding="utf-8"))
    assert "claims.json does not follow from the rows" in forged.text
    assert "claims.json does not follow" not in honest.text
    for verdict in ("✘ contradicted", "? inconclusive", "✔ supported"):
        assert forged.text.count(verdict) == honest.text.count(verdict)


def test_a_summary_that_is_shown_in_place_of_verdicts_follows_from_the_rows_too(one, tmp_path):
    shutil.copytree(RESULTS / "audit", one / "audit")
    path = one / "audit" / "summary.csv"
    path.write_text(path.read_text().replace("fits only with another step count", "forged"))
    text = write(one, tmp_path / "report.html")[0].read_text(encoding="utf-8")
    assert "fits only with another step count" in text
    assert "forged" not in text


def test_control_characters_of_files_do_not_reach_the_page(one, tmp_path):
    path = one / "extrapolation" / "relay" / "provenance.json"
    made = json.loads(path.read_text())
    made["commands"][0]["command"] = "python \x1b]0;owned\x07 -m \x9b31m"
    path.write_text(json.dumps(made))
    text = write(one, tmp_path / "report.html")[0].read_text(encoding="utf-8")
    assert "python ]0;owned -m 31m" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_the_booklet_shows_the_pages_of_a_strangers_figure_and_keeps_nothing_that_acts(one, tmp_path):
    figure = one / "extrapolation" / "relay" / "figure.pdf"
    writer = PdfWriter(clone_from=figure)
    writer.add_attachment("evil.exe", b"MZ")
    (page, *_) = writer.pages
    script = {NameObject("/S"): NameObject("/JavaScript"), NameObject("/JS"): TextStringObject("app.alert('owned')")}
    action = DictionaryObject(script)
    link = DictionaryObject({NameObject("/Subtype"): NameObject("/Link"), NameObject("/A"): action})
    writer.root_object[NameObject("/OpenAction")] = action
    for key in ("/AA", "/OpenAction"):
        page[NameObject(key)] = action
    page[NameObject("/Annots")] = ArrayObject([link])
    page["/Resources"].get_object()[NameObject("/A")] = action
    with figure.open("wb") as file:
        writer.write(file)
    assert b"owned" in figure.read_bytes()
    _, booklet = write(one, tmp_path / "report.html")
    reader = PdfReader(booklet)
    assert len(reader.pages) == len(PdfReader(figure).pages)
    assert reader.pages[0].get_contents().get_data() == PdfReader(figure).pages[0].get_contents().get_data()
    assert reader.attachments == {}
    assert "/Annots" not in reader.pages[0]
    for name in (b"/JavaScript", b"/JS", b"/AA", b"/OpenAction", b"/EmbeddedFile", b"/URI", b"/Launch", b"owned"):
        assert name not in booklet.read_bytes(), name


def test_a_figure_that_is_no_pdf_is_named_and_left_out_of_the_booklet(one, tmp_path):
    (one / "extrapolation" / "relay" / "figure.pdf").write_bytes(b"%PDF-1.7 and no more")
    (path,) = write(one, tmp_path / "report.html")
    text = Page(path.read_text(encoding="utf-8")).text
    assert "figure.pdf: no figure that can be bound" in text
    assert "extrapolation, relay" in text


def test_rows_of_another_schema_are_told_with_both_versions(one, tmp_path, monkeypatch):
    from eltbench.evidence import results

    monkeypatch.setattr(results, "SCHEMA_VERSION", "2")
    (path,) = write(one, tmp_path / "report.html")
    assert "has schema version &#39;1&#39;, this eltbench reads version &#39;2&#39;" in path.read_text()


def test_runs_that_failed_are_told_unless_a_later_command_finished_them(one, tmp_path):
    place = one / "extrapolation" / "relay" / "provenance.json"
    made = json.loads(place.read_text())
    finished = eltbench.load_rows(one)["run_id"].iloc[0]
    made["commands"][0]["runs"]["failed"] = {"0123456789abcdef": "RuntimeError: <no> more", finished: "interrupted"}
    place.write_text(json.dumps(made))
    (path, _) = write(one, tmp_path / "report.html")
    text = path.read_text()
    assert "0123456789abcdef</code>: RuntimeError: &lt;no&gt; more" in text
    assert "interrupted" not in text


def test_results_without_rows_and_other_names_than_html_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no results: run a study"):
        write(tmp_path, tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"give the name of an \.html file"):
        write(RESULTS, tmp_path / "report.pdf")


def test_the_command_names_what_it_wrote_and_what_it_refuses(one, tmp_path, capsys):
    assert main(["report", "--results", str(one), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "page.html"), str(tmp_path / "page.pdf")]
    assert main(["report", "--results", str(tmp_path / "nowhere")]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_presets_that_show_the_way_are_left_out_unless_asked_for(one, tmp_path):
    shutil.copytree(one / "extrapolation" / "relay", one / "extrapolation" / "quick")
    assert [folder.name for folder in published.folders(one)] == ["relay"]
    assert [folder.name for folder in published.folders(one, narrow=True)] == ["quick", "relay"]


def test_the_forest_places_what_it_shows():
    witness = {"estimate": 0.1, "low": -0.1, "high": 0.3, "region": [None, 0.2]}
    drawn = Page(forest(witness, "loss & more: +10 %"))
    shapes = {attributes.get("class"): attributes for _, attributes in drawn.attributes}
    left, right = float(shapes["interval"]["x1"]), float(shapes["interval"]["x2"])
    dot, zero = float(shapes["estimate"]["cx"]), float(shapes["zero"]["x1"])
    end = float(shapes["region"]["x"]) + float(shapes["region"]["width"])
    assert dot == pytest.approx((left + right) / 2, abs=0.1)
    assert zero == pytest.approx((left + dot) / 2, abs=0.1)
    assert end == pytest.approx((dot + right) / 2, abs=0.1)
    (svg,) = (attributes for tag, attributes in drawn.attributes if tag == "svg")
    assert svg["aria-label"] == "loss & more: +10 %"
    assert forest({**witness, "low": None}, "one seed") == ""


def test_what_names_models_is_read_once_each(one):
    found = deciding.read_folder(one / "extrapolation" / "relay")
    rows = eltbench.load_rows(one)
    assert found.rows == len(rows)
    assert len(found.models) == rows["run_id"].nunique()
    assert isinstance(found.models, pd.DataFrame)
