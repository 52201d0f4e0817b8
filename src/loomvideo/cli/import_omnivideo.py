"""Omni-Video's published weights, both releases, in the layouts of their checkpoints (fact sheet 9.2 and 10.6).

Every size is taken from the tensors themselves; which release it is, from the files that are there. VAE and text encoder come
from a base in diffusers' layout or in Wan's own, which the first release carries as `wan/wanxiang1_3b`.
"""

import io
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from loomvideo import checkpoint as weights
from loomvideo.checkpoint import CheckpointError, load_values, read_json
from loomvideo.cli.import_steps import (
    LANGUAGE_MODEL,
    MODEL_FILES,
    TEXT_ENCODER,
    VAE,
    WAN_NEGATIVE_PROMPT,
    PublishedWeights,
    copy_files,
)
from loomvideo.systems.request import ModelLimits

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    State = Mapping[str, Tensor]

HEAD_DIM = 128  # of every published Wan
QUERY_HEADS = 8  # of vision head and adapter
LOW_NOISE = "_2"  # behind the names of the second expert's components
STATE_FIELDS = ("module", "model", "model_state_dict", "state_dict")  # that a file may keep its tensors in
WAN_VAE, WAN_TEXT_ENCODER, WAN_TOKENIZER = "*VAE*.pth", "models_t5*.pth", "google/umt5-xxl"  # in Wan's own layout
MLLM_CLASSES = ("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
BOUNDARIES = ("<img_st>", "<img_ed>", "<ipl_st>", "<ipl_ed>", "<prp_st>", "<prp_ed>")

# The scripts' settings (fact sheet 8); their scales of 5 and 3 are 6 and 4 where the formula is the usual one.
FIRST_LIMITS = ModelLimits(
    fps=16,
    area=480 * 832,
    max_frames=81,
    default_frames=81,
    max_area=480 * 832,
    default_height=480,
    default_width=832,
    size_multiple=16,
    max_references=1,
    num_inference_steps=50,
    guidance_scale=6.0,
    guidance_scale_edit=4.0,
    guidance_scale_visual=1.0,
    negative_prompt=WAN_NEGATIVE_PROMPT,
    tasks=("t2i", "t2v", "edit", "mi2v", "i2v"),
    task_defaults={
        "t2i": {"area": 480 * 480, "default_height": 480, "default_width": 480},
        "edit": {"fps": 8, "area": 352 * 640, "default_source_frames": 17, "num_inference_steps": 40},
        "edit_image": {"area": 480 * 480},
    },
)
# The published negative prompt of the second release is English, and not known word by word.
SECOND_LIMITS = ModelLimits(
    fps=16,
    area=480 * 832,
    max_frames=81,
    default_frames=81,
    max_area=480 * 832,
    default_height=480,
    default_width=832,
    size_multiple=16,
    max_references=0,
    num_inference_steps=50,
    guidance_scale=3.0,
    guidance_scale_edit=3.0,
    guidance_scale_visual=1.0,
    negative_prompt=(
        "bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, still, overall gray, "
        "worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, poorly "
        "drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three legs, "
        "many people in the background, walking backwards"
    ),
    tasks=("t2i", "t2v", "edit"),
    task_defaults={"edit": {"fps": 8, "default_source_frames": 41, "num_inference_steps": 40}},
)


@dataclass(frozen=True)
class OmniVideoWeights(PublishedWeights):
    """The first release; `of` finds out which one a checkpoint is.

    `unified` are its whole models, of which the second release may have one for high and one for low noise; `folder` holds
    what lies beside them. `solver` and `shift` are the scheduler's.
    """

    file: ClassVar[str] = "transformer/model.pt"
    mllm: ClassVar[str] = "Qwen/Qwen3-VL-8B-Instruct"
    base: ClassVar[str] = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    base_files: ClassVar = ["vae/*", "text_encoder/*", "tokenizer/*"]
    base_parts: ClassVar = (VAE, TEXT_ENCODER)
    unread: ClassVar[str] = "the base's own denoiser, and VILA, which is not published"
    parameters: ClassVar = {
        "denoiser": 1_418_996_800,
        "adapter": 1_902_141_440,
        "vision head": 154_840_320,
        "source_tokenizer": 6_690_304,
        LANGUAGE_MODEL: 8_767_123_696,
        TEXT_ENCODER: 5_680_910_336,
        VAE: 126_892_531,
    }
    note: ClassVar[str | None] = (
        "the vision head was trained on the states of a VILA that is not published; on another language model's its tokens "
        "mean nothing until it is trained anew, and only the prompt's own rows and the source say what is wanted"
    )
    parts_needed: ClassVar[Sequence[str]] = ("transformer", "vision_head", "adapter", "source_tokenizer")
    boundaries: ClassVar[Sequence[str]] = BOUNDARIES
    limits: ClassVar[ModelLimits] = FIRST_LIMITS
    mllm_frames: ClassVar[int] = 8

    unified: tuple[Path, ...] = ()
    folder: Path = Path()
    max_context_len: int = 2560
    solver: str = "unipc"
    shift: float = 5.0

    def of(self, checkpoint: Path) -> "OmniVideoWeights":
        return find_release(checkpoint)

    def files(self, checkpoint: Path) -> list[Path]:
        return list(self.unified)

    @cached_property
    def parts(self) -> dict[str, dict[str, "Tensor"]]:
        """Every component's tensors under our names."""
        found: dict[str, dict[str, Tensor]] = {}
        for suffix, file in zip(("", LOW_NOISE), self.unified, strict=False):
            parts = read_unified(file)
            parts |= {part: state for part, state in self.beside().items() if part not in parts}
            check_names(file, parts, self.parts_needed)
            found |= {part + suffix: state for part, state in parts.items()}
        return {**found, "fixed_rows": self.fixed_rows()}

    def beside(self) -> dict[str, dict[str, "Tensor"]]:
        """Components in files of their own, for a whole model that does not hold them."""
        from loomvideo.models.key_maps import ADAPTER, VISION_HEAD, rename

        places = {
            "vision_head": (self.folder / "vision_head/vision_head/pytorch_model.bin", VISION_HEAD),
            "adapter": (self.folder / "adapter/model.pt", ADAPTER),
        }
        return {part: rename(read_state(file), rules) for part, (file, rules) in places.items() if file.is_file()}

    def fixed_rows(self) -> dict[str, "Tensor"]:
        """Boundaries, and what the weights were told where a request was dropped in training."""
        null = read_pickle(self.folder / "unconditioned_context/context.pkl")
        return self.boundary_rows(self.folder / "special_tokens/tokens.pkl") | {
            "uncond_context": rows(null, "text_emb", self.folder),
            "uncond_ar_vision": rows(null, "vlm_last_hidden_states", self.folder)[None],
        }

    def boundary_rows(self, file: Path) -> dict[str, "Tensor"]:
        content = read_pickle(file)
        return {f"boundaries.{name}": rows(content, name, file) for name in self.boundaries}

    def empty_models(self, base: Path, mllm: Path) -> dict[str, "ModelMixin"]:
        """Of the sizes that the tensors have. The language model must be as wide as the states that they were trained on."""
        import torch

        reader = self.parts.get("vision_head") or self.parts["state_projection"]
        needed = reader["fc.0.weight" if "fc.0.weight" in reader else "vlm_proj.weight"].shape[1]
        width = read_json(mllm / "config.json").get("text_config", {}).get("hidden_size")
        if width != needed:
            raise CheckpointError(
                f"{mllm / 'config.json'}: this language model's states are {width} wide, and these weights read states "
                f"that are {needed} wide: give one of that width as --mllm, such as {self.mllm}"
            )
        with torch.device("meta"):
            models = {name: make_part(name.removesuffix(LOW_NOISE), state) for name, state in self.parts.items()}
        for name, model in models.items():
            if name.startswith("transformer"):
                model.register_to_config(max_context_len=self.max_context_len)
        return models

    def read(self, checkpoint: Path, models: Mapping[str, "ModelMixin"]) -> dict[str, dict[str, "Tensor"]]:
        for name, state in self.parts.items():
            expected = {key: value.shape for key, value in models[name].state_dict().items()}
            weights.check_shapes(
                f"{name} of {checkpoint}", {key: value.shape for key, value in state.items()}, expected
            )
        return self.parts

    def copy(self, base: Path, folder: Path) -> None:
        if (base / "vae").is_dir():
            for name in ("vae", "text_encoder"):
                copy_files(base / name, MODEL_FILES, folder / name)
            copy_files(base / "tokenizer", ["*.json", "*.model", "*.txt"], folder / "text_tokenizer")
        else:
            from transformers.utils import logging

            logging.disable_progress_bar()
            wan_vae(only(base, WAN_VAE)).save_pretrained(folder / "vae")
            wan_text_encoder(only(base, WAN_TEXT_ENCODER)).save_pretrained(folder / "text_encoder")
            shutil.copytree(only(base, WAN_TOKENIZER), folder / "text_tokenizer")

    def pipeline(
        self, folder: Path, tokenizer: "PreTrainedTokenizerBase", rules: dict[str, Any]
    ) -> "DiffusionPipeline":
        from diffusers import AutoencoderKLWan
        from transformers import AutoTokenizer, UMT5EncoderModel

        from loomvideo.sampling.schedulers import WanDPMSolverScheduler, WanUniPCScheduler
        from loomvideo.systems.omnivideo import OmniVideoPipeline

        solver = {"unipc": WanUniPCScheduler, "dpm++": WanDPMSolverScheduler}[self.solver]
        own = {name: weights.empty_model(part_class(name), folder / name) for name in self.parts}
        return OmniVideoPipeline(
            **own,
            mllm=weights.empty_model(mllm_class(folder / "mllm"), folder / "mllm"),
            tokenizer=tokenizer,
            vae=weights.empty_model(AutoencoderKLWan, folder / "vae"),
            text_encoder=weights.empty_model(UMT5EncoderModel, folder / "text_encoder"),
            text_tokenizer=AutoTokenizer.from_pretrained(folder / "text_tokenizer"),
            scheduler=solver(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift),
            limits=asdict(self.limits),
            # every frame is handed over, and the processor keeps so many
            frame_rule={"factor": self.limits.max_frames, "min_frames": 2, "sampled_frames": self.mllm_frames},
            pixel_budgets=rules["pixel_budgets"],
        )


@dataclass(frozen=True)
class SecondReleaseWeights(OmniVideoWeights):
    """Omni-Video 2: one or two denoisers, each with a projection and a source tokenizer of its own."""

    mllm: ClassVar[str] = "Qwen/Qwen3-VL-30B-A3B-Instruct"
    unread: ClassVar[str] = "the base's own denoiser"
    parameters: ClassVar = {
        "denoiser": 14_288_491_584,
        "second denoiser": 14_288_491_584,
        "state_projection": 8_394_752,
        "state_projection_2": 8_394_752,
        "source_tokenizer": 22_291_456,
        "source_tokenizer_2": 22_291_456,
        LANGUAGE_MODEL: 31_070_754_032,
        TEXT_ENCODER: 5_680_910_336,
        VAE: 126_892_531,
    }
    note: ClassVar[str | None] = None
    parts_needed: ClassVar[Sequence[str]] = ("transformer", "state_projection", "source_tokenizer")
    boundaries: ClassVar[Sequence[str]] = ("<img_st>", "<img_ed>", "<prp_st>", "<prp_ed>")
    limits: ClassVar[ModelLimits] = SECOND_LIMITS
    mllm_frames: ClassVar[int] = 6

    def beside(self) -> dict[str, dict[str, "Tensor"]]:
        return {}

    def fixed_rows(self) -> dict[str, "Tensor"]:
        return self.boundary_rows(self.folder / "special_tokens.pkl")


def find_release(checkpoint: Path) -> OmniVideoWeights:
    """The release whose files lie in a folder; its padding is what its scripts pad to.

    Raises CheckpointError where there are none.
    """
    if (checkpoint / OmniVideoWeights.file).is_file():
        return OmniVideoWeights((checkpoint / OmniVideoWeights.file,), checkpoint)
    experts = tuple(checkpoint / f"{level}_noise_model/model.pt" for level in ("high", "low"))
    if all(file.is_file() for file in experts):
        return SecondReleaseWeights(experts, checkpoint, max_context_len=6144)
    alone = checkpoint / "transformer/pytorch_model.pt"
    if alone.is_file():
        return SecondReleaseWeights((alone,), checkpoint, max_context_len=6272)
    raise CheckpointError(
        f"{checkpoint} is no checkpoint of Omni-Video: give the folder that holds {OmniVideoWeights.file}, or of the second "
        "release high_noise_model/model.pt and low_noise_model/model.pt, or transformer/pytorch_model.pt"
    )


# --- tensors of a checkpoint


def read_unified(file: Path) -> dict[str, dict[str, "Tensor"]]:
    """The components of a whole model."""
    from loomvideo.models.key_maps import split_unified

    try:
        return split_unified(read_state(file))
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error


def read_state(file: Path) -> dict[str, "Tensor"]:
    """A file's tensors by name, out of the field that they may stand in and without the prefix of a parallel run."""
    content = load_values(file)
    for field in STATE_FIELDS:
        if isinstance(content.get(field), dict):
            content = content[field]
    return {name.removeprefix("module."): value for name, value in content.items()}


def check_names(file: Path, parts: Mapping[str, Any], needed: Sequence[str]) -> None:
    if set(parts) != set(needed):
        raise CheckpointError(f"{file} holds {', '.join(sorted(parts))}, and must hold {', '.join(needed)}")


def make_part(name: str, state: "State") -> "ModelMixin":
    """A component as large as its tensors. Raises CheckpointError where one is missing that tells a size."""
    try:
        return part_class(name)(**FIELDS[name](state))
    except KeyError as missing:
        raise CheckpointError(f"{name}: {missing} is missing, without which its size is not known") from missing


def part_class(name: str) -> Any:
    from loomvideo.models import context_rows
    from loomvideo.models.omnivideo import OmniVideoTransformer3DModel

    return {
        "transformer": OmniVideoTransformer3DModel,
        "vision_head": context_rows.QueryTransformer,
        "adapter": context_rows.QueryTransformer,
        "source_tokenizer": context_rows.SourceTokenizer,
        "state_projection": context_rows.StateProjection,
        "fixed_rows": context_rows.FixedRows,
    }[name.removesuffix(LOW_NOISE)]


def denoiser_fields(state: "State") -> dict[str, Any]:
    dim, in_channels, *patch = state["patch_embedding.weight"].shape
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": dim // HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "in_channels": in_channels,
        "out_channels": state["proj_out.weight"].shape[0] // (patch[0] * patch[1] * patch[2]),
        "text_dim": state["condition_embedder.text_embedder.linear_1.weight"].shape[1],
        "freq_dim": state["condition_embedder.time_embedder.linear_1.weight"].shape[1],
        "ffn_dim": state["blocks.0.ffn.net.0.proj.weight"].shape[0],
        "num_layers": count(state, r"blocks\.(\d+)\."),
    }


def query_fields(state: "State") -> dict[str, Any]:
    _, num_queries, dim = state["decoder_query"].shape
    return {
        "in_dim": state["fc.0.weight"].shape[1],
        "dim": dim,
        "num_queries": num_queries,
        "num_heads": QUERY_HEADS,
        "num_layers": count(state, r"encoder\.layers\.(\d+)\."),
        "ffn_dim": state["encoder.layers.0.linear1.weight"].shape[0],
    }


def source_fields(state: "State") -> dict[str, Any]:
    dim, in_channels, *patch = state["patch_embedding.weight"].shape
    text_dim = state["projection.weight"].shape[0]
    return {"in_channels": in_channels, "dim": dim, "text_dim": text_dim, "patch_size": tuple(patch)}


def projection_fields(state: "State") -> dict[str, Any]:
    text_dim, in_dim = state["vlm_proj.weight"].shape
    return {"in_dim": in_dim, "text_dim": text_dim}


def fixed_fields(state: "State") -> dict[str, Any]:
    names = tuple(name.removeprefix("boundaries.") for name in state if name.startswith("boundaries."))
    num_rows, text_dim = state["boundaries.<prp_st>"].shape
    fields = {"boundary_names": names, "boundary_rows": num_rows, "text_dim": text_dim}
    if "uncond_context" in state:
        _, null_states, state_dim = state["uncond_ar_vision"].shape
        fields |= {
            "null_text_rows": len(state["uncond_context"]),
            "state_dim": state_dim,
            "null_states": null_states,
        }
    return fields


FIELDS = {
    "transformer": denoiser_fields,
    "vision_head": query_fields,
    "adapter": query_fields,
    "source_tokenizer": source_fields,
    "state_projection": projection_fields,
    "fixed_rows": fixed_fields,
}


def count(state: "State", pattern: str) -> int:
    """How many numbers stand at one place of the names."""
    return len({found[1] for name in state if (found := re.match(pattern, name))})


# --- pickles of plain values


class TensorUnpickler(pickle.Unpickler):
    """Makes tensors and plain values, and nothing else: no code of the file's choice is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return load_storage
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"code that calls {module}.{name}")


def load_storage(content: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def read_pickle(file: Path) -> dict[str, Any]:
    """A dictionary of tensors, from PyTorch's own form or a plain pickle."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: the released folder holds it")
    if zipfile.is_zipfile(file):
        return load_values(file)
    try:
        with file.open("rb") as opened:
            content = TensorUnpickler(opened).load()
    except Exception as error:  # damaged files raise errors of many kinds
        raise CheckpointError(
            f"{file} is refused: only tensors and plain values are read, and it holds {error}"
        ) from error
    return content if isinstance(content, dict) else load_values(file)  # of PyTorch's older form only a number was read


def rows(content: Mapping[str, Any], name: str, place: Path) -> "Tensor":
    """Rows (n, width) under a name, which may stand in a list of one or with a batch axis of one."""
    from torch import Tensor

    value = content.get(name)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor) or value.ndim not in (2, 3) or (value.ndim == 3 and len(value) != 1):
        raise CheckpointError(f"{place} has no rows {name}: it holds {', '.join(map(str, content)) or 'nothing'}")
    return value.reshape(-1, value.shape[-1])


# --- a base in Wan's own layout


def only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise CheckpointError(
            f"{folder} holds {len(found)} of {pattern}: give a base with vae, text_encoder and tokenizer in diffusers' "
            f"layout, or with {WAN_VAE}, {WAN_TEXT_ENCODER} and {WAN_TOKENIZER} in Wan's"
        )
    return found[0]


def wan_vae(file: Path) -> "ModelMixin":
    import torch
    from diffusers import AutoencoderKLWan

    from loomvideo.models.key_maps import VAE_BLOCKS, VAE_PARTS

    state = renamed(file, VAE_BLOCKS, VAE_PARTS)
    with torch.device("meta"):
        vae = AutoencoderKLWan(
            base_dim=state["encoder.conv_in.weight"].shape[0], z_dim=state["post_quant_conv.weight"].shape[0]
        )
    return filled(vae, state, file)


def wan_text_encoder(file: Path) -> "PreTrainedModel":
    import torch
    from transformers import UMT5Config, UMT5EncoderModel

    from loomvideo.models.key_maps import TEXT_ENCODER as RULES

    state = renamed(file, RULES)
    vocabulary, dim = state["shared.weight"].shape
    buckets, heads = state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=dim,
        d_kv=state["encoder.block.0.layer.0.SelfAttention.q.weight"].shape[0] // heads,
        d_ff=state["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        num_layers=count(state, r"encoder\.block\.(\d+)\."),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    return filled(encoder, {**state, "encoder.embed_tokens.weight": state["shared.weight"]}, file)


def renamed(file: Path, *rules: Any) -> dict[str, "Tensor"]:
    from loomvideo.models.key_maps import rename

    try:
        return rename(read_state(file), *rules)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error


def filled(model: Any, state: "State", file: Path) -> Any:
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weights.check_shapes(str(file), {name: tensor.shape for name, tensor in state.items()}, expected)
    model.load_state_dict(state, strict=True, assign=True)
    return model


def mllm_class(folder: Path) -> Any:
    """The class that a language model's own configuration names: Qwen3-VL, dense or with experts."""
    import transformers

    named = (read_json(folder / "config.json").get("architectures") or [MLLM_CLASSES[0]])[0]
    if named not in MLLM_CLASSES:
        raise CheckpointError(f"{folder} holds a {named}: give a Qwen3-VL as --mllm, {' or '.join(MLLM_CLASSES)}")
    return getattr(transformers, named)
