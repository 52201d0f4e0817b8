"""Omni-Video's prepared samples: the chat that the vision head reads, the prompt's own tokens, a source; and batches of them.

A prepared sample has "target" latents, its chat's "ids" (m,) and "positions" (3, m) with what the vision tower makes of its
visual in "seen" (1 + taps, s, dm), the prompt's tokens (n,) or its plan's states (items, dm) in "text", and of an edit the
"edited" latents, which have the target's shape. It stands under several kinds, one for each stage that learns from it; tensors are stored once.
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
from loomvideo.training.omnivideo_objective import ContextBatch, ReadChats, is_plan
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
    visuals = [visuals_of(one, readers.sight) for one in drawn]
    seen = iter(look(readers.mllm, [visual for shown in visuals for visual in shown]))
    prepared: list[Prepared] = []
    for one, target, source, shown in zip(drawn, targets, sources, visuals, strict=True):
        still = target.shape[1] == 1
        said = told(one, readers)
        asked = request_chat(readers, said, shown, still=still)
        item = make_item(readers, one.task, target, said, asked, [next(seen) for _ in shown]) | _states(readers, one)
        if source is not None:
            item["edited"] = source
        prepared.append(item)
    first_aims = [] if clips else _first_aims(prepared, drawn, readers)
    return [*_under_kinds(prepared + _described(drawn, targets, sources, readers, rng)), *first_aims]


def request_chat(readers: Readers, prompt: str, visuals: Sequence[Any], *, still: bool) -> Chat:
    """The chat of a request, as systems.omnivideo.OmniVideoPipeline.generation_chat makes it."""
    answer = marker(readers.tokenizer, "image" if still else "video")
    return generation_chat(visuals, prompt, still=still, edits=bool(visuals), marker=answer)


def make_item(
    readers: Readers, task: str, target: Tensor, prompt: str, asked: Chat, seen: Sequence[Tensor] = ()
) -> Prepared:
    """A sample without its kind; ``seen`` is what the tower makes of the chat's visuals."""
    inputs = tokenise(readers.tokenizer, [asked])
    base: Any = readers.mllm.base_model
    kinds = model_arguments(readers.mllm, inputs)["mm_token_type_ids"]
    positions, _ = base.get_rope_index(inputs.input_ids, kinds, inputs.image_grid_thw, inputs.video_grid_thw)
    text = QwenReader(readers.mllm, readers.tokenizer).token_ids(prompt + END_OF_TURN)
    item: Prepared = {"task": task, "target": target, "references": []}
    item |= {"ids": inputs.input_ids[0].int(), "positions": positions[:, 0].short()}
    item |= {"text": torch.tensor(text, dtype=torch.int32)}
    return item | ({"seen": torch.cat(list(seen), dim=1).half().cpu()} if seen else {})


def _states(readers: Readers, drawn: Sample) -> Prepared:
    """What stands for a prompt's tokens where the denoiser reads the states of its plan."""
    states = states_of(drawn, readers)
    return {} if states is None else {"text": states}


def nothing_told(readers: Readers, *, still: bool) -> Prepared:
    """What stands for a dropped request, as sampling's unconditional branch has it: the negative prompt's chat and tokens."""
    said = readers.negative_prompt
    return make_item(readers, "nothing", torch.empty(0), said, request_chat(readers, said, [], still=still))


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
    items, writer = [], Writer(rng)
    for scene, shown in shown_scenes(drawn, latents):
        still = shown.shape[1] == 1
        said = told_of(scene, writer, readers, still=still)
        asked = request_chat(readers, said, [], still=still)
        alone = asked_alone(scene, still=still, seed=int(rng.integers(2**31)))
        items.append(make_item(readers, alone.task, shown, said, asked) | _states(readers, alone))
    return items


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
    visuals = [visuals_of(one, readers.sight) for one in drawn]
    seen = iter(look(readers.mllm, [visual for shown in visuals for visual in shown]))
    items = []
    for one, target, shown in zip(drawn, latents, visuals, strict=True):
        asked = chat([*shown, one.prompt])
        answered = Chat(f"{asked.text}{one.answer}{END_OF_TURN}", asked.visuals)
        item = make_item(readers, one.task, target, one.prompt, answered, [next(seen) for _ in shown])
        labels = item["ids"].clone()
        labels[: len(tokenise(readers.tokenizer, [asked]).input_ids[0])] = IGNORED
        items.append(item | {"kind": f"answer {group_of(item)}", "labels": labels})
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


def sample_levels(rngs: Sequence[np.random.Generator], *, even_share: float = 0.0) -> Tensor:
    """Noise levels (b,), one of each generator, from the published table and as often as its loss weighs them (10.1); of
    `even_share` of them each as often as any other."""

    def draw(rng: np.random.Generator) -> int:
        if even_share and rng.random() < even_share:
            return int(rng.integers(NUM_LEVELS))
        return int(rng.choice(NUM_LEVELS, p=LEVEL_SHARES))

    return LEVELS[[draw(rng) for rng in rngs]]


def make_batch(
    draws: Sequence[Draw], nothing: Mapping[str, Prepared], readers: Readers, device: torch.device, rules: BatchRules
) -> ContextBatch:
    """Prepared samples of one kind and layout as the objectives take them."""
    items, rngs = [draw.item for draw in draws], [draw.rng() for draw in draws]
    aim = aim_of(items[0]["kind"])
    read, sources = items, [None] * len(items)
    if aim == "flow":
        read, sources = drop_conditions(items, nothing, rngs, rules)
    kept = [(place, source) for place, source in enumerate(sources) if source is not None]
    return ContextBatch(
        aim=aim,
        latents=torch.stack([item["target"] for item in items]).to(device).float(),
        noise=torch.stack([draw.noise(device) for draw in draws]),
        time=sample_levels(rngs, even_share=rules.even_time_share).to(device),
        chats=_chats(read, readers, device),
        texts=[_text(item["text"]).to(device) for item in read],
        source_places=torch.tensor([place for place, _ in kept], dtype=torch.long, device=device),
        sources=torch.stack([source for _, source in kept]).to(device).float() if kept else None,
        pooled=torch.stack([item["pooled"] for item in items]).to(device).float() if aim == "align" else None,
        shown=items[0].get("shown"),
        labels=_padded([item["labels"] for item in items], IGNORED).to(device) if aim == "answer" else None,
    )


def aim_of(kind: str) -> Any:
    """What batches of a kind teach; see `ContextBatch`."""
    first = kind.split()[0]
    return first if first in ("answer", "align", "space") else "flow"


def _chats(items: Sequence[Prepared], readers: Readers, device: torch.device) -> ReadChats:
    ids = _padded([item["ids"] for item in items], 0)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(item["ids"]) for item in items])[:, None]
    positions = pad_sequence([item["positions"].T for item in items], batch_first=True)  # (b, m, 3)
    config = readers.mllm.config
    seen = [item["seen"] for item in items if "seen" in item]
    return ReadChats(
        ids=ids.to(device),
        mask=mask.to(device),
        positions=positions.permute(2, 0, 1).long().to(device),
        visual=torch.isin(ids, torch.tensor([config.image_token_id, config.video_token_id])).to(device),
        seen=torch.cat(seen, dim=1).to(device).float() if seen else None,
    )


def _text(stored: Tensor) -> Tensor:
    return stored.float() if is_plan(stored) else stored.long()


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return pad_sequence([row.long() for row in rows], batch_first=True, padding_value=value)
