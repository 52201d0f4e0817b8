"""LoomVideo's part in the training: layers of the language model for every chat, flow matching, condition dropout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor, nn

from loomvideo.conditioning.deepstack import layers_for_blocks
from loomvideo.data.samples import AS_WRITTEN, DataError, Sample
from loomvideo.data.world.phrases import Writer
from loomvideo.data.world.plans import asked_alone
from loomvideo.models.chat import Chat, full_chat, read_tokens, tokenise, unconditional_chat, visual_chat
from loomvideo.models.qwen import layer_features
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.systems.loomvideo import PREFIXES, LoomVideoPipeline
from loomvideo.systems.request import ModelLimits
from loomvideo.training import objective
from loomvideo.training.features import encode, encode_each, shown_scenes, states_of, told, told_of
from loomvideo.training.mllm import FRAME_RULE, IMAGE_BUDGET, PLANNING, TASKS, VIDEO_BUDGET, visuals_of
from loomvideo.training.objective import Group, Shown
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
NUM_BLOCKS = 6
# Whose scenes are samples of words, too; patterned objects are in those with references alone.
DESCRIBED = ("edit_image", "edit_video", "guided_edit", "mi2v")
PALETTE_SIZE = 6  # objects, their patterns' colours, and a ground's two
TOKENS_A_BATCH = {"cpu": 1024, "cuda": 12_288}  # 64 pictures or 4 clips of 128 x 128 x 17
LIMITS = {**WORLD_LIMITS}
# A clip costs twenty times what a picture costs, and an edit's source and target serve as samples of text-to-video, too.
_PICTURE: Sizes = {"num_frames": 1}
_CLIP: Sizes = {"num_frames": 17}
_SHORT: Sizes = {"num_frames": 9}
_WIDE: Sizes = {"num_frames": 17, "height": 96, "width": 160}
_TALL: Sizes = {"num_frames": 17, "height": 160, "width": 96}
_LARGE: Sizes = {"num_frames": 1, "height": 256, "width": 448}  # of which one costs what seven small pictures cost
_LARGER: Sizes = {"num_frames": 9, "height": 192, "width": 320}
MIXTURE: Mixture = (
    ("t2i", _PICTURE, 0.20),
    ("edit_image", _PICTURE, 0.24),
    ("style_image", _PICTURE, 0.05),
    ("style_image", _LARGE, 0.01),
    ("edit_image", _LARGE, 0.01),
    ("guided_edit", _PICTURE, 0.08),
    ("mi2v", _PICTURE, 0.07),
    ("t2v", _CLIP, 0.11),
    ("t2v", _SHORT, 0.01),
    ("t2v", _WIDE, 0.005),
    ("t2v", _TALL, 0.005),
    ("edit_video", _CLIP, 0.085),
    ("edit_video", _SHORT, 0.01),
    ("style_video", _CLIP, 0.02),
    ("style_video", _WIDE, 0.01),
    ("style_video", _LARGER, 0.005),
    ("edit_video", _LARGER, 0.005),
    ("guided_edit", _CLIP, 0.03),
    ("mi2v", _CLIP, 0.045),
)
# Pictures first, from words and then all: they teach what is drawn, sixteen tokens at a time, and a batch of clips has but four.
STAGES = (
    Stage(until=0.2, shares={"words picture": 1.0}),
    Stage(
        until=0.6,
        shares={"words picture": 0.4, "edit picture": 0.4, "style picture": 0.1, "references picture": 0.1},
    ),
    Stage(
        until=1.0,
        shares={
            "words picture": 0.24,
            "edit picture": 0.22,
            "style picture": 0.05,
            "references picture": 0.06,
            "words clip": 0.06,
            "words clip, some frames": 0.13,
            "edit clip": 0.05,
            "edit clip, some frames": 0.10,
            "style clip": 0.01,
            "style clip, some frames": 0.02,
            "references clip": 0.01,
            "references clip, some frames": 0.05,
        },
    ),
)


class LoomVideoRecipe:
    """Besides what all have, a prepared sample has "source" latents where there is one, and "full" and "visual", the
    layers (blocks, m, dm) of its two chats; "visual" is absent where nothing is seen."""

    mixture = MIXTURE
    tokens_a_batch = TOKENS_A_BATCH
    rules = BatchRules(all_dropout_rate=0.02, text_dropout_rate=0.02)
    last_timestep = 1000.0
    features_only = True  # a prepared sample holds all that the language model says of it
    shared = ("vae", "mllm", "scheduler")

    def __init__(self, readers: Readers) -> None:
        self.readers = readers
        self.unconditional = unconditional_layers(readers)

    def prepare(self, drawn: Sequence[Sample], rng: np.random.Generator) -> list[Prepared]:
        prepared = prepare(drawn, self.readers)
        if drawn[0].task in DESCRIBED:
            prepared += described(drawn, prepared, self.readers, rng)
        return prepared

    def kind(self, item: Prepared) -> str:
        moving = "clip" if item["target"].shape[1] > 1 else "picture"
        if item["references"]:
            return f"references {moving}"
        if "source" not in item:
            return f"words {moving}"
        return f"style {moving}" if item["task"].startswith("style") else f"edit {moving}"

    def only(self, item: Prepared, shown: Shown) -> Prepared:
        frames = {name: item[name][:, list(shown.frames)] for name in ("target", "source") if name in item}
        return item | frames | {"shown": shown}

    def num_tokens(self, item: Prepared) -> int:
        return sum(latents[0].numel() // 4 for latents in (item["target"], *item["references"]))

    def stages(self, start: Path | None) -> Sequence[Stage]:
        return STAGES

    def build(self, start: Path | None) -> LoomVideoTransformer3DModel:
        if start is not None:
            folder = own_folder(start, "loomvideo") / "transformer"
            return LoomVideoTransformer3DModel.from_pretrained(folder).float().train()
        return build_denoiser()

    def teach(self, model: LoomVideoTransformer3DModel, device: torch.device) -> None:
        """Where the items of plans are at the times of frames."""
        if model.tracks is not None:
            teach_tracks(model.tracks, device)

    def batch(self, draws: Sequence[Draw], device: torch.device, rules: BatchRules | None = None) -> Group:
        return make_group(draws, self.unconditional, device, rules or self.rules)

    def squared_errors(self, model: LoomVideoTransformer3DModel, batch: Group) -> Tensor:
        return objective.squared_errors(model, batch)

    def given(self, batch: Group) -> Tensor | None:
        return batch.source

    def guidance(self, item: Prepared, limits: ModelLimits) -> Guidance:
        """From the unconditional branch over the visual one to the full one. Of samples with references the first keeps
        them, as dropout does."""
        text = limits.guidance_scale_edit if "source" in item else limits.guidance_scale
        if "visual" in item:
            return Guidance([NOTHING_KEPT, NO_TEXT, NO_DROPOUT], [limits.guidance_scale_visual, text])
        return Guidance([NOTHING_KEPT, NO_DROPOUT], [text])

    def save(self, model: LoomVideoTransformer3DModel, folder: Path) -> None:
        model.save_pretrained(folder / "transformer")

    def pipeline(self, trained: Path) -> LoomVideoPipeline:
        return LoomVideoPipeline(
            transformer=LoomVideoTransformer3DModel.from_pretrained(trained / "transformer"),
            mllm=self.readers.mllm,
            tokenizer=self.readers.tokenizer,
            vae=self.readers.vae,
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
            ),
            limits=LIMITS,
            thinking=PLANNING,
            only_last_layer=self.readers.only_last_layer,
            item_end=self.readers.item_end,
            frame_rule=vars(FRAME_RULE),
            pixel_budgets={"image": vars(IMAGE_BUDGET), "video": vars(VIDEO_BUDGET)},
        )

    def byte_matrices(self, pipeline: LoomVideoPipeline) -> list[nn.Parameter]:
        """All matrices of the blocks and of their modulation, of the language model's projector, the tracks and the copy gate,
        and of the published text embedder, which nothing reads."""
        denoiser = pipeline.transformer
        embedder = denoiser.condition_embedder
        parts = [
            embedder.time_proj,
            embedder.text_embedder,
            denoiser.mllm_embedder,
            denoiser.tracks,
            denoiser.copy_gate,
        ]
        modules = [denoiser.blocks, *(part for part in parts if part is not None)]
        return [parameter for parameter in nn.ModuleList(modules).parameters() if parameter.ndim == 2]


def build_denoiser() -> LoomVideoTransformer3DModel:
    """The built-in size, new."""
    model = LoomVideoTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=8,
        attention_head_dim=32,
        in_channels=48,
        out_channels=48,
        text_dim=8,  # of the published, unused text embedder
        freq_dim=256,
        ffn_dim=768,
        num_layers=NUM_BLOCKS,
        mllm_dim=192,
        prediction="clean",
        copies_source=True,
        absolute_places=True,
        palette_size=PALETTE_SIZE,
        item_tracks=True,
    )
    # Projector and source start at zero to leave a trained denoiser undisturbed; there is none here. Places start louder than
    # noise, which says nothing of where things are.
    nn.init.normal_(model.get_parameter("place_embedding.weight"), std=0.2)
    with torch.no_grad():
        model.get_parameter("patch_embedding.weight").mul_(0.15)
    for layer in ("mllm_embedder.linear_2", "source_patch_embedding"):
        nn.init.xavier_uniform_(model.get_parameter(f"{layer}.weight").flatten(1))
    return model


def use_source(model: LoomVideoTransformer3DModel, used: bool) -> None:
    """Take the source's embedding away, as in the published first stage, or give a model without one a new one, of zeros."""
    model.register_to_config(use_source_embedding=used)
    if not used:
        model.source_patch_embedding = None
    elif model.source_patch_embedding is None:
        target = model.patch_embedding
        model.source_patch_embedding = nn.Conv3d(
            target.in_channels, target.out_channels, model.patch_size, stride=model.patch_size
        )
        for parameter in model.source_patch_embedding.parameters():
            nn.init.zeros_(parameter)


# --- samples


def prefix_of(task: str, *, moving: bool) -> str:
    """What stands before a sample's words. Raises DataError for a task that this system is not trained on."""
    if task == AS_WRITTEN:
        return ""
    if task not in TASKS:
        raise DataError(f"task {task}: LoomVideo is not trained on it; use some of {', '.join((*TASKS, AS_WRITTEN))}")
    return PREFIXES[TASKS[task]][moving]


@torch.no_grad()
def prepare(drawn: Sequence[Sample], readers: Readers) -> list[Prepared]:
    """Features of samples that share task, size and length."""
    vae = readers.vae
    visuals = [visuals_of(one, readers.sight) if readers.item_end is None else [] for one in drawn]
    moving = drawn[0].num_frames > 1
    prefix = prefix_of(drawn[0].task, moving=moving)
    if states := _stated(drawn, readers):
        full = states
    else:
        full = _layers(
            readers, [full_chat(seen, prefix + told(one, readers)) for seen, one in zip(visuals, drawn, strict=True)]
        )
    visual = _layers(readers, [visual_chat(seen) for seen in visuals]) if visuals[0] else None
    targets = encode(vae, [clip for one in drawn if (clip := one.target_frames()) is not None])
    clips = [clip for one in drawn if (clip := one.source_frames()) is not None]
    sources = encode(vae, clips) if clips else None
    prepared: list[Prepared] = []
    for row, (one, target) in enumerate(zip(drawn, targets, strict=True)):
        item: Prepared = {"task": one.task, "target": target, "full": full[row]}
        item["references"] = encode_each(vae, [picture[None] for picture in one.reference_pictures()])
        if visual is not None:
            item["visual"] = visual[row]
        if sources is not None:
            item["source"] = sources[row]
        prepared.append(item)
    return prepared


@torch.no_grad()
def described(
    drawn: Sequence[Sample], prepared: Sequence[Prepared], readers: Readers, rng: np.random.Generator
) -> list[Prepared]:
    """Sources and targets as samples of text-to-image or -video: the latents are there already."""
    still = drawn[0].num_frames == 1
    task = "t2i" if still else "t2v"
    writer = Writer(rng)
    shown = shown_scenes(drawn, prepared)
    if not shown:
        return []
    alone = [asked_alone(scene, still=still, seed=int(rng.integers(2**31))) for scene, _ in shown]
    layers = _stated(alone, readers)
    if not layers:
        prefix = PREFIXES[TASKS[task]][not still]
        layers = _layers(
            readers, [full_chat([], prefix + told_of(scene, writer, readers, still=still)) for scene, _ in shown]
        )
    return [
        {"task": task, "target": target, "full": full, "references": []}
        for (_, target), full in zip(shown, layers, strict=True)
    ]


def _stated(drawn: Sequence[Sample], readers: Readers) -> list[Tensor]:
    """The layers (blocks, items, dm) of samples whose plans' facts the language model is taught to state; of others none."""
    states = [states_of(one, readers) for one in drawn]
    blocks = readers.num_blocks or readers.mllm.config.get_text_config().num_hidden_layers
    known = [one.expand(blocks, -1, -1).clone() for one in states if one is not None]
    return known if len(known) == len(drawn) else []


def _layers(readers: Readers, chats: Sequence[Chat]) -> list[Tensor]:
    """The layers (blocks, m, dm) of every chat, without its padding, as LoomVideoPipeline.read."""
    inputs = tokenise(readers.tokenizer, chats)
    mask = torch.ones_like(inputs.input_ids) if inputs.attention_mask is None else inputs.attention_mask
    every = layer_features(readers.mllm, inputs.to(readers.mllm.device))
    blocks = layers_for_blocks(every, readers.num_blocks or len(every), only_last=readers.only_last_layer)
    layers = torch.stack(blocks, dim=1).half().cpu()  # (b, blocks, m, dm)
    read = [
        read_tokens(readers.tokenizer, ids[:length], readers.item_end)
        for ids, length in zip(inputs.input_ids, mask.sum(1).tolist(), strict=True)
    ]
    return [layers[row][:, positions].clone() for row, positions in enumerate(read)]


@torch.no_grad()
def unconditional_layers(readers: Readers) -> Tensor:
    """What the unconditional branch reads (blocks, m, dm), which dropped conditions train."""
    return _layers(readers, [unconditional_chat(readers.negative_prompt)])[0]


# --- batches


def drop_conditions(
    items: Sequence[Prepared], unconditional: Tensor, rngs: Sequence[np.random.Generator], rules: BatchRules
) -> tuple[list[Tensor], list[bool]]:
    """Layers of every sample after dropout, and which samples keep their source.

    All conditions go (the unconditional branch of sampling) or the text alone (its visual-only branch). Where references
    are part of the batch's layout, they stay and the text goes instead.
    """
    layers, keeps_source = [], []
    for item, rng in zip(items, rngs, strict=True):
        draw = rng.random()
        everything = draw < rules.all_dropout_rate and not item["references"]
        text = draw < rules.all_dropout_rate + rules.text_dropout_rate
        layers.append(unconditional if everything else item.get("visual", unconditional) if text else item["full"])
        keeps_source.append(not everything)
    return layers, keeps_source


def make_group(draws: Sequence[Draw], unconditional: Tensor, device: torch.device, rules: BatchRules) -> Group:
    """A batch of prepared samples of one layout as the objective takes it."""
    items, rngs = [draw.item for draw in draws], [draw.rng() for draw in draws]
    layers, keeps_source = drop_conditions(items, unconditional, rngs, rules)
    longest = max(layer.shape[1] for layer in layers)
    context = torch.zeros(layers[0].shape[0], len(items), longest, layers[0].shape[2])
    mask = torch.zeros(len(items), longest, dtype=torch.bool)
    for row, layer in enumerate(layers):
        context[:, row, : layer.shape[1]] = layer.float()
        mask[row, : layer.shape[1]] = True
    latents = torch.stack([item["target"] for item in items]).float().to(device)
    source = None
    if "source" in items[0]:
        source = torch.stack(
            [item["source"].float() * keep for item, keep in zip(items, keeps_source, strict=True)]
        ).to(device)
    references = [
        torch.stack(same).float().to(device) for same in zip(*(item["references"] for item in items), strict=True)
    ]
    tokens = sum(part[0, 0].numel() // 4 for part in [latents, *references])
    return Group(
        latents=latents,
        noise=torch.stack([draw.noise(device) for draw in draws]),
        time=rules.times(rngs, tokens, has_source=source is not None, is_clip=latents.shape[2] > 1).to(device),
        layers=list(context.to(device)),
        context_mask=None if bool(mask.all()) else mask.to(device),
        source=source,
        references=references,
        shown=items[0].get("shown"),
    )
