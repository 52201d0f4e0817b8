"""loomvideo data: a set is checked in one command and prepared in another."""

import json

import pytest

from data_parts import ROWS, write_jsonl, write_media
from loomvideo.training.prepared import PreparedSamples


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_media(folder, count=5)
    return write_jsonl(folder)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoilt")
    write_media(folder, count=5)
    return write_jsonl(folder, [*ROWS[:2], {"file_name": "none.png", "text": ""}])


def test_a_sound_folder_is_told_in_one_line_and_status_0(loomvideo, clips):
    checked = loomvideo("data", "check", clips, "--workers", 1)
    assert (checked.status, checked.out) == (0, f"{clips}: {len(ROWS)} samples read, 0 of them bad\n")


def test_a_bad_sample_is_told_with_its_number_and_status_1(loomvideo, spoilt):
    checked = loomvideo("data", "check", spoilt, "--workers", 1)
    assert checked.status == 1
    lines = checked.out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{spoilt.name}        2  ") for line in lines[:2])
    assert "3 samples read, 1 of them bad" in lines[2]


def test_findings_are_json_where_asked(loomvideo, spoilt):
    checked = loomvideo("data", "check", spoilt, "--json", "--quiet", "--workers", 1)
    found = json.loads(checked.out)
    assert (checked.status, found["samples"], found["bad"]) == (1, 3, 1)
    assert [one["index"] for one in found["findings"]] == [2, 2]


def test_prepared_samples_are_those_of_the_folder(loomvideo, clips, tiny_model, tmp_path):
    command = ("data", "prepare", clips, "--output", tmp_path / "shards", "--model", tiny_model, "--device", "cpu")
    prepared = loomvideo(*command)
    assert prepared.status == 0, prepared.err
    assert f"{len(ROWS)} samples prepared" in prepared.out
    samples = PreparedSamples(tmp_path / "shards")
    assert samples.sizes == [len(ROWS)]
    assert samples.settings["system"] == "loomvideo"
    assert loomvideo(*command).status == 0  # nothing is left to be done
    refused = loomvideo(*command, "--seed", 1)
    assert refused.status == 2
    assert "name another folder" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "nowhere"), "cannot be opened"),
        (("check", ".", "--workers", 0), "at least one process"),
        (("prepare", "world", "--output", "x"), "num_samples"),
        (("prepare", "nowhere.yaml", "--output", "x"), "cannot be opened"),
        (("prepare", "world", "--output", "x", "--max-bad-share", 2), "0..1"),
        (("polish",), "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(loomvideo, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = loomvideo("data", *words)
    assert refused.status == 2
    assert message in refused.err
    assert len(refused.err.splitlines()) == 1
