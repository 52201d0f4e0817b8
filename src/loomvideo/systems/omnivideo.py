"""Omni-Video: hidden states, source latents and the prompt's rows become one context, which every block attends to.

The first release reads the hidden states with a vision head and an adapter and denoises with one model; the second
projects them and has two experts, each with a context of its own (fact sheet 1 and 9).

b batch   m rows   dm width of the language model   dt width of a context row   c latent channels   (f, y, x) latent grid
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, ModelMixin, SchedulerMixin
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, UMT5EncoderModel

from loomvideo.conditioning.context import LAYOUTS, ContextLayout, Truncation, assemble
from loomvideo.models.chat import Chat, chat, plan_ends, tokenise
from loomvideo.models.context_rows import FixedRows, QueryTransformer, SourceTokenizer, StateProjection
from loomvideo.models.offload import fetch
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.models.omnivideo_chat import (
    caption_chat,
    edited_caption_chat,
    expanded_caption_chat,
    feature_chat,
    generation_chat,
)
from loomvideo.models.qwen import Visual, layer_features
from loomvideo.models.reader import Decoding, marker
from loomvideo.models.umt5 import encode_texts
from loomvideo.sampling.experts import Experts
from loomvideo.sampling.guidance import standard_scale
from loomvideo.sampling.sampler import Branch
from loomvideo.systems.pipeline import VideoPipeline
from loomvideo.systems.plan import Plan
from loomvideo.systems.thinking import THINKING

# Parts by which a model is of one release or the other, and those of the second one's expert for low noise.
FIRST_RELEASE = ("vision_head", "adapter")
SECOND_RELEASE = ("state_projection",)
# Parts that stay when others are offloaded: they are small, and torch's own transformer layers pass by their hooks.
SMALL = ("vision_head", "adapter", "state_projection", "state_projection_2", "source_tokenizer", "source_tokenizer_2")
LOW_NOISE = ("transformer_2", "source_tokenizer_2", "state_projection_2")


@dataclass(frozen=True)
class GuidanceBranch:
    """What one guidance branch is told; source and reference are kept in all of them (fact sheet 8)."""

    states: Tensor | None  # the language model's last hidden states (1, m, dm)
    text: Tensor | None  # the text encoder's rows (m, dt)
    source: Tensor | None = None  # normalised latents (1, c, f, y, x)
    reference: Tensor | None = None  # normalised latents (1, c, 1, y, x)
    items: Tensor | None = None  # states (r, dt) of the items of a plan, which stand for the text's rows


@dataclass(frozen=True)
class ContextBuilder:
    """A branch's context rows (m, dt), from the parts of a model and its options (fact sheet 5 and 13).

    The items of its plan are not among them: they follow, and there is room for them.
    """

    read_states: Callable[[Tensor], Tensor]  # (1, m, dm) -> (1, r, dt)
    source_tokenizer: SourceTokenizer
    boundaries: Mapping[str, Tensor] | None
    max_rows: int
    layout: ContextLayout
    truncation: Truncation = "source"

    def __call__(self, branch: GuidanceBranch) -> Tensor:
        def rows(read: Callable[[Tensor], Tensor], given: Tensor | None) -> Tensor | None:
            return None if given is None else read(given)[0]

        parts = {
            "source": rows(self.source_tokenizer, branch.source),
            "reference": rows(self.source_tokenizer, branch.reference),
            "vision": rows(self.read_states, branch.states),
            "text": branch.text,
        }
        num_items = 0 if branch.items is None else len(branch.items)
        return assemble(
            parts,
            layout=self.layout,
            max_rows=self.max_rows - num_items,
            boundaries=self.boundaries,
            truncation=self.truncation,
        )


def vision_rows(vision_head: QueryTransformer, adapter: QueryTransformer, states: Tensor, *, still: bool) -> Tensor:
    """States (b, m, dm) -> rows (b, r, dt): every token of the vision head is adapted by itself, of a picture the first."""
    tokens = vision_head(states)
    return adapter.each(tokens[:, :1] if still else tokens)


def first_release(
    vision_head: QueryTransformer,
    adapter: QueryTransformer,
    source_tokenizer: SourceTokenizer,
    boundaries: Mapping[str, Tensor] | None,
    *,
    max_rows: int,
    still: bool,
    layout: ContextLayout = LAYOUTS["released"],
    truncation: Truncation = "source",
) -> ContextBuilder:
    """The context of the paper's system; `still` where the target has one frame."""
    read_states = partial(vision_rows, vision_head, adapter, still=still)
    return ContextBuilder(read_states, source_tokenizer, boundaries, max_rows, layout, truncation)


def second_release(
    projection: StateProjection,
    source_tokenizer: SourceTokenizer,
    boundaries: Mapping[str, Tensor] | None,
    *,
    max_rows: int,
    truncation: Truncation = "source",
) -> ContextBuilder:
    """The context of one expert of Omni-Video 2."""
    return ContextBuilder(projection, source_tokenizer, boundaries, max_rows, LAYOUTS["omnivideo2"], truncation)


def denoiser(
    transformer: OmniVideoTransformer3DModel,
    contexts: Sequence[Tensor],
    latent_shape: Sequence[int],
    added: Tensor | None = None,
    items: Sequence[Tensor | None] = (),
) -> Branch:
    """The velocity function of k guidance branches with contexts (m, dt) and their plans' items (r, dt), as one batch.

    `added` (k, c, f, y, x) is what every branch adds to the noisy latents.
    """
    conditions = transformer.prepare(contexts, latent_shape=latent_shape, items=items, added=added)

    def velocities(latents: Tensor, timestep: Tensor) -> Tensor:
        batch = latents.to(transformer.dtype).expand(len(contexts), *latents.shape[1:])
        velocity = transformer(batch, timestep.expand(len(contexts)), conditions)
        return velocity.to(latents.dtype).unsqueeze(1)  # (k, 1, c, f, y, x)

    return velocities


def added_sources(branches: Sequence[GuidanceBranch], latent_shape: Sequence[int]) -> Tensor | None:
    """What k branches add to noisy latents of a shape (1, c, f, y, x): their sources, or nothing (k, c, f, y, x)."""
    sources = [branch.source for branch in branches]
    like = next((source for source in sources if source is not None), None)
    if like is None:
        return None
    return torch.cat([like.new_zeros(tuple(latent_shape)) if source is None else source for source in sources])


@dataclass(frozen=True)
class Expert:
    """A denoiser and what makes its contexts; the first release has one, the second may have two."""

    transformer: OmniVideoTransformer3DModel
    context: ContextBuilder


class OmniVideoPipeline(VideoPipeline):
    """Both published releases on diffusers' and transformers' parts; the parts that are there say which one it is.

    A `vision_head` with an `adapter` makes the first release, a `state_projection` the second; a second set of transformer,
    projection and source tokenizer is the second release's expert for low noise. Without a `text_encoder` the prompt's rows
    are the language model's own token embeddings, whose width the denoiser's contexts then have. `fixed_rows` hold
    boundaries, and what published weights were told where a request was dropped in training.

    Besides what every system's `model_index.json` holds, this one's says

    - `order`: of the context's parts, as the code was "released" or as in the "paper";
    - `truncation`: of a context with too many rows, its "source" rows first or, as "released", whatever stands last;
    - `guidance`: "standard", or "released", whose scale 5 is the standard 6;
    - `item_end`, not published, of models that plan: what ends the items of a plan, whose states are then the prompt's rows;
    - `use_visual_as_input`: whether a source is added to the noisy latents, too, which tells its rows' places;
    - `boundary_ratio`: the part of the noise levels, from the highest, from which the first expert serves.
    """

    system: ClassVar[str] = "omnivideo"
    model_cpu_offload_seq = "text_encoder->mllm->transformer->transformer_2->vae"
    _exclude_from_cpu_offload: ClassVar = ["fixed_rows", *SMALL]
    _optional_components: ClassVar = [
        *FIRST_RELEASE, *SECOND_RELEASE, *LOW_NOISE, "fixed_rows", "text_encoder", "text_tokenizer",
    ]  # fmt: skip

    def __init__(
        self,
        transformer: OmniVideoTransformer3DModel,
        source_tokenizer: SourceTokenizer,
        mllm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vae: AutoencoderKLWan,
        scheduler: SchedulerMixin,
        vision_head: QueryTransformer | None = None,
        adapter: QueryTransformer | None = None,
        fixed_rows: FixedRows | None = None,
        text_encoder: UMT5EncoderModel | None = None,
        text_tokenizer: PreTrainedTokenizerBase | None = None,
        state_projection: StateProjection | None = None,
        transformer_2: OmniVideoTransformer3DModel | None = None,
        source_tokenizer_2: SourceTokenizer | None = None,
        state_projection_2: StateProjection | None = None,
        limits: dict[str, Any] | None = None,
        frame_rule: dict[str, int] | None = None,
        pixel_budgets: dict[str, dict[str, int]] | None = None,
        thinking: str = THINKING,
        order: str = "released",
        truncation: str = "source",
        guidance: str = "standard",
        boundary_ratio: float = 0.875,
        use_visual_as_input: bool = False,
        item_end: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            source_tokenizer=source_tokenizer,
            mllm=mllm,
            tokenizer=tokenizer,
            vae=vae,
            scheduler=scheduler,
            vision_head=vision_head,
            adapter=adapter,
            fixed_rows=fixed_rows,
            text_encoder=text_encoder,
            text_tokenizer=text_tokenizer,
            state_projection=state_projection,
            transformer_2=transformer_2,
            source_tokenizer_2=source_tokenizer_2,
            state_projection_2=state_projection_2,
        )
        choices = {"order": order, "truncation": truncation, "guidance": guidance, "boundary_ratio": boundary_ratio}
        choices |= {"use_visual_as_input": use_visual_as_input}
        check_choices(choices)
        self._configure(limits, frame_rule, pixel_budgets, thinking, item_end=item_end, **choices)
        if transformer is not None:  # the language model alone answers questions
            check_parts(self.components)

    def condition(
        self, plan: Plan, latent_shape: Sequence[int], *, posterior: torch.Generator | None, batch_branches: bool
    ) -> tuple[list[Branch], list[float]]:
        """The branches' velocity functions and the scales between them; see VideoPipeline.condition."""
        branches, scales = self.guidance_branches(plan, posterior)
        groups = [branches] if batch_branches else [[branch] for branch in branches]
        experts = self.experts(still=plan.num_frames == 1)
        return [self._branch(experts, group, latent_shape) for group in groups], scales

    def guidance_branches(
        self, plan: Plan, posterior: torch.Generator | None = None
    ) -> tuple[list[GuidanceBranch], list[float]]:
        """Branches from least to most conditioned and the scales between them (fact sheet 8).

        Source and reference stay where the request is dropped, as published. A visual scale other than 1 adds the branch
        without them, so that their strength can be chosen.
        """
        source = None if plan.source is None else self.encode(plan.source, posterior)
        reference = self.encode(plan.references[0][None], posterior) if plan.references else None
        scale = plan.guidance_scale if self.config["guidance"] == "standard" else standard_scale(plan.guidance_scale)
        visual_scale = 1.0 if source is None and reference is None else plan.guidance_scale_visual
        items = self.item_rows(plan.prompt)
        text = self.text_rows(plan) if items is None else None
        full = GuidanceBranch(self.states(plan), text, source, reference, items)
        if scale == visual_scale == 1:
            return [full], []
        nothing = GuidanceBranch(self.null_states(plan), self.null_text(plan), source, reference)
        if visual_scale == 1:
            return [nothing, full], [scale]
        return [replace(nothing, source=None, reference=None), nothing, full], [visual_scale, scale]

    def experts(self, *, still: bool) -> list[Expert]:
        """The denoisers, that of high noise first; `still` where one frame is made."""
        fixed, device = self.fixed_rows, self._execution_device
        boundaries = None if fixed is None else {name: rows.to(device) for name, rows in fixed.boundaries.items()}
        options = {"max_rows": self.transformer.config["max_context_len"], "truncation": self.config["truncation"]}
        if self.state_projection is None:
            parts = (self.vision_head, self.adapter, self.source_tokenizer, boundaries)
            layout = LAYOUTS[self.config["order"]]
            return [Expert(self.transformer, first_release(*parts, still=still, layout=layout, **options))]
        high = second_release(self.state_projection, self.source_tokenizer, boundaries, **options)
        if self.transformer_2 is None:
            return [Expert(self.transformer, high)]
        low = second_release(self.state_projection_2, self.source_tokenizer_2, boundaries, **options)
        return [Expert(self.transformer, high), Expert(self.transformer_2, low)]

    @property
    def denoisers_at_work(self) -> list[ModelMixin]:
        """The models that make velocities, that of high noise first."""
        return [model for model in (self.transformer, self.transformer_2) if model is not None]

    def states(self, plan: Plan) -> Tensor:
        """The language model's last hidden states (1, m, dm) of a request."""
        visuals = self.visuals(plan)
        if self.state_projection is None:
            return self.reader.hidden_states(self.generation_chat(plan, visuals, plan.prompt))
        asked, system = feature_chat(visuals, plan.prompt)
        return self.reader.hidden_states(asked)[:, len(self.reader.token_ids(system)) :]

    def null_states(self, plan: Plan) -> Tensor:
        """The states where the request is dropped: stored ones, else what the second release was trained with, else
        those of the negative prompt."""
        if self.fixed_rows is not None and self.fixed_rows.uncond_ar_vision is not None:
            return self.fixed_rows.uncond_ar_vision.to(self._execution_device)
        if self.state_projection is not None:
            return self.state_projection.null_states().to(self._execution_device)
        return self.reader.hidden_states(self.generation_chat(plan, [], plan.negative_prompt))

    def generation_chat(self, plan: Plan, visuals: Sequence[Visual], prompt: str) -> Chat:
        """The chat of the first release, with the answer that this language model would give."""
        still, edits = plan.num_frames == 1, plan.source is not None and bool(visuals)
        answer = marker(self.tokenizer, "image" if still else "video")
        return generation_chat(visuals, prompt, still=still, edits=edits, marker=answer)

    def text_rows(self, plan: Plan) -> Tensor:
        """The prompt's rows (m, dt): of the second release those of a foreseen caption, then of an edit's instruction."""
        if self.state_projection is None:
            return self.encode_text(plan.prompt)
        if plan.source is None:
            return self.encode_text(self.say(expanded_caption_chat(plan.prompt)))
        seen = self.say(caption_chat(self.visuals(plan)[-1]))
        foreseen = self.say(edited_caption_chat(seen, plan.prompt))
        return torch.cat([self.encode_text(foreseen), self.encode_text(plan.prompt)])

    def null_text(self, plan: Plan) -> Tensor:
        """The rows of the negative prompt; of an empty one those that published weights were trained with, if stored."""
        stored = None if self.fixed_rows is None else self.fixed_rows.uncond_context
        if plan.negative_prompt or stored is None:
            return self.encode_text(plan.negative_prompt)
        return stored.to(self._execution_device)

    def encode_text(self, text: str) -> Tensor:
        """The rows (m, dt) of a text: the text encoder's, or the language model's token embeddings."""
        if self.text_encoder is not None:
            return encode_texts(self.text_encoder, self.text_tokenizer, [text])[0].to(self._execution_device)
        return self.reader.embeddings(text).to(self._execution_device)

    def item_rows(self, prompt: str) -> Tensor | None:
        """The last layer's states (items, dm) at the ends of the items of a prompt that is a plan, their mean square one.

        None of a prompt that is no plan, and of models that read none.
        """
        if self.config["item_end"] is None or self.text_encoder is not None:
            return None
        fetch(self.mllm)
        inputs = tokenise(self.tokenizer, [chat([prompt])]).to(self._execution_device)
        ends = plan_ends(self.tokenizer, inputs.input_ids[0], self.config["item_end"])
        if not len(ends):
            return None
        states = layer_features(self.mllm, inputs)[-1][0, ends]
        return F.rms_norm(states, states.shape[-1:])

    def say(self, chat: Chat) -> str:
        """The language model's likeliest answer."""
        return "".join(self.reader.answer(chat, Decoding(temperature=0, max_new_tokens=512))).strip()

    def _branch(
        self, experts: Sequence[Expert], branches: Sequence[GuidanceBranch], latent_shape: Sequence[int]
    ) -> Branch:
        """Velocities of some guidance branches as one batch. Their contexts are made now; two experts' keys and values
        when their noise levels come."""
        added = added_sources(branches, latent_shape) if self.config["use_visual_as_input"] else None
        items = [branch.items for branch in branches]
        makers = [
            partial(
                denoiser,
                expert.transformer,
                [expert.context(branch) for branch in branches],
                latent_shape,
                added,
                items,
            )
            for expert in experts
        ]
        if len(makers) == 1:
            return makers[0]()
        high, low = makers
        return Experts(high, low, self.config["boundary_ratio"] * self.scheduler.config["num_train_timesteps"])


def check_choices(choices: Mapping[str, Any]) -> None:
    """Raise ValueError for an option of a model's configuration that there is not."""
    known = {
        "order": ("released", "paper"),
        "truncation": ("source", "released"),
        "guidance": ("standard", "released"),
    }
    for name, options in known.items():
        if choices[name] not in options:
            raise ValueError(f"{name}={choices[name]!r}: use one of {', '.join(options)}")
    if not 0 <= choices["boundary_ratio"] <= 1:
        raise ValueError(f"boundary_ratio={choices['boundary_ratio']}: must be from 0 to 1")


def check_parts(parts: Mapping[str, Any]) -> None:
    """Raise ValueError for parts that are of no release, or whose widths do not meet; both are named."""
    given = {name for name in (*FIRST_RELEASE, *SECOND_RELEASE, *LOW_NOISE) if parts[name] is not None}
    if given not in ({*FIRST_RELEASE}, {*SECOND_RELEASE}, {*SECOND_RELEASE, *LOW_NOISE}):
        raise ValueError(
            f"{sorted(given)} are parts of no release: the first has {' and '.join(FIRST_RELEASE)}, the second "
            f"{' and '.join(SECOND_RELEASE)}, and for a second expert {', '.join(LOW_NOISE)}"
        )
    text_dim, state_dim = parts["transformer"].config["text_dim"], parts["mllm"].config.get_text_config().hidden_size
    head = parts["vision_head"]
    widths = [
        ("vision_head", "in_dim", "the language model", state_dim),
        ("adapter", "in_dim", "the vision head", None if head is None else head.config["dim"]),
        ("adapter", "dim", "the denoiser", text_dim),
        ("state_projection", "in_dim", "the language model", state_dim),
        ("state_projection_2", "in_dim", "the language model", state_dim),
        ("state_projection", "text_dim", "the denoiser", text_dim),
        ("source_tokenizer", "text_dim", "the denoiser", text_dim),
        ("fixed_rows", "text_dim", "the denoiser", text_dim),
    ]
    for name, field, other, width in widths:
        if parts[name] is not None and (found := parts[name].config[field]) != width:
            raise ValueError(f"{name} has {field} {found} and {other} a width of {width}: they must be equal")
    encoder = parts["text_encoder"]
    text_width = state_dim if encoder is None else encoder.config.d_model
    if text_width != text_dim:
        what = "the language model's token embeddings" if encoder is None else "the text encoder's rows"
        raise ValueError(f"{what} are {text_width} wide and the denoiser's contexts {text_dim}: they must be equal")
