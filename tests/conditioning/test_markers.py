"""Where markers are picked, and where references and target stand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loomvideo.conditioning.markers import boundary_rows, bounded_positions, bounded_tokens

START, END, PAD, WORD = 1, 2, 3, 9
GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
PICTURE = [WORD, START, PAD, PAD, END]


def clip(spans):
    return [WORD, *[START, PAD, END, WORD] * spans]


def rows(ids, spans):
    return boundary_rows(torch.tensor(ids), spans, start_id=START, end_id=END).tolist()


def test_a_picture_is_bounded_by_its_own_span():
    assert rows([WORD, *PICTURE, WORD], [1]) == [[2, 5]]


def test_a_video_is_bounded_by_the_start_of_its_first_span_and_the_end_of_its_last():
    ids = [*PICTURE, *clip(3)]
    (_, picture_end), (start, end) = rows(ids, [1, 3])
    assert picture_end == 4
    assert (start, end) == (6, 16)


def test_a_chat_without_references_has_no_markers():
    assert boundary_rows(torch.tensor([WORD, WORD]), [], start_id=START, end_id=END).shape == (0, 2)


def test_boundary_tokens_in_the_prompt_move_nothing():
    ids = [*PICTURE, *clip(2)]
    assert rows([*ids, WORD, END, START, WORD], [1, 2]) == rows(ids, [1, 2])


def test_a_chat_that_lacks_a_span_is_refused():
    with pytest.raises(ValueError, match="1 vision spans"):
        rows(PICTURE, [1, 1])


def test_without_references_the_target_begins_at_zero():
    positions = bounded_positions([], (2, 1, 2))
    assert positions.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]


@given(st.lists(GRIDS, max_size=4), GRIDS)
def test_a_reference_moves_what_follows_by_its_frames_and_two(references, target):
    positions = bounded_positions(references, target)
    clock = 0
    for frames, height, width in references:
        tokens = frames * height * width
        part, positions = positions[: tokens + 2], positions[tokens + 2 :]
        assert part[0].tolist() == [clock, 0, 0]
        assert part[-1].tolist() == [clock + frames + 1, 0, 0]
        assert part[1:-1].min(dim=0).values.tolist() == [clock + 1, 0, 0]
        assert part[1:-1].max(dim=0).values.tolist() == [clock + frames, height - 1, width - 1]
        clock += frames + 2
    assert len(positions) == target[0] * target[1] * target[2]
    assert positions[0].tolist() == [clock, 0, 0]


@given(st.lists(GRIDS, max_size=4), GRIDS)
def test_no_two_tokens_share_a_position(references, target):
    positions = bounded_positions(references, target)
    assert len(positions.unique(dim=0)) == len(positions)


@given(st.lists(GRIDS, max_size=3), st.integers(0, 3))
def test_frames_that_are_shown_stand_where_they_stand_in_the_whole(references, first):
    """Of the target and of the source that it is an edit of; pictures and markers stay."""
    target = (5, 1, 2)
    shown = [first, 4]
    whole = bounded_positions([*references, target], target)
    clip = torch.tensor([2 * frame + token for frame in shown for token in (0, 1)])
    before, source, end, last = whole[:-21], whole[-21:-11], whole[-11:-10], whole[-10:]
    expected = torch.cat([before, source[clip], end, last[clip]])
    assert torch.equal(bounded_positions([*references, target], target, shown), expected)


def test_tokens_stand_between_their_own_markers_in_the_order_of_the_references():
    references = [torch.full((2, n, 1), float(n)) for n in (3, 1)]
    markers = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])[None, ..., None].repeat(2, 1, 1, 1)
    tokens = bounded_tokens(references, markers)
    assert tokens[..., 0].tolist() == [[-1, 3, 3, 3, -2, -3, 1, -4]] * 2
    assert len(tokens[0]) == len(bounded_positions([(3, 1, 1), (1, 1, 1)], (1, 1, 1))) - 1
