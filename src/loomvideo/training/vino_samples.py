"""VINO's prepared samples: what every guidance branch is told and shown, and batches of them.

A prepared sample has "target" and "references" latents, as all have, and its branches: "full", "silent", which is told the
negative prompt, and, where there are pictures to lose, "reduced", which is not shown them either. A branch has its chat's
"ids" (m,) and "positions" (3, m), and of models that plan the "text_rows" (r,) that are read of it; of each reference its
latents in "references", what the vision tower makes of it in "seen" (1 + taps, s, dm), and its row in "marker_rows"
(references, 2). Tensors that samples share are stored once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from loomvideo.conditioning.markers import boundary_rows
from loomvideo.data.samples import Sample
from loomvideo.data.world.phrases import Writer
from loomvideo.models.chat import plan_ends, tokenise
from loomvideo.models.hunyuan import edited
from loomvideo.models.qwen import Visual, model_arguments
from loomvideo.systems.request import Task
from loomvideo.systems.vino import GuidanceBranch, guidance_branches, references_of, show, with_role
from loomvideo.training.features import encode, encode_each, shown_scenes, told, told_of
from loomvideo.training.loomvideo import DESCRIBED
from loomvideo.training.mllm import Sight, visuals_of
from loomvideo.training.query_objective import ChatBatch, QueryGroup, look
from loomvideo.training.recipe import BatchRules, Draw, Prepared, Readers

NAMES = {
    "t2i": "words",
    "t2v": "words",
    "edit_image": "edit",
    "edit_video": "edit",
    "style_image": "style",
    "style_video": "style",
}
Reference = tuple[Visual, Tensor, Tensor]  # with what the vision tower makes of it, and its latents


@torch.no_grad()
def prepare(drawn: Sequence[Sample], readers: Readers, rng: np.random.Generator) -> list[Prepared]:
    """Samples that share task, size and length; of `DESCRIBED` tasks, what they show in words of its own, too."""
    task, still = drawn[0].task, drawn[0].num_frames == 1
    targets = list(encode(readers.vae, [clip for one in drawn if (clip := one.target_frames()) is not None]))
    references = _references(drawn, readers)
    items = []
    for one, target, given in zip(drawn, targets, references, strict=True):
        prompt = told(one, readers)
        if task == "i2v":
            prompt = with_role(Task.IMAGE_TO_VIDEO, prompt)
        has_base = still and one.source_frames() is not None and len(given) > 1
        items.append(make_item(readers, NAMES.get(task, task), target, given, prompt, has_base=has_base))
    if task in DESCRIBED:
        items += _described(drawn, targets, references, readers, rng)
    return items


def make_item(
    readers: Readers,
    task: str,
    target: Tensor,
    references: Sequence[Reference],
    prompt: str,
    *,
    has_base: bool = False,
) -> Prepared:
    """A sample with the branches of the system's own guidance; ``has_base``: the last picture is the one to be edited."""
    branches, _ = guidance_branches(
        [visual for visual, _, _ in references],
        list(torch.arange(len(references))),  # each branch is to say which it keeps
        prompt=prompt,
        negative_prompt=readers.negative_prompt,
        guidance_scale=2.0,  # above 1, so that all branches are given
        guidance_scale_image=2.0,
        has_base=has_base,
        system=readers.system_turn,
    )
    made = [_branch(readers, branch, references) for branch in branches]
    item = {"task": task, "target": target, "references": made[-1]["references"]}
    return item | dict(zip(("full", "silent", "reduced"), reversed(made), strict=False))


def _branch(readers: Readers, branch: GuidanceBranch, references: Sequence[Reference]) -> Prepared:
    kept = [references[int(index)] for index in branch.references]
    inputs = tokenise(readers.tokenizer, [branch.chat])
    base: Any = readers.mllm.base_model
    kinds = model_arguments(readers.mllm, inputs)["mm_token_type_ids"]
    positions, _ = base.get_rope_index(inputs.input_ids, kinds, inputs.image_grid_thw, inputs.video_grid_thw)
    rows = boundary_rows(
        inputs.input_ids[0],
        [visual.grid[0] for visual, _, _ in kept],
        start_id=readers.mllm.config.vision_start_token_id,
        end_id=readers.mllm.config.vision_end_token_id,
    )
    ids, read = inputs.input_ids[0], {}
    if readers.item_end is not None:
        read = {"text_rows": plan_ends(readers.tokenizer, ids, readers.item_end).short()}
    return read | {
        "ids": ids.int(),
        "positions": positions[:, 0].short(),
        "marker_rows": rows.short(),
        "seen": [seen for _, seen, _ in kept],
        "references": [latents for _, _, latents in kept],
    }


def _references(drawn: Sequence[Sample], readers: Readers) -> list[list[Reference]]:
    """Of every sample: its pictures, then its source."""
    pictures = [[picture[None] for picture in one.reference_pictures()] for one in drawn]
    clips = [clip for one in drawn if (clip := one.source_frames()) is not None]
    encoded_pictures = iter(encode_each(readers.vae, [picture for shown in pictures for picture in shown]))
    encoded_clips = iter(encode_each(readers.vae, clips))
    latents = [[next(encoded_pictures) for _ in shown] + [next(encoded_clips) for _ in clips[:1]] for shown in pictures]
    return _looked_at([_shown(one, readers.sight) for one in drawn], latents, readers)


def _shown(drawn: Sample, sight: Sight) -> list[Visual]:
    """As VinoPipeline.visuals."""
    if sight.first is None:
        return visuals_of(drawn, sight)
    pictures, clip = references_of(drawn.reference_pictures(), drawn.source_frames())
    return show(pictures, clip, {"image": sight.image, "video": sight.video}, sight.num_frames, dict(sight.first))


def _looked_at(
    visuals: Sequence[Sequence[Visual]], latents: Sequence[Sequence[Tensor]], readers: Readers
) -> list[list[Reference]]:
    seen = iter(look(readers.mllm, [visual for shown in visuals for visual in shown]))
    return [
        [(visual, next(seen).half().cpu(), encoded) for visual, encoded in zip(shown, given, strict=True)]
        for shown, given in zip(visuals, latents, strict=True)
    ]


def _described(
    drawn: Sequence[Sample],
    targets: Sequence[Tensor],
    references: Sequence[Sequence[Reference]],
    readers: Readers,
    rng: np.random.Generator,
) -> list[Prepared]:
    """Sources and targets as samples of text-to-image or -video: the latents are there already."""
    still, writer = drawn[0].num_frames == 1, Writer(rng)
    latents = [{"target": target, "source": given[-1][2]} for target, given in zip(targets, references, strict=True)]
    return [
        make_item(readers, "words", shown, (), told_of(scene, writer, readers, still=still))
        for scene, shown in shown_scenes(drawn, latents)
    ]


# --- batches


def drop_conditions(
    items: Sequence[Prepared], rngs: Sequence[np.random.Generator], rules: BatchRules
) -> list[Prepared]:
    """The branch that every sample is trained on. What a batch is shown is its layout: it loses its pictures as a whole.

    Samples that are told the negative prompt teach the text's guidance scale, batches without pictures the images'.
    """
    if "reduced" in items[0] and rngs[0].random() < rules.all_dropout_rate:
        return [item["reduced"] for item in items]
    keeps_text = [rng.random() >= rules.text_dropout_rate for rng in rngs]
    return [item["full" if kept else "silent"] for item, kept in zip(items, keeps_text, strict=True)]


def make_group(draws: Sequence[Draw], readers: Readers, device: torch.device, rules: BatchRules) -> QueryGroup:
    """A batch of prepared samples of one kind and layout as the objective takes it."""
    items, rngs = [draw.item for draw in draws], [draw.rng() for draw in draws]
    branches = drop_conditions(items, rngs, rules)
    latents = torch.stack([item["target"] for item in items]).to(device).float()
    references = [
        torch.stack(same).to(device).float()
        for same in zip(*(branch["references"] for branch in branches), strict=True)
    ]
    return QueryGroup(
        latents=latents,
        noise=torch.stack([draw.noise(device) for draw in draws]),
        time=rules.times(
            rngs,
            latents[0, 0].numel() // 4,
            has_source=edited(references, latents.shape) is not None,
            is_clip=latents.shape[2] > 1,
        ).to(device),
        chats=_chats(branches, readers, device),
        references=references,
        shown=items[0].get("shown"),
    )


def _chats(branches: Sequence[Prepared], readers: Readers, device: torch.device) -> ChatBatch:
    lengths = torch.tensor([len(branch["ids"]) for branch in branches])
    ids = pad_sequence([branch["ids"] for branch in branches], batch_first=True)
    positions = pad_sequence([branch["positions"].T for branch in branches], batch_first=True)  # (b, m, 3)
    config = readers.mllm.config
    placeholders = torch.tensor([config.image_token_id, config.video_token_id])
    seen = [torch.cat(branch["seen"], dim=1) for branch in branches if branch["seen"]]
    return ChatBatch(
        ids=ids.long().to(device),
        mask=(torch.arange(ids.shape[1]) < lengths[:, None]).long().to(device),
        positions=positions.permute(2, 0, 1).long().to(device),
        seen=torch.stack(seen, dim=1).to(device).float() if seen else None,
        seen_rows=torch.isin(branches[0]["ids"], placeholders).nonzero().flatten().to(device),
        marker_rows=branches[0]["marker_rows"].long().to(device),
        text_rows=_text_rows(branches, device),
    )


def _text_rows(branches: Sequence[Prepared], device: torch.device) -> Tensor | None:
    if "text_rows" not in branches[0]:
        return None
    rows = [branch["text_rows"].long() for branch in branches]
    return pad_sequence(rows, batch_first=True, padding_value=-1).to(device)
