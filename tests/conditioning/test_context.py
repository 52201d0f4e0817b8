"""Laws of the context."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loomvideo.conditioning.context import BOUNDARIES, LAYOUTS, assemble, pad_context

WIDTH = 3
NAMES = sorted({name for pair in BOUNDARIES.values() for name in pair})
FIXED = {name: torch.full((2, WIDTH), 100.0 + i) for i, name in enumerate(NAMES)}


def rows(first, count):
    """Rows that can be told apart: first, first + 1, ..."""
    return torch.arange(first, first + count).float()[:, None].expand(-1, WIDTH)


def parts(source=4, reference=2, vision=3, text=5):
    sizes = {"source": source, "reference": reference, "vision": vision, "text": text}
    return {name: rows(10 * i, size) for i, (name, size) in enumerate(sizes.items())}


def numbers(context):
    return context[:, 0].tolist()


def test_orders_hold_the_same_rows():
    given_parts = parts()
    released, paper = (assemble(given_parts, layout=LAYOUTS[name], max_rows=99) for name in ("released", "paper"))
    assert numbers(released) == [0, 1, 2, 3, 10, 11, 20, 21, 22, 30, 31, 32, 33, 34]
    assert numbers(paper) == [20, 21, 22, 0, 1, 2, 3, 10, 11, 30, 31, 32, 33, 34]


def test_every_part_stands_between_its_boundaries_and_an_absent_one_takes_none():
    context = assemble(
        {"vision": rows(0, 1), "text": rows(1, 1)}, layout=LAYOUTS["released"], max_rows=99, boundaries=FIXED
    )
    expected = [FIXED["<ipl_st>"], rows(0, 1), FIXED["<ipl_ed>"], FIXED["<prp_st>"], rows(1, 1), FIXED["<prp_ed>"]]
    torch.testing.assert_close(context, torch.cat(expected))


def test_the_second_release_puts_the_source_last_and_the_states_between_no_boundaries():
    given_parts = {name: part for name, part in parts().items() if name != "reference"}
    without_states = {name: row for name, row in FIXED.items() if "ipl" not in name}
    context = assemble(given_parts, layout=LAYOUTS["omnivideo2"], max_rows=99, boundaries=without_states)
    expected = [
        given_parts["vision"],
        FIXED["<prp_st>"], given_parts["text"], FIXED["<prp_ed>"],
        FIXED["<img_st>"], given_parts["source"], FIXED["<img_ed>"],
    ]  # fmt: skip
    torch.testing.assert_close(context, torch.cat(expected))


@pytest.mark.filterwarnings("ignore:the context has room:UserWarning")
@given(
    source=st.integers(0, 12), reference=st.integers(0, 4), vision=st.integers(1, 5), text=st.integers(1, 5),
    room=st.integers(0, 20), layout=st.sampled_from(["released", "paper"]),
)  # fmt: skip
def test_only_source_rows_give_way_and_from_their_ends(source, reference, vision, text, room, layout):
    given_parts, max_rows = parts(source, reference, vision, text), vision + text + room
    if source + reference > room:
        with pytest.warns(UserWarning, match="source rows"):
            context = assemble(given_parts, layout=LAYOUTS[layout], max_rows=max_rows)
    else:
        context = assemble(given_parts, layout=LAYOUTS[layout], max_rows=max_rows)
    kept_reference = min(reference, room)
    kept_source = min(source, max(room - reference, 0))
    kept = {"source": kept_source, "reference": kept_reference, "vision": vision, "text": text}
    expected = torch.cat([given_parts[name][: kept[name]] for name in LAYOUTS[layout].order])
    torch.testing.assert_close(context, expected)
    assert len(context) == min(source + reference + vision + text, max_rows)


def test_boundaries_count_and_stay():
    with pytest.warns(UserWarning, match="room for 1 of 4 source rows"):
        context = assemble(
            {"source": rows(0, 4), "text": rows(30, 5)}, layout=LAYOUTS["released"], max_rows=14, boundaries=FIXED
        )
    assert len(context) == 14
    assert numbers(context)[-7:] == [30, 31, 32, 33, 34, *numbers(FIXED["<prp_ed>"])]
    torch.testing.assert_close(context[3:5], FIXED["<img_ed>"])


def test_the_released_truncation_keeps_the_first_rows_and_loses_the_prompt():
    context = assemble(parts(), layout=LAYOUTS["released"], max_rows=8, truncation="released")
    assert numbers(context) == [0, 1, 2, 3, 10, 11, 20, 21]


def test_text_and_vision_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="8 text and vision rows for a context with room for 7: shorten"):
        assemble({"vision": rows(0, 3), "text": rows(30, 5)}, layout=LAYOUTS["released"], max_rows=7)


def test_a_boundary_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="source rows stand between <img_st> and <img_ed>"):
        assemble(parts(), layout=LAYOUTS["released"], max_rows=99, boundaries={"<prp_st>": FIXED["<prp_st>"]})


def test_a_part_without_a_place_is_refused():
    with pytest.raises(ValueError, match=r"\['reference'\]"):
        assemble(parts(), layout=LAYOUTS["omnivideo2"], max_rows=99)


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4), more=st.integers(0, 3000))
def test_padding_weighs_as_much_as_so_many_rows_of_zeros(lengths, more):
    max_rows = max(lengths) + more
    if max_rows == 0:
        return
    padded, bias = pad_context([rows(1, length) for length in lengths], max_rows)
    weights = torch.ones(len(lengths), padded.shape[1]) if bias is None else bias[:, 0, 0].exp()
    zero = (padded == 0).all(-1)
    for weight, is_zero, length in zip(weights, zero, lengths, strict=True):
        assert weight[~is_zero].sum().item() == pytest.approx(length)
        assert weight[is_zero].sum().item() == pytest.approx(max_rows - length, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@given(count=st.integers(1, 6272))
def test_the_weight_of_padding_survives_low_precision(dtype, count):
    _, bias = pad_context([torch.ones(1, WIDTH, dtype=dtype)], count + 1)
    assert bias.dtype == dtype
    assert bias[..., 1:].double().exp().sum().item() == pytest.approx(count, rel=2e-3)
    assert math.log(count) - bias[..., 1].item() >= 0


def test_a_full_context_has_no_padding_and_needs_no_mask():
    padded, bias = pad_context([rows(0, 4), rows(4, 4)], 4)
    assert padded.shape == (2, 4, WIDTH)
    assert bias is None


@pytest.mark.parametrize(
    ("lengths", "others"), [((2, 3), (1, 0)), ((2, 3), (2, 1)), ((3, 3), (1, 1)), ((0, 3), (4, 0))]
)
def test_rows_that_stand_elsewhere_leave_less_padding(lengths, others):
    padded, bias = pad_context([rows(1, length) for length in lengths], 4, others)
    weights = torch.ones(padded.shape[:2]) if bias is None else bias[:, 0, 0].exp()
    zero = (padded == 0).all(-1)
    for weight, is_zero, length, more in zip(weights, zero, lengths, others, strict=True):
        assert weight[~is_zero].sum().item() == pytest.approx(length)
        assert weight[is_zero].sum().item() == pytest.approx(4 - length - more)


def test_a_context_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="a context of 5 rows: this model takes 4"):
        pad_context([rows(0, 5)], 4)
