"""Every row of the published program's scalar tables, recomputed by the rules of this package.

A table that is in the set and neither checked here nor named in docs/differences.md fails.
"""

import dataclasses
import json
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from golden_set import require

from loomvideo.conditioning.source import add_source
from loomvideo.data.batching import TokenBatches, flatten_weights
from loomvideo.data.buckets import IMAGE_BUCKETS, VIDEO_BUCKETS, closest_resolution, num_tokens
from loomvideo.data.segments import PROCESSORS, MediaSegment, Segment, segments
from loomvideo.media.frames import select_frames
from loomvideo.media.resize import cover_size
from loomvideo.models.qwen import FrameRule, processor_frames, subsample, timestamps
from loomvideo.sampling.guidance import guide
from loomvideo.training.freeze import is_trainable
from loomvideo.training.objective import dynamic_shift, shift_time
from loomvideo.training.validation import noise_band, validation_times

DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"
BUCKETS = {"image": IMAGE_BUCKETS, "video": VIDEO_BUCKETS}
FULL_SIZE_VAE_PARAMETERS = 704_688_668  # fact sheet 2


def same_numbers(got, expected):
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected), rtol=1e-6, atol=1e-6, check_dtype=False)


def dynamic_shift_rows(rows, _):
    for row in rows:
        got = dynamic_shift(row["tokens"], base=row["base"], base_tokens=row["base_tokens"], scale=row["scale"])
        assert got == pytest.approx(row["shift"], rel=1e-9), row


def shifted_t_rows(rows, _):
    for row in rows:
        same_numbers(shift_time(torch.tensor(row["u"], dtype=torch.float64), row["shift"]), row["t"])


def guidance_rows(rows, _):
    for row in rows:
        uncond, visual, full = (
            torch.tensor(row[name], dtype=torch.float64) for name in ("uncond", "visual_only", "full")
        )
        scales = [row["guidance_scale_visual"], row["guidance_scale"]]
        same_numbers(guide([uncond, visual, full], scales), row["with_visual_branch"])
        same_numbers(guide([uncond, full], scales[1:]), row["without_visual_branch"])


def load_video_indices_rows(rows, _):
    for row in rows:
        got = select_frames(
            row["video_fps"],
            row["video_frames"],
            target_fps=row["target_fps"],
            max_frames=row["target_num_frames"],
        )
        assert got == row["indices"], row


def training_read_video_indices_rows(rows, _):
    for row in rows:
        got = select_frames(
            row["video_fps"],
            row["video_frames"],
            target_fps=row["fps"],
            max_frames=row["num_frames"],
            clip_start_ratio=row["clip_start_ratio"],
        )
        assert got == row["indices"], row


def vlm_downsample_rows(rows, _):
    for row in rows:
        assert subsample(row["frames"], FrameRule(factor=row["factor"], min_frames=1)) == row["indices"], row


def processor_frame_sampling_rows(table, _):
    for row in table["rows"]:
        if row.get("error"):
            with pytest.raises(ValueError, match="video"):
                processor_frames(row["frames_given"])
        else:
            kept = processor_frames(row["frames_given"])
            assert kept == row["kept"], row
            assert list(timestamps(kept)) == row["timestamps_text"], row


def resize_and_crop_rows(rows, _):
    for row in rows:
        got = cover_size(row["width"], row["height"], row["target_width"], row["target_height"])
        assert got == tuple(row[name] for name in ("resized_height", "resized_width", "crop_top", "crop_left")), row


def bucket_rows(kind):
    def check(table, _):
        assert {key: [[w, h] for h, w in sizes] for key, sizes in BUCKETS[kind].items()} == table

    return check


def closest_resolution_rows(rows, _):
    for row in rows:
        got = closest_resolution(row["height"], row["width"], BUCKETS[row["kind"]], row["allowed"])
        assert got == (row["target_height"], row["target_width"]), row


def token_counts_rows(rows, _):
    for row in rows:
        assert num_tokens(row["frames"], row["height"], row["width"]) == row["tokens"], row


def scheduler_rows(rows, golden):
    for row in rows:
        scheduler = UniPCMultistepScheduler.from_pretrained(require(golden / "scheduler"))
        scheduler.set_timesteps(row["steps"])
        assert scheduler.timesteps.tolist() == row["timesteps"], row["steps"]
        same_numbers(scheduler.sigmas, row["sigmas"])
        count = len(row["timesteps"])
        scales = add_source(torch.zeros(count, 1, 1), torch.ones(count, 1, 1), scheduler.timesteps)
        same_numbers(scales.flatten(), row["source_scale"])


def token_batching_rows(rows, _):
    for row in rows:
        first, factor, modulus = (int(number) for number in re.findall(r"\d+", row["token_rule"]))
        batches = TokenBatches(
            load=lambda index, unreadable=frozenset(row["unreadable"]): None if index in unreadable else index,
            num_tokens=lambda index, rule=(first, factor, modulus): rule[0] + rule[1] * index % rule[2],
            **{field.name: row[field.name] for field in dataclasses.fields(TokenBatches) if field.name in row},
        )
        assert list(islice(batches, len(row["first_batches"]))) == row["first_batches"], row


def weight_flattening_rows(table, _):
    weights = flatten_weights(table["input"])
    assert list(weights) == table["names"]
    same_numbers(list(weights.values()), table["weights"])


def segments_rows(table, _):
    assert set(table["by_function"]) == set(PROCESSORS)
    for function, expected in table["by_function"].items():
        got = [published_form(segment, table["data_root"]) for segment in segments(function, table["data_info"])]
        assert got == expected, function


def published_form(segment: Segment, root: str) -> dict:
    saved = {} if segment.save_path is None else {"save_path": segment.save_path}
    if isinstance(segment, MediaSegment):
        paths = {"path": f"{root}/{segment.path}", "rel_path": segment.path}
        return {"type": segment.kind, **paths, "is_target": segment.is_target, "need_resize": True, **saved}
    return {"type": "text", "content": segment.content, "is_target": False, **saved}


def validation_timesteps_rows(rows, _):
    same_numbers(validation_times(), [row["t"] for row in rows])
    assert [f"{noise_band(time)}_noise" for time in validation_times().tolist()] == [row["bucket"] for row in rows]


def unfreeze_match_rows(rows, _):
    for row in rows:
        assert is_trainable(row["name"], row["rule"]) == row["match"], row


def wan22_ti2v_5b_vae_rows(table, _):
    assert table["clip_output"] is False  # of the published conversion script; diffusers' class has no such field
    fields = {name: value for name, value in table.items() if name != "clip_output"}
    with torch.device("meta"):
        vae = AutoencoderKLWan(**fields, temperal_downsample=[False, True, True])
    assert {name: vae.config[name] for name in fields} == fields
    assert sum(parameter.numel() for parameter in vae.parameters()) == FULL_SIZE_VAE_PARAMETERS


CHECKS = {
    "dynamic_shift": dynamic_shift_rows,
    "shifted_t": shifted_t_rows,
    "guidance": guidance_rows,
    "load_video_indices": load_video_indices_rows,
    "training_read_video_indices": training_read_video_indices_rows,
    "vlm_downsample": vlm_downsample_rows,
    "processor_frame_sampling": processor_frame_sampling_rows,
    "resize_and_crop": resize_and_crop_rows,
    "image_buckets_wh": bucket_rows("image"),
    "video_buckets_wh": bucket_rows("video"),
    "closest_resolution": closest_resolution_rows,
    "token_counts": token_counts_rows,
    "scheduler": scheduler_rows,
    "token_batching": token_batching_rows,
    "weight_flattening": weight_flattening_rows,
    "segments": segments_rows,
    "validation_timesteps": validation_timesteps_rows,
    "unfreeze_match": unfreeze_match_rows,
    "wan22_ti2v_5b_vae": wan22_ti2v_5b_vae_rows,
}


@pytest.fixture(scope="module")
def tables(loomvideo_set):
    return json.loads(require(loomvideo_set / "tables.json").read_text())


@pytest.mark.parametrize("table", CHECKS)
def test_every_row_of_a_published_loomvideo_table_is_recomputed(table, tables, loomvideo_set):
    assert tables[table], f"the set's table {table} is empty"
    CHECKS[table](tables[table], loomvideo_set)


def test_no_published_loomvideo_table_is_left_unchecked(tables):
    differences = DIFFERENCES.read_text()
    unchecked = [name for name in tables if name not in CHECKS and f"`{name}`" not in differences]
    assert not unchecked, f"checked by no function and not named in {DIFFERENCES.name}: {unchecked}"
