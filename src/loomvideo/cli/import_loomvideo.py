"""LoomVideo's published weights: one file of the denoiser, on Qwen3-VL-8B and Wan2.2-TI2V-5B (fact sheet 2 and 9.1)."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from loomvideo import checkpoint as weights
from loomvideo.checkpoint import CheckpointError, read_json
from loomvideo.cli.import_steps import LANGUAGE_MODEL, VAE, WAN_NEGATIVE_PROMPT, PublishedWeights, transformer_fields
from loomvideo.systems.request import ModelLimits

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, UniPCMultistepScheduler
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

PUBLISHED_LIMITS = ModelLimits(
    fps=24,
    area=480 * 832,
    max_frames=121,
    default_frames=81,
    max_area=736 * 1280,  # 720p at the next multiple of 32; just above the largest training size
    default_height=480,
    default_width=832,
    num_inference_steps=50,
    guidance_scale=5.0,
    guidance_scale_edit=2.5,
    guidance_scale_visual=1.5,
    negative_prompt="Generate an image: " + WAN_NEGATIVE_PROMPT,
)


@dataclass(frozen=True)
class LoomVideoWeights(PublishedWeights):
    """`with_source=False` is for a checkpoint of training stage 1, which has no source embedding."""

    file: ClassVar[str] = "gen_model.pth"
    mllm: ClassVar[str] = "Qwen/Qwen3-VL-8B-Instruct"
    base: ClassVar[str] = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    # The base's own denoiser is replaced, and its T5 cannot change a result (fact sheet 12.1).
    base_files: ClassVar = ["transformer/config.json", "vae/*.json", "vae/*.safetensors", "scheduler/*.json"]
    copied: ClassVar = ("vae", "scheduler")
    unread: ClassVar[str] = "the base's own denoiser and its T5 text encoder"
    parameters: ClassVar = {"denoiser": 5_088_480_448, LANGUAGE_MODEL: 8_767_123_696, VAE: 704_688_668}

    with_source: bool = True

    def files(self, checkpoint: Path) -> list[Path]:
        return weights.denoiser_files(checkpoint)

    def empty_models(self, base: Path, mllm: Path) -> dict[str, "ModelMixin"]:
        """The denoiser: the base's configuration, and a projector as wide as the language model."""
        import torch

        from loomvideo.models.wan import LoomVideoTransformer3DModel

        fields = transformer_fields(base)
        if unknown := set(fields) - set(inspect.signature(LoomVideoTransformer3DModel.__init__).parameters):
            raise CheckpointError(
                f"{base / 'transformer' / 'config.json'}: {', '.join(sorted(unknown))} are no fields of a Wan2.2 TI2V "
                "denoiser: give its --base"
            )
        text = read_json(mllm / "config.json").get("text_config", {})
        if text.get("num_hidden_layers", 0) < fields["num_layers"]:
            raise CheckpointError(
                f"{mllm / 'config.json'}: {text.get('num_hidden_layers', 0)} text layers cannot feed the "
                f"{fields['num_layers']} blocks of the denoiser: give the published Qwen3-VL as --mllm"
            )
        with torch.device("meta"):
            denoiser = LoomVideoTransformer3DModel(
                **fields,
                mllm_dim=text["hidden_size"],
                use_source_embedding=self.with_source,
                rounded_rotary_tables=True,
            )
        return {"transformer": denoiser}

    def read(self, checkpoint: Path, models: Mapping[str, "ModelMixin"]) -> dict[str, dict[str, "Tensor"]]:
        expected = {name: value.shape for name, value in models["transformer"].named_parameters()}
        return {"transformer": weights.read_denoiser(checkpoint, expected)}

    def pipeline(
        self, folder: Path, tokenizer: "PreTrainedTokenizerBase", rules: dict[str, Any]
    ) -> "DiffusionPipeline":
        from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
        from transformers import Qwen3VLForConditionalGeneration

        from loomvideo.models.wan import LoomVideoTransformer3DModel
        from loomvideo.systems.loomvideo import LoomVideoPipeline

        scheduler = cast("UniPCMultistepScheduler", UniPCMultistepScheduler.from_pretrained(folder / "scheduler"))
        return LoomVideoPipeline(
            transformer=weights.empty_model(LoomVideoTransformer3DModel, folder / "transformer"),
            mllm=weights.empty_model(Qwen3VLForConditionalGeneration, folder / "mllm"),
            tokenizer=tokenizer,
            vae=weights.empty_model(AutoencoderKLWan, folder / "vae"),
            scheduler=scheduler,
            limits=asdict(PUBLISHED_LIMITS),
            **rules,
        )
