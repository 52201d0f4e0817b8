"""Omni-Video's prepared samples: the states that the vision head reads, the prompt's own rows, a source; and batches of them.

A prepared sample has "target" latents, the last layer's "states" (m, dm) of its chat, the rows (n, dm) of its prompt under
"plan", the states of its items, or under "text", its tokens' embeddings, and of an edit the "edited" latents, which have the
target's shape. It stands under several kinds, one for each stage that learns from it; tensors are stored once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from loomvideo.data.samples import DataError, Sample
from loomvideo.data.world.phrases import Writer
from loomvideo.data.world.plans import asked_alone
from loomvideo.data.world.tasks import Sample as WorldSample
from loomvideo.models.chat import END_OF_TURN, Chat, chat, tokenise
from loomvideo.models.omnivideo_chat import generation_chat
from loomvideo.models.qwen import model_arguments, picture
from loomvideo.models.reader import QwenReader, marker
from loomvideo.training.context_objective import IGNORED, NUM_LEVELS, level_table, level_weights
from loomvideo.training.features import encode, shown_scenes, states_of, told, told_of
from loomvideo.training.mllm import visuals_of
from loomvideo.training.objective import shift_time
from loomvideo.training.omnivideo_objective import ContextBatch, Prompt
from loomvideo.training.query_objective import look
from loomvideo.training.recipe import BatchRules, Draw, Prepared, Readers

LEVELS = level_table()
# The published loss draws levels evenly and multiplies errors by a bell over them (10.1). To draw them as often as the bell
# says gives the same expectation, of which a batch of evenly drawn ones is worth three quarters.
LEVEL_SHARES = (level_weights(LEVELS).double() / level_weights(LEVELS).double().sum()).numpy()


# --- samples


@torch.no_grad()
def prepare(drawn: Sequence[Sample], readers: Readers, rng: np.random.Generator) -> list[Prepared]:
    """Samples that share task, size and length; of edits, what they show in words of its own, too.

    Raises DataError for samples with reference pictures, which this system is not trained on.
    """
    if questions := [one for one in drawn if isinstance(one, WorldSample) and one.answer is not None]:
        return _answered(questions, readers)
    if any(one.reference_pictures() for one in drawn):
        raise DataError(
            f"task {drawn[0].task}: Omni-Video is trained without reference pictures; use t2i, t2v and edits"
        )
    targets = list(encode(readers.vae, [clip for one in drawn if (clip := one.target_frames()) is not None]))
    clips = [clip for one in drawn if (clip := one.source_frames()) is not None]
    sources = list(encode(readers.vae, clips)) if clips else [None] * len(drawn)
    still, said = drawn[0].num_frames == 1, [told(one, readers) for one in drawn]
    visuals = [visuals_of(one, readers.sight) for one in drawn]
    asked = [request_chat(readers, text, seen, still=still) for text, seen in zip(said, visuals, strict=True)]
    prepared: list[Prepared] = []
    for one, target, source, text, states in zip(drawn, targets, sources, said, read(readers, asked), strict=True):
        item = {"task": one.task, "target": target, "references": [], "states": states} | _prompt(readers, text, one)
        if source is not None:
            item["edited"] = source
        prepared.append(item)
    first_aims = [] if clips else _first_aims(prepared, drawn, readers)
    return [*_under_kinds(prepared + _described(drawn, targets, sources, readers, rng)), *first_aims]


def request_chat(readers: Readers, prompt: str, visuals: Sequence[Any], *, still: bool) -> Chat:
    """The chat of a request, as systems.omnivideo.OmniVideoPipeline.generation_chat makes it."""
    answer = marker(readers.tokenizer, "image" if still else "video")
    return generation_chat(visuals, prompt, still=still, edits=bool(visuals), marker=answer)


@torch.no_grad()
def read(readers: Readers, chats: Sequence[Chat]) -> list[Tensor]:
    """What models.reader.QwenReader.hidden_states gives of each chat, (m, dm) float16, all at once."""
    inputs = tokenise(readers.tokenizer, chats)
    mask = torch.ones_like(inputs.input_ids) if inputs.attention_mask is None else inputs.attention_mask
    base: Any = readers.mllm.base_model
    arguments = model_arguments(readers.mllm, inputs.to(readers.mllm.device))
    states = base(**arguments, use_cache=False).last_hidden_state.half().cpu()
    return [row[:length].clone() for row, length in zip(states, mask.sum(1).tolist(), strict=True)]


def _prompt(readers: Readers, text: str, drawn: Sample | None = None) -> Prepared:
    """The states of a sample's plan where the denoiser reads them, else the rows of the text itself."""
    states = None if drawn is None else states_of(drawn, readers)
    if states is not None:
        return {"plan": states}
    return {"text": QwenReader(readers.mllm, readers.tokenizer).embeddings(text).half().cpu()}


def nothing_told(readers: Readers, *, still: bool) -> Prepared:
    """What stands for a dropped request, as sampling's unconditional branch has it: the negative prompt's chat and rows."""
    said = readers.negative_prompt
    (states,) = read(readers, [request_chat(readers, said, [], still=still)])
    return {"states": states} | _prompt(readers, said)


def _described(
    drawn: Sequence[Sample],
    targets: Sequence[Tensor],
    sources: Sequence[Tensor | None],
    readers: Readers,
    rng: np.random.Generator,
) -> list[Prepared]:
    """Edits' sources and targets as samples of text-to-image or -video: the latents are there already."""
    if drawn[0].task not in ("edit_image", "edit_video"):
        return []
    latents = [
        {"target": target} | ({} if source is None else {"source": source})
        for target, source in zip(targets, sources, strict=True)
    ]
    shown, writer, still = shown_scenes(drawn, latents), Writer(rng), drawn[0].num_frames == 1
    if not shown:
        return []
    said = [told_of(scene, writer, readers, still=still) for scene, _ in shown]
    states = read(readers, [request_chat(readers, text, [], still=still) for text in said])
    alone = [asked_alone(scene, still=still, seed=int(rng.integers(2**31))) for scene, _ in shown]
    return [
        {"task": one.task, "target": target, "references": [], "states": known} | _prompt(readers, text, one)
        for (_, target), text, known, one in zip(shown, said, states, alone, strict=True)
    ]


def _under_kinds(items: Sequence[Prepared]) -> list[Prepared]:
    """Every sample in the mixed batches of its group, generations by themselves, too (10.3)."""
    mixed = [item | {"kind": f"mixed {group_of(item)}"} for item in items]
    return mixed + [item | {"kind": f"generation {group_of(item)}"} for item in items if "edited" not in item]


def _first_aims(prepared: Sequence[Prepared], drawn: Sequence[Sample], readers: Readers) -> list[Prepared]:
    """Generations as the first stages learn from them.

    The vision head is aligned with pictures alone: a released target is one picture (2.5).
    """
    items = [item | {"task": "space", "kind": f"space {group_of(item)}"} for item in prepared]
    if drawn[0].num_frames > 1:
        return items
    frames = [clip[0] for one in drawn if (clip := one.target_frames()) is not None]
    shown = [picture(frame, readers.sight.image) for frame in frames]
    pooled = [seen[0].mean(0).half().cpu() for seen in look(readers.mllm, shown)]
    return items + [
        item | {"task": "align", "kind": "align picture", "pooled": one}
        for item, one in zip(prepared, pooled, strict=True)
    ]


def _answered(drawn: Sequence[WorldSample], readers: Readers) -> list[Prepared]:
    """Questions with their answers, for the text head; the picture's latents are there for their shape."""
    latents = encode(readers.vae, [clip for one in drawn if (clip := one.source_frames()) is not None])
    asked = [chat([*visuals_of(one, readers.sight), one.prompt]) for one in drawn]
    answered = [
        Chat(f"{question.text}{one.answer}{END_OF_TURN}", question.visuals)
        for question, one in zip(asked, drawn, strict=True)
    ]
    items = []
    for one, target, question, whole, states in zip(
        drawn, latents, asked, answered, read(readers, answered), strict=True
    ):
        labels = tokenise(readers.tokenizer, [whole]).input_ids[0]
        labels[: len(tokenise(readers.tokenizer, [question]).input_ids[0])] = IGNORED
        item = {"task": one.task, "target": target, "references": [], "states": states, "labels": labels.int()}
        item |= _prompt(readers, one.prompt)
        items.append(item | {"kind": f"answer {group_of(item)}"})
    return items


def group_of(item: Prepared) -> str:
    return "clip" if item["target"].shape[1] > 1 else "picture"


# --- batches


def drop_conditions(
    items: Sequence[Prepared],
    nothing: Mapping[str, Prepared],
    rngs: Sequence[np.random.Generator],
    rules: BatchRules,
) -> tuple[list[Prepared], list[Tensor | None]]:
    """What every sample is told after dropout, and its source.

    Words and states go together, and the source stays, as published (5); with an ``all_dropout_rate`` it goes, too.
    """
    kept, sources = [], []
    for item, rng in zip(items, rngs, strict=True):
        draw = rng.random()
        kept.append(nothing[group_of(item)] if draw < rules.all_dropout_rate + rules.text_dropout_rate else item)
        sources.append(None if draw < rules.all_dropout_rate else item.get("edited"))
    return kept, sources


def sample_levels(
    rngs: Sequence[np.random.Generator], *, even_share: float = 0.0, even_factors: Sequence[float] | None = None
) -> Tensor:
    """Noise levels (b,), one of each generator, from the published table and as often as its loss weighs them (10.1); of
    `even_share` of them each as often as any other, or shifted a sample's factor further."""

    def place(rng: np.random.Generator, factor: float) -> int:
        if even_share and rng.random() < even_share:
            clean = 1 - float(shift_time(torch.tensor(1 - rng.random(), dtype=torch.float64), factor))
            return min(int(NUM_LEVELS * clean), NUM_LEVELS - 1)
        return int(rng.choice(NUM_LEVELS, p=LEVEL_SHARES))

    return LEVELS[[place(rng, factor) for rng, factor in zip(rngs, even_factors or [1.0] * len(rngs), strict=True)]]


def make_batch(
    draws: Sequence[Draw], nothing: Mapping[str, Prepared], device: torch.device, rules: BatchRules
) -> ContextBatch:
    """Prepared samples of one kind and layout as the objectives take them."""
    items, rngs = [draw.item for draw in draws], [draw.rng() for draw in draws]
    aim = aim_of(items[0]["kind"])
    read, sources = items, [None] * len(items)
    if aim == "flow":
        read, sources = drop_conditions(items, nothing, rngs, rules)
    kept = [(place, source) for place, source in enumerate(sources) if source is not None]
    states = pad_sequence([item["states"].float() for item in read], batch_first=True)
    lengths = torch.tensor([len(item["states"]) for item in read])
    return ContextBatch(
        aim=aim,
        latents=torch.stack([item["target"] for item in items]).to(device).float(),
        noise=torch.stack([draw.noise(device) for draw in draws]),
        time=sample_levels(
            rngs,
            even_share=rules.even_time_share,
            even_factors=[
                rules.even_factor(has_source=source is not None, is_clip=group_of(items[0]) == "clip")
                for source in sources
            ],
        ).to(device),
        states=states.to(device),
        mask=(torch.arange(states.shape[1]) < lengths[:, None]).to(device),
        prompts=[_told(item, device) for item in read],
        source_places=torch.tensor([place for place, _ in kept], dtype=torch.long, device=device),
        sources=torch.stack([source for _, source in kept]).to(device).float() if kept else None,
        pooled=torch.stack([item["pooled"] for item in items]).to(device).float() if aim == "align" else None,
        shown=items[0].get("shown"),
        labels=_labels(items).to(device) if aim == "answer" else None,
    )


def aim_of(kind: str) -> Any:
    """What batches of a kind teach; see `ContextBatch`."""
    first = kind.split()[0]
    return first if first in ("answer", "align", "space") else "flow"


def _told(item: Prepared, device: torch.device) -> Prompt:
    return Prompt(item["plan" if "plan" in item else "text"].to(device).float(), is_plan="plan" in item)


def _labels(items: Sequence[Prepared]) -> Tensor:
    return pad_sequence([item["labels"].long() for item in items], batch_first=True, padding_value=IGNORED)
