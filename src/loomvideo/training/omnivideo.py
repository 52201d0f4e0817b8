"""Omni-Video's part in the training: the paper's three stages, from nothing or from given weights.

The fact sheet gives the stages (10.2), their tasks and mixed batches (10.3) without numbers. Chosen here: what is drawn and
how often, and how long the stages are. The built-in model is of the first release, on the language model and VAE that all
systems share; the language model's token embeddings stand for the text encoder, its vision tower for SigLIP.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loomvideo.data.samples import Sample
from loomvideo.data.world.tasks import sample
from loomvideo.models.context_rows import QueryTransformer, SourceTokenizer
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.sampling.schedulers import WanUniPCScheduler
from loomvideo.systems.omnivideo import OmniVideoPipeline
from loomvideo.systems.request import ModelLimits
from loomvideo.training import omnivideo_objective, omnivideo_samples
from loomvideo.training.context_objective import NUM_LEVELS
from loomvideo.training.features import stated
from loomvideo.training.loomvideo import NUM_BLOCKS, PALETTE_SIZE
from loomvideo.training.mllm import FRAME_RULE, IMAGE_BUDGET, PLANNING, VIDEO_BUDGET
from loomvideo.training.objective import Shown
from loomvideo.training.omnivideo_objective import ContextBatch, OmniVideoModel
from loomvideo.training.recipe import (
    NO_DROPOUT,
    NO_TEXT,
    NOTHING_KEPT,
    WORLD_LIMITS,
    BatchRules,
    Draw,
    Guidance,
    Mixture,
    Prepared,
    Readers,
    Sizes,
    Stage,
    own_folder,
)
from loomvideo.training.tracks import teach_tracks

log = logging.getLogger(__name__)

FLOW_SHIFT = 3.0
READING_SAMPLES, READING_STEPS, READING_RATE = 3000, 1500, 3e-3  # of an embedder that begins as LoomVideo's projector
TOKENS_A_BATCH = {"cpu": 1_280, "cuda": 12_288}  # 80 pictures or 4 clips of 128 x 128 x 17
LIMITS = {
    **WORLD_LIMITS,
    "max_references": 0,
    "negative_prompt": "",
    "tasks": ["t2i", "t2v", "edit"],
}
_PICTURE: Sizes = {"num_frames": 1}
_CLIP: Sizes = {"num_frames": 17}
_SHORT: Sizes = {"num_frames": 9}
_WIDE: Sizes = {"height": 96, "width": 160}
_TALL: Sizes = {"height": 160, "width": 96}
# A clip costs twenty times what a picture costs; what edits show serves as samples of text-to-image and -video, too.
MIXTURE: Mixture = (
    ("t2i", _PICTURE, 0.24),
    ("t2i", _PICTURE | _WIDE, 0.02),
    ("t2i", _PICTURE | _TALL, 0.02),
    ("edit_image", _PICTURE, 0.36),
    ("style_image", _PICTURE, 0.08),
    ("t2v", _CLIP, 0.05),
    ("t2v", _SHORT, 0.02),
    ("t2v", _CLIP | _WIDE, 0.01),
    ("t2v", _CLIP | _TALL, 0.01),
    ("edit_video", _CLIP, 0.13),
    ("edit_video", _SHORT, 0.03),
    ("style_video", _CLIP, 0.015),
    ("style_video", _CLIP | _WIDE, 0.015),
)
UNDERSTANDING: Mixture = (("caption", _PICTURE, 0.1), ("question", _PICTURE, 0.1))  # for a text head that is trained

HEADS = {"answer picture": 0.5, "align picture": 0.5}
TEXT_SPACE = {"space picture": 0.7, "space clip": 0.3}
GENERATION = {"generation picture": 0.8, "generation clip, some frames": 0.2}
MIXED = {
    "mixed picture": 0.6,
    "mixed clip": 0.1,
    "mixed clip, some frames": 0.3,
}  # the two groups; each holds generations and edits

PARTS = ("transformer", "vision_head", "adapter", "source_tokenizer")  # what the last stage trains, and what is saved
LM_HEAD = "lm_head.safetensors"


class OmniVideoRecipe:
    """See training.recipe.Recipe; the language model's body is frozen, and its head, too, where it is the embedding."""

    tokens_a_batch = TOKENS_A_BATCH
    rules = BatchRules(all_dropout_rate=0.0, text_dropout_rate=0.05)  # 10.4: the request, never the source
    features_only = True  # a prepared sample holds all that the language model says of it
    shared = ("vae", "mllm")
    last_timestep = float(NUM_LEVELS)

    def __init__(self, readers: Readers) -> None:
        self.readers = readers
        readers.mllm.requires_grad_(False)
        mllm: Any = readers.mllm
        self.lm_head: nn.Linear | None = None if mllm.config.tie_word_embeddings else mllm.lm_head
        self.mixture: Mixture = MIXTURE if self.lm_head is None else (*MIXTURE, *UNDERSTANDING)
        self.nothing = {
            "picture": omnivideo_samples.nothing_told(readers, still=True),
            "clip": omnivideo_samples.nothing_told(readers, still=False),
        }

    def prepare(self, drawn: Sequence[Sample], rng: np.random.Generator) -> list[Prepared]:
        return omnivideo_samples.prepare(drawn, self.readers, rng)

    def kind(self, item: Prepared) -> str:
        return item["kind"]

    def only(self, item: Prepared, shown: Shown) -> Prepared:
        frames = {name: item[name][:, list(shown.frames)] for name in ("target", "edited") if name in item}
        return item | frames | {"shown": shown}

    def num_tokens(self, item: Prepared) -> int:
        """Of the target alone: what a batch mixes differs in its context, which costs little."""
        return item["target"][0].numel() // 4

    def stages(self, start: Path | None) -> Sequence[Stage]:
        """Heads; adapter; everything: the paper's three (10.2), generations before all four tasks (10.3).

        From given weights all of them. Otherwise there is no denoiser whose text space an adapter could learn, and a
        frozen one that cannot read teaches nothing: the second stage is left out, and the third has both sub-stages.
        """
        if start is None or not has_own_weights(start):
            return (
                Stage(until=0.03, shares=HEADS, trained=("vision_head", "lm_head")),
                Stage(until=0.3, shares=GENERATION, trained=PARTS),
                Stage(until=1.0, shares=MIXED, trained=PARTS),
            )
        return (
            Stage(until=0.1, shares=HEADS, trained=("vision_head", "lm_head")),
            Stage(until=0.2, shares=TEXT_SPACE, trained="adapter"),
            Stage(until=0.3, shares=GENERATION, trained=("adapter", "source_tokenizer")),
            Stage(until=0.45, shares=MIXED, trained=("adapter", "source_tokenizer")),
            Stage(until=1.0, shares=MIXED, trained=PARTS),
        )

    def build(self, start: Path | None) -> OmniVideoModel:
        if start is None:
            model = build_model()
        elif not has_own_weights(start):
            model = build_model()
            draw_as(model.transformer, own_folder(start, "loomvideo") / "transformer")
        else:
            folder = own_folder(start, "omnivideo")
            model = OmniVideoModel(
                OmniVideoTransformer3DModel.from_pretrained(folder / "transformer"),
                QueryTransformer.from_pretrained(folder / "vision_head"),
                QueryTransformer.from_pretrained(folder / "adapter"),
                SourceTokenizer.from_pretrained(folder / "source_tokenizer"),
            )
        model.lm_head = None if self.lm_head is None else self.lm_head.requires_grad_(True)
        return model.float().train()

    def teach(self, model: OmniVideoModel, device: torch.device) -> None:
        """Where the items of plans are at the times of frames."""
        if model.transformer.tracks is not None:
            teach_tracks(model.transformer.tracks, device)

    def batch(self, draws: Sequence[Draw], device: torch.device, rules: BatchRules | None = None) -> ContextBatch:
        return omnivideo_samples.make_batch(draws, self.nothing, device, rules or self.rules)

    def squared_errors(self, model: OmniVideoModel, batch: ContextBatch) -> Tensor:
        return omnivideo_objective.squared_errors(model, batch)

    def given(self, batch: ContextBatch) -> Tensor | None:
        """Of generations among edits the median of each, as the trainer compares those that stand by themselves."""
        if batch.sources is None:
            return None
        median = batch.latents.flatten(2).median(dim=2).values[..., None, None, None]
        return median.expand_as(batch.latents).index_copy(0, batch.source_places, batch.sources)

    def guidance(self, item: Prepared, limits: ModelLimits) -> Guidance:
        """From the request dropped to the full branch; where the visual scale is not 1, from the source dropped, too."""
        edits = "edited" in item
        text = limits.guidance_scale_edit if edits else limits.guidance_scale
        if edits and limits.guidance_scale_visual != 1:
            return Guidance([NOTHING_KEPT, NO_TEXT, NO_DROPOUT], [limits.guidance_scale_visual, text])
        return Guidance([NO_TEXT, NO_DROPOUT], [text])

    def save(self, model: OmniVideoModel, folder: Path) -> None:
        for name in PARTS:
            part: Any = model.get_submodule(name)
            part.save_pretrained(folder / name)
        if model.lm_head is not None:
            save_file(model.lm_head.state_dict(), folder / LM_HEAD)

    def pipeline(self, trained: Path) -> OmniVideoPipeline:
        if self.lm_head is not None and (trained / LM_HEAD).exists():
            self.lm_head.load_state_dict(load_file(trained / LM_HEAD))
        return OmniVideoPipeline(
            transformer=OmniVideoTransformer3DModel.from_pretrained(trained / "transformer"),
            vision_head=QueryTransformer.from_pretrained(trained / "vision_head"),
            adapter=QueryTransformer.from_pretrained(trained / "adapter"),
            source_tokenizer=SourceTokenizer.from_pretrained(trained / "source_tokenizer"),
            mllm=self.readers.mllm,
            tokenizer=self.readers.tokenizer,
            vae=self.readers.vae,
            scheduler=WanUniPCScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT),
            limits=LIMITS,
            frame_rule=vars(FRAME_RULE),
            pixel_budgets={"image": vars(IMAGE_BUDGET), "video": vars(VIDEO_BUDGET)},
            thinking=PLANNING,
            use_visual_as_input=True,
            item_end=self.readers.item_end,
        )

    def byte_matrices(self, pipeline: OmniVideoPipeline) -> list[nn.Parameter]:
        """All matrices of the blocks, of their modulation and of the tracks, and of the layers of vision head and adapter."""
        stacks = [pipeline.transformer.blocks, pipeline.transformer.condition_embedder.time_proj]
        if pipeline.transformer.tracks is not None:
            stacks.append(pipeline.transformer.tracks)
        for part in (pipeline.vision_head, pipeline.adapter):
            stacks += [part.encoder.layers, part.decoder.layers]
        return [parameter for parameter in nn.ModuleList(stacks).parameters() if parameter.ndim == 2]


def has_own_weights(start: Path) -> bool:
    """Whether a model folder has this system's parts; one of LoomVideo alone has a denoiser that draws, but reads otherwise."""
    return (own_folder(start, "omnivideo") / "vision_head").is_dir()


def draw_as(transformer: OmniVideoTransformer3DModel, folder: Path) -> None:
    """Take over what LoomVideo's denoiser knows, and what it makes of plans: as the paper begins with a trained Wan (10.2).

    Raises ValueError where the two differ in size, or LoomVideo has no tracks.
    """
    denoiser = LoomVideoTransformer3DModel.from_pretrained(folder).float()
    drawing = denoiser.state_dict()
    own = transformer.state_dict()
    given = {name: drawing.get(name, torch.empty(0)) for name in own if "text_embedder" not in name}
    wrong = [name for name, value in given.items() if value.shape != own[name].shape]
    wrong += [name for name in drawing if name.startswith("blocks.") and name not in own]
    if wrong:
        raise ValueError(
            f"{folder}: {len(wrong)} tensors, {wrong[0]} the first, are of another size than this denoiser's or of one of "
            "the two alone: start from a LoomVideo that was trained with the same number of blocks and with item_tracks"
        )
    transformer.load_state_dict(own | given)
    states = states_of_plans(transformer.config["text_dim"])
    left = read_as(transformer.condition_embedder.text_embedder, denoiser.mllm_embedder, states)
    log.info("%.1f %% of what LoomVideo's projector says is left to learn", 100 * left)


def read_as(embedder: nn.Module, projector: nn.Module, states: Tensor) -> float:
    """Teach a text embedder (r, dt) -> (r, d) what LoomVideo's projector makes of the states (r, dt) of plans, about as far off
    as they are read; what is left, as a share of what there is."""
    with torch.no_grad():
        wanted = projector(states)
    optimizer = torch.optim.AdamW(embedder.parameters(), lr=READING_RATE, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(0)
    left = 1.0
    for step in range(READING_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = READING_RATE * (1 - step / READING_STEPS)
        rows = torch.randint(len(states), (512,), generator=generator)
        loss = (embedder(states[rows]) - wanted[rows]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        left = float(loss.detach() / wanted[rows].var())
    return left


def states_of_plans(dim: int) -> Tensor:
    """States (r, dm) of the plans that a denoiser is told."""
    rng = np.random.default_rng([12, 0])
    drawn = [
        sample(task, rng, **sizes) for task, sizes, share in MIXTURE for _ in range(round(READING_SAMPLES * share))
    ]
    return torch.cat([stated(one, dim) for one in drawn])


def build_model() -> OmniVideoModel:
    """The built-in size, new: the denoiser is as large as LoomVideo's, whose weights it can begin with.

    A patch of the source is four of the target's tokens, as published; the noisy latents hold the source whole. The 128
    rows of a context are room for a clip's source (68), its vision rows (32) and 28 items of a plan.
    """
    width = 192  # of the language model, hence of rows without a text encoder, and of its tower
    transformer = OmniVideoTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=8,
        attention_head_dim=32,
        in_channels=48,
        out_channels=48,
        text_dim=width,
        freq_dim=256,
        ffn_dim=768,
        num_layers=NUM_BLOCKS,
        max_context_len=128,
        prediction="clean",
        copies_source=True,
        absolute_places=True,
        palette_size=PALETTE_SIZE,
        item_tracks=True,
    )
    text = transformer.condition_embedder.text_embedder
    for linear in (text.linear_1, text.linear_2):  # published small, beside a denoiser that was trained before
        nn.init.xavier_uniform_(linear.weight)
    return OmniVideoModel(
        transformer,
        QueryTransformer(width, width, num_queries=4, num_heads=8, num_layers=2, ffn_dim=192),
        # not of the published initialisation: a memory of one token tells queries that are all near zero nothing of each other
        QueryTransformer(width, width, num_queries=8, num_heads=8, num_layers=1, ffn_dim=192),
        SourceTokenizer(48, width, width, patch_size=(1, 4, 4)),
    )
