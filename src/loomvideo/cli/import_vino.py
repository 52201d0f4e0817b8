"""VINO's published weights: denoiser, queries and connectors in one file, on Qwen3-VL-4B and HunyuanVideo (fact sheet 2)."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from loomvideo import checkpoint as weights
from loomvideo.checkpoint import CheckpointError, read_json
from loomvideo.cli.import_steps import LANGUAGE_MODEL, VAE, PublishedWeights, transformer_fields
from loomvideo.models.vino_chat import (
    CAPTION,
    FIRST_BUDGETS,
    FRAMES,
    NEGATIVE_PROMPT_IMAGE,
    NEGATIVE_PROMPT_VIDEO,
)
from loomvideo.systems.request import ModelLimits, Task

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

ANTI_MOTION = "moving objects, subject motion, flicker, static camera, low quality"  # only the camera is to move
PICTURE = {"guidance_scale": 5.0, "negative_prompt": NEGATIVE_PROMPT_IMAGE, "guidance_scale_visual": 1.0}
# Defaults of the program (fact sheet 5) and the documented settings of each task (6.5).
PUBLISHED_LIMITS = ModelLimits(
    fps=24,
    area=480 * 848,
    max_frames=89,
    default_frames=81,
    max_area=720 * 1280,
    default_height=480,
    default_width=848,
    size_multiple=16,
    reference_area=480 * 848,
    whole_source_frames=FRAMES,
    num_inference_steps=50,
    guidance_scale=7.0,
    guidance_scale_edit=7.0,
    guidance_scale_visual=1.0,
    negative_prompt=NEGATIVE_PROMPT_VIDEO,
    tasks=tuple(Task),
    task_defaults={
        "t2i": {**PICTURE, "default_height": 640, "default_width": 640},
        "t2v": {"default_frames": 85},
        "i2v": {"default_frames": 85, "negative_prompt": ""},
        "mi2v": {"guidance_scale_visual": 3.0, "negative_prompt": ""},
        "mi2v_image": PICTURE,
        "edit": {"negative_prompt": ""},
        "edit_image": PICTURE,
        "ref_edit": {"guidance_scale_visual": 3.0},
        "ref_edit_image": {**PICTURE, "guidance_scale_visual": 3.0},
        "clone": {"negative_prompt": ""},
        "camera_clone": {"negative_prompt": ANTI_MOTION},
    },
)


@dataclass(frozen=True)
class VinoWeights(PublishedWeights):
    """The language model is frozen; one that the checkpoint holds nevertheless must be the given one."""

    file: ClassVar[str] = weights.VINO_FILE
    mllm: ClassVar[str] = "Qwen/Qwen3-VL-4B-Instruct"
    base: ClassVar[str] = "hunyuanvideo-community/HunyuanVideo"
    base_files: ClassVar = ["transformer/config.json", "vae/*.json", "vae/*.safetensors"]
    copied: ClassVar = ("vae",)
    unread: ClassVar[str] = "the base's own denoiser and its two text encoders"
    parameters: ClassVar = {
        "denoiser": 12_821_012_544,
        "connector": 178_954_240,
        LANGUAGE_MODEL: 4_437_815_808,
        VAE: 246_478_803,
    }
    licence: ClassVar[str | None] = "CC BY-NC 4.0, for non-commercial use"
    card: ClassVar[str] = (
        "---\nlicense: CC BY-NC 4.0\n---\n\n"
        "VINO's published weights: `transformer` and `connector`, for non-commercial use only. The language model in "
        "`mllm` and the VAE in `vae` keep the licences of the repositories that they were copied from.\n"
    )

    num_queries: int = 256

    def files(self, checkpoint: Path) -> list[Path]:
        return [weights.vino_file(checkpoint)]

    def empty_models(self, base: Path, mllm: Path) -> dict[str, "ModelMixin"]:
        """The denoiser of the base's configuration, and connectors from the language model's width to its own."""
        import torch

        from loomvideo.models.connector import QueryConnector
        from loomvideo.models.hunyuan import VinoTransformer3DModel

        file, fields = base / "transformer" / "config.json", transformer_fields(base)
        if unknown := set(fields) - set(inspect.signature(VinoTransformer3DModel.__init__).parameters):
            raise CheckpointError(
                f"{file}: {', '.join(sorted(unknown))} are no fields of HunyuanVideo's text-to-video denoiser: give its "
                "--base"
            )
        width = read_json(mllm / "config.json").get("text_config", {}).get("hidden_size")
        if width is None:
            raise CheckpointError(f"{mllm / 'config.json'} states no text_config.hidden_size: give Qwen3-VL as --mllm")
        try:
            with torch.device("meta"):
                denoiser = VinoTransformer3DModel(**fields)
                config = denoiser.config
                dim = config["num_attention_heads"] * config["attention_head_dim"]
                connector = QueryConnector(self.num_queries, width, z_dim=config["text_embed_dim"], hy_dim=dim)
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from error
        return {"transformer": denoiser, "connector": connector}

    def read(self, checkpoint: Path, models: Mapping[str, "ModelMixin"]) -> dict[str, dict[str, "Tensor"]]:
        expected = {part: {name: value.shape for name, value in models[part].named_parameters()} for part in models}
        return weights.read_vino(checkpoint, expected)

    def pipeline(
        self, folder: Path, tokenizer: "PreTrainedTokenizerBase", rules: dict[str, Any]
    ) -> "DiffusionPipeline":
        from diffusers import AutoencoderKLHunyuanVideo
        from transformers import Qwen3VLForConditionalGeneration

        from loomvideo.models.connector import QueryConnector
        from loomvideo.models.hunyuan import VinoTransformer3DModel
        from loomvideo.sampling.euler import ShiftedEulerScheduler
        from loomvideo.systems.vino import VinoPipeline

        return VinoPipeline(
            transformer=weights.empty_model(VinoTransformer3DModel, folder / "transformer"),
            connector=weights.empty_model(QueryConnector, folder / "connector"),
            mllm=weights.empty_model(Qwen3VLForConditionalGeneration, folder / "mllm"),
            tokenizer=tokenizer,
            vae=weights.empty_model(AutoencoderKLHunyuanVideo, folder / "vae"),
            scheduler=ShiftedEulerScheduler(),
            limits=asdict(PUBLISHED_LIMITS),
            frame_rule={**rules["frame_rule"], "factor": PUBLISHED_LIMITS.max_frames},  # the processor alone chooses
            pixel_budgets=rules["pixel_budgets"],
            first_budgets={kind: asdict(budget) for kind, budget in FIRST_BUDGETS.items()},
            caption_system=CAPTION,
            thinking="{prompt}",
        )
