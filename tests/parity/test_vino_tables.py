"""Every row of the published program's tables of sizes, frames and times, and its constants, by this package's rules."""

import inspect
import json

import pytest
import torch
from golden_set import require

from loomvideo.cli.import_vino import PUBLISHED_LIMITS
from loomvideo.media.frames import even_frames, leading_frames
from loomvideo.media.letterbox import area_size, box_size
from loomvideo.models.hunyuan import EMBEDDED_GUIDANCE
from loomvideo.models.qwen import LIST_FPS, timestamps
from loomvideo.models.vino_chat import FIRST_BUDGETS, FRAMES, first_size
from loomvideo.sampling.euler import ShiftedEulerScheduler
from loomvideo.systems.request import Task
from loomvideo.systems.vino import VinoPipeline


def image_size_rows(rows):
    for row in rows:
        assert list(first_size(row["h"], row["w"], FIRST_BUDGETS["image"])) == row["out"], row


def frame_size_rows(rows):
    for row in rows:
        assert row["frames"] == FRAMES
        assert list(first_size(row["h"], row["w"], FIRST_BUDGETS["video"])) == row["out"], row


def frame_index_rows(rows):
    for row in rows:
        assert even_frames(row["total_frames"], FRAMES) == row["idx"], row


def letterbox_rows(rows):
    for row in rows:
        assert list(box_size(row["src_h"], row["src_w"], row["area"], row["unit"])) == row["out_hw"], row


def area_rows(rows):
    for row in rows:
        assert list(area_size(row["h"], row["w"], row["max_area"])) == row["out_hw"], row


def leading_frame_rows(rows):
    """Where the published rule runs past the end, this one reads as many frames, closer together."""
    for row in rows:
        step = 1.0 if row["sample_fps"] < 0 else row["fps"] / row["sample_fps"]
        got = leading_frames(row["video_frames"], row["requested"], step)
        if row["reference_raises"]:
            assert len(got) == row["requested"], row
            assert got[-1] < row["video_frames"], row
        else:
            assert got == row["indices"], row


def schedule_rows(rows):
    for row in rows:
        scheduler = ShiftedEulerScheduler(shift=row["shift"])
        scheduler.set_timesteps(row["steps"])
        torch.testing.assert_close(scheduler.times[:-1], torch.tensor(row["timesteps"]), rtol=0, atol=1e-6)
        torch.testing.assert_close(-scheduler.times.diff(), torch.tensor(row["dts"]), rtol=0, atol=1e-6)


def timestamp_rows(table):
    assert (table["frames"], table["assumed_fps"]) == (FRAMES, LIST_FPS)
    assert timestamps(range(FRAMES)) == tuple(f"<{label:.1f} seconds>" for label in table["labels"])


CHECKS = {
    "vlm_image_resize_factor28": image_size_rows,
    "vlm_video_frame_resize": frame_size_rows,
    "vlm_video_indices": frame_index_rows,
    "letterbox_grid": letterbox_rows,
    "area_resize": area_rows,
    "vae_video_indices": leading_frame_rows,
    "schedule": schedule_rows,
    "video_timestamps": timestamp_rows,
}


@pytest.fixture(scope="module")
def tables(vino_set):
    return json.loads(require(vino_set / "cases" / "host_logic.json").read_text())


@pytest.mark.parametrize("table", CHECKS)
def test_every_row_of_a_published_vino_table_is_recomputed(table, tables):
    assert tables[table], f"the set's table {table} is empty"
    CHECKS[table](tables[table])


def test_no_published_vino_table_is_left_unchecked(tables):
    assert set(tables) == set(CHECKS)


def test_the_published_constants_of_vino_are_this_packages_defaults(vino_set):
    published = json.loads(require(vino_set / "scheduler_config.json").read_text())
    published.pop("scheduler")  # words; the `schedule` table holds its numbers
    published.pop("latents_sampling")  # words, too
    published.pop("vae_scaling_factor")  # of the VAE's own configuration, compared below
    defaults = {name: field.default for name, field in inspect.signature(VinoPipeline.__init__).parameters.items()}
    one = PUBLISHED_LIMITS.for_task(Task.TEXT_TO_IMAGE, still=True)
    several = PUBLISHED_LIMITS.for_task(Task.TEXT_TO_VIDEO, still=False)
    assert published == {
        "timestep_multiplier": ShiftedEulerScheduler().config.timestep_multiplier,
        "timestep_shift_single_frame": defaults["shift_image"],
        "timestep_shift_multi_frame": defaults["shift_video"],
        "num_inference_steps": one.num_inference_steps,
        "guidance_scale_single_frame": one.guidance_scale,
        "guidance_scale_multi_frame": several.guidance_scale,
        "guidance_scale_image": one.guidance_scale_visual,
        "embedded_guidance": EMBEDDED_GUIDANCE,
    }
    assert one.num_inference_steps == several.num_inference_steps
    assert one.guidance_scale_visual == several.guidance_scale_visual


def test_the_vae_scales_its_latents_by_the_published_factor_of_vino(vino_set, vino_vae):
    from loomvideo.models.vae import normalise

    published = json.loads(require(vino_set / "scheduler_config.json").read_text())["vae_scaling_factor"]
    torch.testing.assert_close(normalise(vino_vae, torch.ones(1, 4, 1, 1, 1)).unique().item(), published)
