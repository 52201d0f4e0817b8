"""VINO's part in the training: progressive stages, from nothing or from given weights.

The fact sheet gives no numbers (section 7). Chosen here: what is drawn and how often, how long the stages are and what
each of them trains. The published stages go from long captions to short prompts; here both are one, for the language model
turns every request into a plan, and the published proxy tasks, which ask for a picture that is shown, have none.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from loomvideo.data.buckets import closest_resolution
from loomvideo.data.samples import Sample
from loomvideo.models.connector import QueryConnector
from loomvideo.models.hunyuan import VinoTransformer3DModel, edited
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.sampling.euler import ShiftedEulerScheduler
from loomvideo.systems.request import ModelLimits
from loomvideo.systems.vino import VinoPipeline
from loomvideo.training import query_objective, vino_samples
from loomvideo.training.loomvideo import PALETTE_SIZE
from loomvideo.training.mllm import FRAME_RULE, IMAGE_BUDGET, PLANNING, VIDEO_BUDGET
from loomvideo.training.objective import Shown
from loomvideo.training.query_objective import TIMESTEPS, QueryGroup, VinoModel
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

FLOW_SHIFT = 3.0
HEAD_TIMESTEP = (
    900.0  # at which the modulation of LoomVideo's head becomes the constant one that a new head begins with
)
NUM_QUERIES = 4
TOKENS_A_BATCH = {"cpu": 1_280, "cuda": 49_152}  # of 2x2 latents, as published, and of text
LIMITS = {
    **WORLD_LIMITS,
    "negative_prompt": "",
    "tasks": ["t2i", "t2v", "edit", "ref_edit", "mi2v", "i2v"],
}

# sizes of one area and several ratios, so that batches of every shape cost the same
BUCKETS = {"128": ((128, 128), (96, 160), (160, 96))}


def bucketed(num_frames: int, height: int = 128, width: int = 128) -> Sizes:
    """So many frames, in the size of the bucket whose ratio is the nearest."""
    height, width = closest_resolution(height, width, BUCKETS)
    return {"num_frames": num_frames, "height": height, "width": width}


# A clip costs twenty times what a picture costs; what edits show serves as samples of text-to-image and -video, too.
MIXTURE: Mixture = (
    ("t2i", bucketed(1), 0.22),
    ("t2i", bucketed(1, 9, 16), 0.02),
    ("t2i", bucketed(1, 16, 9), 0.02),
    ("edit_image", bucketed(1), 0.22),
    ("style_image", bucketed(1), 0.05),
    ("guided_edit", bucketed(1), 0.08),
    ("mi2v", bucketed(1), 0.05),
    ("t2v", bucketed(17), 0.05),
    ("t2v", bucketed(9), 0.03),
    ("t2v", bucketed(17, 9, 16), 0.01),
    ("t2v", bucketed(17, 16, 9), 0.01),
    ("edit_video", bucketed(17), 0.09),
    ("edit_video", bucketed(9), 0.02),
    ("style_video", bucketed(17), 0.015),
    ("style_video", bucketed(17, 9, 16), 0.015),
    ("guided_edit", bucketed(17), 0.03),
    ("mi2v", bucketed(17), 0.03),
    ("i2v", bucketed(17), 0.03),
)
ALIGNMENT = {"words picture": 1.0}
PICTURES = {
    "words picture": 0.4,
    "edit picture": 0.36,
    "style picture": 0.08,
    "guided_edit picture": 0.08,
    "mi2v picture": 0.08,
}
EVERYTHING = {
    "words picture": 0.3,
    "edit picture": 0.22,
    "style picture": 0.05,
    "guided_edit picture": 0.05,
    "mi2v picture": 0.04,
    "words clip": 0.03,
    "words clip, some frames": 0.10,
    "edit clip": 0.02,
    "edit clip, some frames": 0.07,
    "style clip, some frames": 0.03,
    "guided_edit clip, some frames": 0.03,
    "mi2v clip": 0.01,
    "mi2v clip, some frames": 0.02,
    "i2v clip": 0.01,
    "i2v clip, some frames": 0.02,
}


class VinoRecipe:
    """See training.recipe.Recipe; the language model is frozen, and gradients pass through it to the queries alone."""

    mixture = MIXTURE
    tokens_a_batch = TOKENS_A_BATCH
    rules = BatchRules(all_dropout_rate=0.02, text_dropout_rate=0.02)
    shared = ("vae", "mllm")
    last_timestep = TIMESTEPS

    def __init__(self, readers: Readers) -> None:
        self.readers = readers
        readers.mllm.requires_grad_(False)

    def prepare(self, drawn: Sequence[Sample], rng: np.random.Generator) -> list[Prepared]:
        return vino_samples.prepare(drawn, self.readers, rng)

    def kind(self, item: Prepared) -> str:
        return f"{item['task']} {'clip' if item['target'].shape[1] > 1 else 'picture'}"

    def only(self, item: Prepared, shown: Shown) -> Prepared:
        """Of the target, and of a source that it is an edit of; the chats have seen the whole."""
        whole, kept = item["target"].shape[1:], list(shown.frames)

        def of(references: Sequence[Tensor]) -> list[Tensor]:
            return [one[:, kept] if one.shape[1:] == whole else one for one in references]

        branches = {
            name: item[name] | {"references": of(item[name]["references"])}
            for name in ("full", "silent", "reduced")
            if name in item
        }
        frames = {"target": item["target"][:, kept], "references": of(item["references"])}
        return item | frames | branches | {"shown": shown}

    def num_tokens(self, item: Prepared) -> int:
        visual = sum(latents[0].numel() // 4 for latents in (item["target"], *item["references"]))
        if "text_rows" in item["full"]:  # which are moved to each frame
            said = len(item["full"]["text_rows"]) * item["target"].shape[1]
        else:
            said = len(item["full"]["ids"])
        return visual + said + NUM_QUERIES

    def stages(self, start: Path | None) -> Sequence[Stage]:
        """Pictures from words; pictures; everything.

        From given weights the first stage trains connectors and queries alone, so that what the denoiser knows is not
        disturbed by tokens that mean nothing yet. A denoiser that cannot read yet learns from the beginning.
        """
        reads = start is not None and has_own_weights(start)
        return (
            Stage(until=0.2, shares=ALIGNMENT, trained="connector" if reads else "all"),
            Stage(until=0.6, shares=PICTURES),
            Stage(until=1.0, shares=EVERYTHING),
        )

    def build(self, start: Path | None) -> VinoModel:
        if start is None:
            return build_model()
        if not has_own_weights(start):
            model = build_model()
            draw_as(model, own_folder(start, "loomvideo") / "transformer")
            return model
        folder = own_folder(start, "vino")
        transformer = VinoTransformer3DModel.from_pretrained(folder / "transformer")
        connector = QueryConnector.from_pretrained(folder / "connector")
        return VinoModel(transformer, connector).float().train()

    def teach(self, model: VinoModel, device: torch.device) -> None:
        """Where the items of plans are at the times of frames."""
        if model.connector.tracks is not None:
            teach_tracks(model.connector.tracks, device)

    def batch(self, draws: Sequence[Draw], device: torch.device, rules: BatchRules | None = None) -> QueryGroup:
        return vino_samples.make_group(draws, self.readers, device, rules or self.rules)

    def squared_errors(self, model: VinoModel, batch: QueryGroup) -> Tensor:
        return query_objective.squared_errors(model, self.readers.mllm, batch)

    def given(self, batch: QueryGroup) -> Tensor | None:
        return edited(batch.references, batch.latents.shape)

    def guidance(self, item: Prepared, limits: ModelLimits) -> Guidance:
        """From what is not shown the pictures over what is told the negative prompt to the full branch."""
        edits = item["task"] in ("edit", "style", "guided_edit")
        text = limits.guidance_scale_edit if edits else limits.guidance_scale
        if "reduced" in item:
            return Guidance([NOTHING_KEPT, NO_TEXT, NO_DROPOUT], [limits.guidance_scale_visual, text])
        return Guidance([NO_TEXT, NO_DROPOUT], [text])

    def save(self, model: VinoModel, folder: Path) -> None:
        model.transformer.save_pretrained(folder / "transformer")
        model.connector.save_pretrained(folder / "connector")

    def pipeline(self, trained: Path) -> VinoPipeline:
        return VinoPipeline(
            transformer=VinoTransformer3DModel.from_pretrained(trained / "transformer"),
            connector=QueryConnector.from_pretrained(trained / "connector"),
            mllm=self.readers.mllm,
            tokenizer=self.readers.tokenizer,
            vae=self.readers.vae,
            scheduler=ShiftedEulerScheduler(FLOW_SHIFT, TIMESTEPS),
            limits=LIMITS,
            frame_rule=vars(FRAME_RULE),
            pixel_budgets={"image": vars(IMAGE_BUDGET), "video": vars(VIDEO_BUDGET)},
            shift_image=FLOW_SHIFT,
            shift_video=FLOW_SHIFT,
            # It would be 40 tokens, the same in every chat; the built-in language model was taught without.
            generate_system=None,
            thinking=PLANNING,
            item_end=self.readers.item_end,
        )

    def byte_matrices(self, pipeline: VinoPipeline) -> list[nn.Parameter]:
        """All matrices of the blocks, of the connectors and of the tracks; queries are no matrix."""
        denoiser = pipeline.transformer
        modules = [*denoiser.context_embedder.blocks, *denoiser.transformer_blocks, *denoiser.single_transformer_blocks]
        modules += pipeline.connector.children()
        return [parameter for parameter in nn.ModuleList(modules).parameters() if parameter.ndim == 2]


def has_own_weights(start: Path) -> bool:
    """Whether a model folder has this system's parts; one of LoomVideo alone has a denoiser whose head can draw."""
    return (own_folder(start, "vino") / "connector").is_dir()


def draw_as(model: VinoModel, folder: Path) -> None:
    """Take over what LoomVideo's denoiser knows of pixels: how they become tokens and tokens become them, and the perceptrons
    before that; and of where items are at the times of frames, if both have tracks. Published VINO begins with a HunyuanVideo
    that draws (fact sheet 7).

    Raises ValueError where the two differ in size.
    """
    transformer, drawing = model.transformer, LoomVideoTransformer3DModel.from_pretrained(folder).float()
    given, own = drawing.state_dict(), transformer.state_dict()
    embedding, _ = drawing.condition_embedder(torch.tensor([HEAD_TIMESTEP]))
    shift, scale = (drawing.scale_shift_table + embedding)[0].detach()
    taken = {"norm_out.linear.bias": torch.cat([scale, shift])}
    patch, channels = math.prod(transformer.patch_size), transformer.config["out_channels"]
    for name, value in given.items():
        first = name.split(".")[0]
        if first == "patch_embedding":
            taken[f"x_embedder.proj.{name.removeprefix('patch_embedding.')}"] = value
        elif name in own and first in ("place_embedding", "palette"):
            taken[name] = value
        elif name in own and first in ("proj_out", "copy_gate"):  # here a token's numbers are laid out channel first
            rows = value.unflatten(0, (patch, channels)).transpose(0, 1).flatten(0, 1) if value.numel() > 1 else value
            taken[name] = rows
    last = len(drawing.blocks) - len(transformer.transformer_blocks)
    for number in range(len(transformer.transformer_blocks)):
        before = f"blocks.{last + number}.ffn."
        for name, value in given.items():
            if name.startswith(before):
                taken[f"transformer_blocks.{number}.ff.{name.removeprefix(before)}"] = value
    taken, own = {f"transformer.{name}": value for name, value in taken.items()}, model.state_dict()
    if model.connector.tracks is not None and drawing.tracks is not None:
        taken |= {f"connector.tracks.{name}": value for name, value in drawing.tracks.state_dict().items()}
    wrong = [name for name, value in taken.items() if value.shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"{folder}: {len(wrong)} tensors, {wrong[0]} the first, are of another size than this denoiser's"
        )
    model.load_state_dict(own | taken)


def build_model() -> VinoModel:
    """The built-in size, new."""
    transformer = VinoTransformer3DModel(
        in_channels=48,
        out_channels=48,
        num_attention_heads=8,
        attention_head_dim=32,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=3.0,
        patch_size=2,
        text_embed_dim=192,
        pooled_projection_dim=8,  # of the published, unused text embedder
        rope_theta=256.0,
        rope_axes_dim=(8, 12, 12),
        prediction="clean",
        copies_source=True,
        absolute_places=True,
        palette_size=PALETTE_SIZE,
    )
    connector = QueryConnector(NUM_QUERIES, hidden_size=192, z_dim=192, hy_dim=8 * 32, item_tracks=True)
    return VinoModel(transformer, connector)
