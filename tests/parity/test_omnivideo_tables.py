"""Every row of the published program's tables, recomputed by the rules of this package."""

import pytest
from diffusers import AutoencoderKLWan
from omnivideo_set import index

from loomvideo.media.frames import reading_stride
from loomvideo.media.resize import ratio_crop_size
from loomvideo.models.context_rows import SourceTokenizer
from loomvideo.models.reader import route
from loomvideo.models.vae import latent_grid
from loomvideo.models.vila import generation_chat, question_chat, shown_frames

PROMPT = "A red fox runs."  # of the table of chats
PATCH = 4  # latents of one token


def center_crop_rows(rows):
    for row in rows:
        assert list(ratio_crop_size(*row["src_hw"], *row["target_hw"])) == row["crop_hw"], row


def mllm_frames_rows(rows):
    for row in rows:
        assert shown_frames(row["total"], row["count"]) == row["index"], row


def latent_shape_rows(rows):
    vae, tokenizer = AutoencoderKLWan(base_dim=1), SourceTokenizer(dim=1, text_dim=1)  # sizes do not ask for the widths
    for row in rows:
        width, height = row["size_wh"]
        grid = latent_grid(vae, row["frame_num"], height, width)
        assert [vae.config["z_dim"], *grid] == row["latent"], row
        assert grid[0] * grid[1] * grid[2] // PATCH == row["tokens"], row
        assert tokenizer.num_rows(grid) == row["source_tokens"], row


def sampling_rate_rows(rows):
    for row in rows:
        wanted = {"wanted": row["frame_num"], "stride": row["rate"], "skip": row["skip"]}
        if row["result"] is None:
            with pytest.raises(ValueError, match="skip fewer"):
                reading_stride(row["total"], **wanted)
        else:
            assert reading_stride(row["total"], **wanted) == row["result"], row


def mllm_prompts_rows(rows):
    chats = {task: generation_chat(task, PROMPT, system="{system}") for task in ("t2v", "t2i", "i2i", "v2v")}
    chats["understanding"] = question_chat(PROMPT, system="{system}", num_images=8)
    assert chats == {name: text for name, text in rows.items() if name != "note"}


def routing_rows(rows):
    """The rule is a sentence; every combination of ids and source that it speaks of."""
    video, image = ([rows["ids"][name]] for name in ("[GEN_VID]", "[GEN_IMG]"))
    markers = {"video": video, "image": image}
    for ids in (video, image, video + image):
        assert (route(ids, markers, "image"), route(ids, markers, "video")) == ("i2i", "v2v")
    assert [route(ids, markers) for ids in (video, image, image + video, [])] == ["t2v", "t2i", "t2v", None]
    assert route([1, 2], markers, "video") is None


CHECKS = {
    "center_crop": center_crop_rows,
    "mllm_frames": mllm_frames_rows,
    "latent_shape": latent_shape_rows,
    "sampling_rate": sampling_rate_rows,
    "mllm_prompts": mllm_prompts_rows,
    "routing": routing_rows,
}


@pytest.mark.parametrize("table", CHECKS)
def test_every_row_of_a_published_omnivideo_table_is_recomputed(table):
    rows = index()["tables"][table]
    assert rows, f"the set's table {table} is empty"
    CHECKS[table](rows)


def test_no_published_omnivideo_table_is_left_unchecked():
    assert set(index()["tables"]) == set(CHECKS)
