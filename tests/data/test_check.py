"""Everything that is wrong with a sample is found, and nothing else; bad ones are counted."""

import pytest

from data_parts import ROWS, frames, write_jsonl, write_media, write_tar
from loomvideo.data.bad import BadSamples
from loomvideo.data.check import check
from loomvideo.data.samples import DataError
from loomvideo.media.clip import Clip, write_clip

# What is done to one sample, and what is said of it
WRONG = {
    "missing": ({"file_name": "none.mp4", "text": "x"}, "no such file"),
    "empty text": ({"file_name": "a.png", "text": "  "}, "text is empty"),
    "damaged": ({"file_name": "damaged.mp4", "text": "x"}, "damaged.mp4"),
    "no picture": ({"file_name": "a.png", "text": "x", "references": ["target.mp4"]}, "a picture is needed"),
    "lengths": ({"file_name": "target.mp4", "source": "short.mp4", "text": "x"}, "lasts 1.12 s and its source"),
    "kinds": ({"file_name": "target.mp4", "source": "a.png", "text": "x"}, "of kind image"),
    "row": ({"text": "x"}, "needs file_name"),
}


@pytest.fixture
def media(tmp_path):
    write_media(tmp_path)
    write_clip(tmp_path / "short.mp4", Clip(frames(5), 8))
    whole = (tmp_path / "target.mp4").read_bytes()
    (tmp_path / "damaged.mp4").write_bytes(whole[: len(whole) - 600])
    return tmp_path


def found_in(path, workers=1):
    return check(path, workers=workers, on_progress=lambda done, total: None)


def test_a_sound_set_has_nothing_wrong_in_any_format(media, tmp_path):
    assert found_in(write_jsonl(media)) == (len(ROWS), [])
    assert found_in(write_tar(tmp_path / "tars", media)) == (len(ROWS), [])


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_of_that_sample_alone(wrong, media):
    row, message = WRONG[wrong]
    total, findings = found_in(write_jsonl(media, [ROWS[1], row, ROWS[0]]))
    assert total == 3
    assert [one.index for one in findings] == [1]
    assert message in findings[0].problem
    assert "\n" not in findings[0].problem


def test_everything_that_is_wrong_with_a_sample_is_told(media):
    row = {"file_name": "none.mp4", "text": "", "references": ["target.mp4"]}
    _, findings = found_in(write_jsonl(media, [row]))
    assert len(findings) == 3


def test_many_processes_find_what_one_finds(media):
    rows = [ROWS[1], WRONG["missing"][0], WRONG["empty text"][0]] * 8
    total, findings = found_in(write_jsonl(media, rows), workers=2)
    assert (total, findings) == found_in(media)
    assert len(findings) == 16


def test_the_little_world_has_nothing_to_read(tmp_path):
    (tmp_path / "world.yaml").write_text("train: {w: {world: t2i}}")
    assert found_in(tmp_path / "world.yaml") == (0, [])


def test_a_share_of_bad_samples_is_borne_and_no_more():
    counted = BadSamples(0.05)
    for _ in range(5):
        counted.add(ValueError("damaged"))  # of the first hundred
    counted.good(95)
    with pytest.raises(DataError, match=r"6 of the first 101 .*5%.*damaged.*data check"):
        counted.add(ValueError("damaged"))
    assert (counted.bad, counted.read) == (6, 101)


def test_without_bad_samples_nothing_stops():
    counted = BadSamples(0.0)
    counted.good(1000)
    with pytest.raises(DataError, match="1 of the first"):
        counted.add(ValueError("damaged"))


def test_a_share_is_a_share():
    with pytest.raises(DataError, match=r"0\.\.1"):
        BadSamples(5)
