"""Many requests: one model, a journal, and a second start that does only what is missing."""

import json
import re
import shutil

import pytest

from loomvideo import LoomVideoPipeline
from loomvideo.cli import batch
from loomvideo.cli.session import Session
from loomvideo.media.clip import probe, read_metadata


@pytest.fixture
def run_batch(generate, inputs, tmp_path):
    """Writes requests.jsonl beside the input files and runs it into results/, which it gives back with the outcome."""
    folder = tmp_path / "requests"
    shutil.copytree(inputs, folder)

    def run(lines, *words):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / "requests.jsonl").write_text(text)
        outcome = generate("--batch", folder / "requests.jsonl", "--output-dir", tmp_path / "results", *words)
        return tmp_path / "results", outcome

    return run


@pytest.fixture
def made(monkeypatch):
    """The prompts of the requests that were carried out."""
    prompts = []
    genuine = Session.generate

    def generate(session, decided):
        prompts.append(decided.prompt)
        return genuine(session, decided)

    monkeypatch.setattr(Session, "generate", generate)
    return prompts


def journal(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_every_line_becomes_a_file_named_by_its_id(run_batch):
    folder, outcome = run_batch(
        [
            {"id": "words", "prompt": "a star", "num_frames": 5, "seed": 3},
            {"id": "still", "prompt": "a star", "num_frames": 1},
            {"id": "edit", "prompt": "snow", "source": "clip.mp4", "height": 64, "width": 64},
            {"id": "guided.v2", "prompt": "use Image 1", "source": "clip.mp4", "references": ["a.png"]},
        ]
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert {path.name for path in folder.iterdir()} == {
        *("words.mp4", "still.png", "edit.mp4", "guided.v2.mp4"),
        "results.jsonl",
    }
    assert [(entry["id"], entry["status"], entry["error"]) for entry in journal(folder)] == [
        (name, "done", None) for name in ("words", "still", "edit", "guided.v2")
    ]
    first = journal(folder)[0]
    assert first["seed"] == 3
    assert first["output"] == str(folder / "words.mp4")
    assert first["seconds"] > 0
    assert read_metadata(folder / "words.mp4")["prompt"] == "a star"


def test_the_model_is_loaded_once(run_batch, monkeypatch):
    loads = []
    genuine = LoomVideoPipeline.from_pretrained
    monkeypatch.setattr(
        LoomVideoPipeline,
        "from_pretrained",
        lambda *words, **settings: loads.append(words) or genuine(*words, **settings),
    )
    run_batch([{"id": name, "prompt": "a star", "num_frames": 1} for name in "abc"])
    assert len(loads) == 1


BAD_LINES = {
    "not JSON": ('{"id": "x", "prompt": ', "not JSON"),
    "no object": ("[1, 2]", "no JSON object"),
    "no id": ({"prompt": "a star"}, "no id"),
    "an id that leaves the folder": ({"id": "../up", "prompt": "a star"}, "'../up' names no file"),
    "a hidden id": ({"id": ".x", "prompt": "a star"}, "names no file"),
    "an id twice": ({"id": "before", "prompt": "a star"}, "line 1 already"),
    "no prompt": ({"id": "x"}, "prompt is missing"),
    "an unknown option": ({"id": "x", "prompt": "a star", "promt": "y"}, "'promt' is no option"),
    "a missing source": ({"id": "x", "prompt": "a star", "source": "none.mp4"}, "none.mp4.*no such file"),
    "references that are no list": ({"id": "x", "prompt": "a star", "references": 3}, "references=3"),
    "a size that is no number": ({"id": "x", "prompt": "a star", "height": "big"}, "height='big'"),
    "bytes that are no text": ('{"id": "x", "prompt": "\udcff"}', "not JSON"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_fails_by_its_number_and_the_rest_is_done(tmp_path, inputs, generate, line, message):
    text = line if isinstance(line, str) else json.dumps(line)
    good = [json.dumps({"id": name, "prompt": "a star", "num_frames": 1}) for name in ("before", "after")]
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes("\n".join([good[0], text, "", good[1]]).encode(errors="surrogateescape"))
    outcome = generate("--batch", requests, "--output-dir", tmp_path / "results")
    assert outcome.status == 1
    before, bad, after = journal(tmp_path / "results")
    assert (before["status"], bad["status"], after["status"]) == ("done", "failed", "done")
    assert bad["line"] == 2
    assert bad["error"].startswith("line 2: ")
    assert re.search(message, bad["error"]), bad["error"]
    assert outcome.err.count("\n") == 1
    assert bad["error"] in outcome.err


def test_started_again_it_does_only_what_is_missing(run_batch, made):
    lines = [{"id": name, "prompt": name, "num_frames": 1} for name in ("a", "b", "c")]
    folder, _ = run_batch(lines[:2])
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    made.clear()
    run_batch(lines)
    assert made == ["c"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_when_nothing_is_missing_the_model_is_not_loaded(run_batch, monkeypatch):
    lines = [{"id": "a", "prompt": "a star", "num_frames": 1}]
    run_batch(lines)
    monkeypatch.setattr(LoomVideoPipeline, "from_pretrained", lambda *words, **settings: pytest.fail("loaded"))
    _, outcome = run_batch(lines)
    assert outcome.status == 0


def test_what_failed_is_tried_again(run_batch, inputs, made):
    lines = [{"id": "a", "prompt": "a star", "source": "late.png"}, {"id": "b", "prompt": "b", "num_frames": 1}]
    folder, outcome = run_batch(lines)
    assert outcome.status == 1
    made.clear()
    lines[0]["source"] = "a.png"
    folder, outcome = run_batch(lines)
    assert (outcome.status, made) == (0, ["a star"])
    assert [entry["status"] for entry in journal(folder) if entry["id"] == "a"] == ["failed", "done"]


def test_an_output_that_was_removed_is_made_again(run_batch, made):
    lines = [{"id": name, "prompt": name, "num_frames": 1} for name in ("a", "b")]
    folder, _ = run_batch(lines)
    (folder / "a.png").unlink()
    made.clear()
    run_batch(lines)
    assert made == ["a"]


def test_a_journal_cut_off_anywhere_says_only_what_it_still_holds(tmp_path):
    entries = [{"id": name, "status": "done", "output": f"{name}.png"} for name in ("a", "b", "ü")]
    for entry in entries:
        (tmp_path / entry["output"]).touch()
        batch.append(tmp_path / "whole", entry)
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole) + 1):
        (tmp_path / "results.jsonl").write_bytes(whole[:length])
        held = whole[:length].count(b"\n") + (whole[length : length + 1] == b"\n")
        assert batch.finished(tmp_path) == {entry["id"] for entry in entries[:held]}
        batch.append(tmp_path / "results.jsonl", {"id": "new", "status": "failed", "output": None})
        assert json.loads((tmp_path / "results.jsonl").read_bytes().splitlines()[-1])["id"] == "new"


def test_a_mistake_of_ours_stops_one_line_and_shows_its_traceback(run_batch, monkeypatch):
    genuine = Session.generate

    def broken(session, decided):
        if "second" in decided.prompt:
            raise ZeroDivisionError("ours")
        return genuine(session, decided)

    monkeypatch.setattr(Session, "generate", broken)
    names = ("first", "second", "third")
    folder, outcome = run_batch([{"id": name, "prompt": name, "num_frames": 1} for name in names])
    assert outcome.status == 1
    assert [entry["status"] for entry in journal(folder)] == ["done", "failed", "done"]
    assert "ZeroDivisionError: ours" in outcome.err


def test_options_of_the_command_line_hold_where_a_line_says_nothing(run_batch):
    lines = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x", "steps": 1, "width": 64}]
    folder, _ = run_batch(lines, "--steps", 3, "--num-frames", 1, "--width", 96)
    recipes = [read_metadata(folder / name) for name in ("a.png", "b.png")]
    assert [recipe["num_inference_steps"] for recipe in recipes] == [3, 1]
    assert [probe(folder / name).width for name in ("a.png", "b.png")] == [96, 64]


def test_json_sums_up_and_quiet_is_quiet(run_batch):
    lines = [{"id": "a", "prompt": "x", "num_frames": 1}]
    folder, outcome = run_batch(lines, "--json")
    assert json.loads(outcome.out) == {"requests": 1, "made": 1, "failed": 0, "results": str(folder / "results.jsonl")}
    _, outcome = run_batch(lines, "--quiet")
    assert (outcome.out, outcome.err) == ("", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "missing.jsonl", "--output-dir", "results"], "missing.jsonl.*no such file"),
        (["--batch", "requests.jsonl", "--output-dir", "requests.jsonl"], "cannot be written"),
        (["--batch", "requests.jsonl", "--output-dir", "results", "--output", "x.mp4"], "--output names one file"),
        (["--batch", "requests.jsonl", "--output-dir", "results", "--model", "none"], "none is no model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_the_batch_itself_is_a_usage_error(generate, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requests.jsonl").write_text('{"id": "a", "prompt": "x"}')
    outcome = generate(*words)
    assert outcome.status == 2
    assert re.search(message, outcome.err)
    assert not list(tmp_path.rglob("*.mp4"))
