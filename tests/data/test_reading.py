"""Files become pixels as published training reads them: buckets, rates, clip starts, pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_parts import frames, write_media
from loomvideo.data.folders import Folder
from loomvideo.data.reading import Entry, Reading, aligned, frames_at, read_entry
from loomvideo.data.samples import DataError
from loomvideo.media.clip import Clip, MediaError, read_clip, write_clip, write_picture
from loomvideo.media.frames import select_frames
from loomvideo.media.resize import cover_crop


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_media(folder, count=25)
    return folder


def entry(folder, **others):
    return Entry(files=Folder(folder), **{"prompt": "a square", "target": "target.mp4", **others})


@pytest.mark.parametrize("start", [0.0, 0.3, 1.0])
def test_a_clip_is_cut_where_the_start_says_and_covers_its_bucket(media, start):
    sample = read_entry(entry(media), Reading(num_frames=9), start)
    whole = read_clip(media / "target.mp4", fps=8, max_frames=25).frames
    places = select_frames(8.0, 25, target_fps=8, max_frames=9, clip_start_ratio=start)
    np.testing.assert_array_equal(sample.target, cover_crop(whole[places], 96, 160))


def test_source_and_target_begin_at_the_same_place(media):
    sample = read_entry(entry(media, source="target.mp4"), Reading(num_frames=9), 0.7)
    np.testing.assert_array_equal(sample.source, sample.target)


def test_without_a_random_start_a_clip_begins_at_its_beginning(media):
    reading = Reading(num_frames=9, random_start=False)
    np.testing.assert_array_equal(
        read_entry(entry(media), reading, 1.0).target, read_entry(entry(media), reading, 0.0).target
    )


def test_a_slower_rate_passes_over_frames(media):
    sample = read_entry(entry(media), Reading(fps=4, num_frames=5), 0.0)
    every = read_entry(entry(media), Reading(fps=8, num_frames=9), 0.0)
    np.testing.assert_array_equal(sample.target, every.target[::2])


def test_pictures_are_of_their_own_buckets(media):
    sample = read_entry(entry(media, target="b.png", references=("a.png",)), Reading(), 0.0)
    assert sample.target.shape == (1, 160, 96, 3)
    assert sample.references[0].shape == (96, 160, 3)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=2),
    sizes=st.lists(st.sampled_from([(32, 64), (64, 32), (64, 64)]), min_size=2, max_size=2),
)
@settings(max_examples=20, deadline=None)
def test_a_pair_has_the_shorter_length_and_the_smaller_size_the_source_s_in_a_tie(lengths, sizes):
    clips = [np.full((count, *size, 3), 7, np.uint8) for count, size in zip(lengths, sizes, strict=True)]
    smaller = sizes[1] if sizes[1][0] * sizes[1][1] < sizes[0][0] * sizes[0][1] else sizes[0]
    source, target = aligned(clips)
    assert source.shape == target.shape == (min(lengths), *smaller, 3)
    assert (source == 7).all()


def test_a_shorter_source_cuts_the_target(tmp_path, media):
    write_clip(tmp_path / "source.mp4", Clip(frames(9), 8))
    write_clip(tmp_path / "target.mp4", Clip(frames(25), 8))
    sample = read_entry(entry(tmp_path, source="source.mp4"), Reading(num_frames=17), 0.0)
    assert sample.source.shape == sample.target.shape == (9, 96, 160, 3)


def test_an_animation_is_a_clip(tmp_path):
    write_clip(tmp_path / "target.gif", Clip(frames(9), 10))
    sample = read_entry(entry(tmp_path, target="target.gif"), Reading(fps=10, num_frames=5), 1.0)
    assert sample.num_frames == 5
    assert np.abs(sample.target[0].astype(int) - cover_crop(frames(9)[4], 96, 160)).mean() < 2


def test_frames_are_repeated_where_the_places_repeat(media):
    found = frames_at(media / "target.mp4", [1, 1, 3], (64, 96))
    np.testing.assert_array_equal(found[0], found[1])
    assert len(found) == 3


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        ({"prompt": " "}, DataError, "text is empty"),
        ({"target": "none.mp4"}, MediaError, "no such file"),
        ({"source": "a.png"}, DataError, "kind image"),
        ({"references": ("target.mp4",)}, MediaError, "a picture is needed"),
    ],
)
def test_what_is_wrong_with_a_sample_is_named(media, given_, error, message):
    with pytest.raises(error, match=message):
        read_entry(entry(media, **given_), Reading(), 0.0)


def test_a_picture_pair_is_an_edit_of_a_picture(tmp_path):
    for name in ("x", "y"):
        write_picture(tmp_path / f"{name}.png", frames(1)[0])
    assert read_entry(entry(tmp_path, source="x.png", target="y.png"), Reading(), 0.0).task == "edit_image"
