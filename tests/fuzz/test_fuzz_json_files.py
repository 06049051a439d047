"""JSON files of strangers: commands answer or refuse, write only where they were told to, believe no forged word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from judging import TRAPS, asked, bounded, drawn, tried, watched
from mutations import GONE, as_json, damaged, edited, nested, shaken
from start import PUBLISHED, TRAINED

from eltbench.cli import compare as comparison
from eltbench.training.identity import run_id

NAME = run_id(TRAINED["digits"])
CANARY = "alive"
OF_CACHE, OF_RESULTS = ("done.json", "run.json", "checkpoint.json"), ("claims.json", "provenance.json")
UPWARDS = (
    *("../../canary", "../../../canary", "../../../../canary", "/etc/hostname", "..", ".", "", "lock/../../canary"),
    *("measurements", "notes.txt", "\x00", "a/b", "~", "con\x1b[2J"),
)


def commands(place: Path, folder: str) -> list[list[object]]:
    """Every command that opens a cache, or results, of somebody else."""
    if folder == "runs":
        return [
            ["runs", "--runs", place / "runs"],
            ["runs", "verify", "--runs", place / "runs"],
            ["runs", "verify", "--repair", "--runs", place / "runs"],
            ["merge", place / "runs", place / "empty", "--into", place / "both", "--dry-run"],
            ["merge", place / "runs", place / "other", "--into", place / "both"],
            ["runs", "prune", NAME, "--dry-run", "--runs", place / "runs"],
        ]
    return [
        ["compare", PUBLISHED, place / "results/extrapolation/relay"],
        ["merge", place / "results", place / "theirs", "--into", place / "both", "--dry-run"],
        ["report", "--narrow", "--results", place / "results", "--out", place / "page.html"],
    ]


def opened(capsys, place: Path, folder: str) -> None:
    """Every command in turn, each from the same files; none shows an escape that it was given."""
    for command in commands(place, folder):
        said = asked(capsys, command)
        assert "\x1b" not in said.out + said.err, (command, said)
    if (place / "page.html").exists():
        page = (place / "page.html").read_text(encoding="utf-8")
        assert "\x1b" not in page
        assert "<script" not in page.lower()
    for canary in (place.parent / "canary", place / "canary"):
        assert not canary.exists() or canary.read_text() == CANARY


@pytest.fixture
def cache(place, trained) -> Path:
    """A run's folder in a cache to be made bad, a sound cache beside it, and canaries above it."""
    (place / "empty" / ("0" * 16)).mkdir(parents=True)
    (place / "empty" / ("0" * 16) / "run.json").write_text("{}")
    shutil.copytree(trained.directory(run_id(TRAINED["relay"])), place / "other" / run_id(TRAINED["relay"]))
    (place / "canary").write_text(CANARY)
    return shutil.copytree(trained.directory(NAME), place / "runs" / NAME)


@pytest.fixture
def results(place, published) -> Path:
    """Published results to be made bad, and a sound copy to merge them with."""
    theirs = place / "theirs" / "extrapolation" / "relay"
    theirs.mkdir(parents=True)
    for path in published.iterdir():
        shutil.copyfile(path, theirs / path.name)
    return published


@pytest.mark.slow
@pytest.mark.parametrize("name", UPWARDS)
def test_a_name_of_a_file_in_a_record_leads_nowhere_else(place, cache, capsys, name):
    record = json.loads((cache / "done.json").read_bytes())
    record["checkpoint"][name] = next(iter(record["checkpoint"].values()))
    (cache / "done.json").write_bytes(as_json(record))
    with watched(place), bounded(60):
        opened(capsys, place, "runs")
    assert not any("canary.damaged" in path.name for path in place.parent.rglob("*"))


@pytest.mark.parametrize("name", ["done.json", "run.json", "checkpoint.safetensors"])
def test_a_link_in_a_cache_is_not_copied_from(place, cache, capsys, name):
    secret = place.parent / f"secret-{name}"
    shutil.move(cache / name, secret)
    (cache / name).symlink_to(secret)
    with watched(place), bounded(60):
        asked(capsys, ["merge", place / "runs", place / "other", "--into", place / "both"])
    assert secret.is_file()
    copied = [path.read_bytes() for path in (place / "both").rglob("*") if path.is_file()]
    assert secret.read_bytes() not in copied


@pytest.mark.slow
@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("part", ["trainer", "task", "dataset", "backend"])
def test_a_class_that_only_a_cache_names_is_not_imported(place, cache, capsys, part, trap):
    for name in ("run.json", "checkpoint.json"):
        about = json.loads((cache / name).read_bytes())
        (cache / name).write_bytes(as_json(edited(about, (part,) if name == "run.json" else ("run", part), trap)))
    with watched(place), bounded(60):
        opened(capsys, place, "runs")


@pytest.mark.slow
@pytest.mark.parametrize("trap", TRAPS)
def test_a_study_that_only_results_name_is_not_imported(place, results, capsys, trap):
    about = json.loads((results / "claims.json").read_bytes())
    (results / "claims.json").write_bytes(as_json({**about, "study": trap}))
    with watched(place), bounded(60):
        assert asked(capsys, ["compare", PUBLISHED, results]).code == 2
        opened(capsys, place, "results")


@pytest.mark.slow
def test_a_forged_verdict_is_not_believed(place, results):
    text = (results / "claims.json").read_text()
    flipped = {"supported": "contradicted", "contradicted": "supported", "inconclusive": "supported"}
    about = json.loads(text)
    for claim in about["claims"].values():
        for cell in claim["cells"]:
            for entry in cell["conditions"]:
                entry["verdict"] = flipped[entry["verdict"]]
    (results / "claims.json").write_text(json.dumps(about))
    with watched(place), bounded():
        try:
            found = comparison.compare(PUBLISHED, results)
        except ValueError:
            return  # it says so
    assert not any(entry.verdict_moved for entry in found)


FORBIDDEN = {
    "no study": ("claims.json", ("study",), GONE),
    "an unknown study": ("claims.json", ("study",), "extrapolatoin"),
    "claims that are a list": ("claims.json", ("claims",), []),
    "no claims": ("claims.json", ("claims",), GONE),
    "an unknown claim": ("claims.json", ("claims", "loops-are-magic"), {"cells": [{"task": "masked"}]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("label", FORBIDDEN)
def test_claims_of_another_form_are_refused(place, results, capsys, label):
    name, path, value = FORBIDDEN[label]
    (results / name).write_bytes(as_json(edited(json.loads((results / name).read_bytes()), path, value)))
    with watched(place), bounded():
        assert asked(capsys, ["compare", PUBLISHED, results]).code == 2


def opening(kind: str, name: str, folder: Path, content: bytes, capsys, place: Path):
    """The cases of one file: each from the sound folder, with that file changed."""
    sound = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def case(changed: bytes):
        shutil.rmtree(place / "both", ignore_errors=True)
        shutil.rmtree(folder)
        for path, its in sound.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(its)
        (folder / name).write_bytes(changed)
        opened(capsys, place, "runs" if name in OF_CACHE else "results")

    for label, random in drawn(f"{kind} of {name}", 12 if name in OF_CACHE else 4):
        changed = as_json(shaken(json.loads(content), random)) if kind == "structure" else damaged(content, random)
        yield label, lambda changed=changed: case(changed)
    if kind == "bytes":
        yield "deep", lambda: case(nested(100_000)[0].encode())
        yield "a number", lambda: case(b"3")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["structure", "bytes"])
@pytest.mark.parametrize("name", OF_CACHE)
def test_any_file_of_a_cache_ends_in_an_answer_or_a_refusal(place, cache, capsys, name, kind):
    tried(opening(kind, name, cache, (cache / name).read_bytes(), capsys, place), place)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["structure", "bytes"])
@pytest.mark.parametrize("name", OF_RESULTS)
def test_any_file_of_results_ends_in_an_answer_or_a_refusal(place, results, capsys, name, kind):
    tried(opening(kind, name, results, (results / name).read_bytes(), capsys, place), place)
