"""``loomvideo import``: published weights and the models they stand on become one folder in diffusers' layout."""

import argparse
import inspect
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from loomvideo import checkpoint as weights
from loomvideo.checkpoint import CheckpointError
from loomvideo.models.qwen import (
    MERGE_SIZE,
    PATCH_SIZE,
    SAMPLED_FPS,
    TEMPORAL_PATCH_SIZE,
    FrameRule,
    PixelBudget,
)
from loomvideo.systems.request import ModelLimits

if TYPE_CHECKING:
    import torch

    from loomvideo.models.wan import LoomVideoTransformer3DModel

EXAMPLES = """\
examples:
  loomvideo import --checkpoint gen_model.pth --mllm Qwen/Qwen3-VL-8B-Instruct \\
      --base Wan-AI/Wan2.2-TI2V-5B-Diffusers --output models/loomvideo
  loomvideo import ... --dry-run      says what would be downloaded and the memory needed, and writes nothing
  loomvideo generate --model models/loomvideo --prompt "a cat on a sunny wall" --output cat.mp4
"""

MLLM_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
# Of the base only this is read: its own denoiser is replaced, and its T5 cannot change a result (fact sheet 12.1).
BASE_FILES = ["transformer/config.json", "vae/*.json", "vae/*.safetensors", "scheduler/*.json"]

# Parameters of the published parts (fact sheet 2), for those that are not on this machine yet.
PUBLISHED_PARAMETERS = {"denoiser": 5_088_480_448, "language model": 8_767_123_696, "VAE": 704_688_668}
PUBLISHED_BUDGETS = {"image": PixelBudget(65_536, 16_777_216), "video": PixelBudget(4_096, 25_165_824)}
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
    negative_prompt=(
        "Generate an image: 色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
        "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
        "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
    ),
)
# What models.qwen does to pixels and frames; a processor with other settings would ask for other features.
PIXEL_SETTINGS = {
    "patch_size": PATCH_SIZE,
    "merge_size": MERGE_SIZE,
    "temporal_patch_size": TEMPORAL_PATCH_SIZE,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
FRAME_SETTINGS = {"fps": SAMPLED_FPS, "do_sample_frames": True}


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("import", help="turn published weights into one folder", epilog=EXAMPLES)
    parser.add_argument(
        "--checkpoint", required=True, type=Path, metavar="PATH", help="gen_model.pth, or a published folder or file"
    )
    parser.add_argument("--mllm", required=True, metavar="DIR_OR_ID", help="Qwen3-VL: a folder or a Hub id")
    parser.add_argument(
        "--base", required=True, metavar="DIR_OR_ID", help="Wan2.2-TI2V for diffusers: a folder or Hub id"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the new folder")
    parser.add_argument("--system", choices=tuple(weights.PIPELINES), default="loomvideo")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="of the denoiser"
    )
    parser.add_argument(
        "--without-source-embedding", action="store_true", help="the checkpoint is of training stage 1, which has none"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be downloaded and needed, write nothing")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.checkpoint.exists():
        raise CheckpointError(f"{arguments.checkpoint} does not exist: name the published gen_model.pth or its folder")
    if arguments.dry_run:
        for line in dry_run(arguments):
            print(line)
        return 0
    import_weights(
        arguments.checkpoint,
        mllm=arguments.mllm,
        base=arguments.base,
        output=arguments.output,
        dtype=arguments.dtype,
        with_source=not arguments.without_source_embedding,
    )
    print(f"{arguments.output}: written; use it with loomvideo generate --model {arguments.output}")
    return 0


def import_weights(
    checkpoint: Path, *, mllm: str, base: str, output: Path, dtype: str = "bfloat16", with_source: bool = True
) -> None:
    """Write the folder ``output`` of the published ``checkpoint`` and of ``mllm`` and ``base``, folders or Hub ids.

    ``dtype`` is the denoiser's; ``with_source=False`` is for training stage 1, which has no source embedding. Small files
    come first: a checkpoint that does not fit is found before gigabytes are downloaded. Raises CheckpointError.
    """
    import torch

    with weights.written_whole(output) as folder:
        mllm_config = weights.local_folder(mllm, ["config.json"])
        base_config = weights.local_folder(base, ["transformer/config.json"])
        denoiser = empty_denoiser(base_config, mllm_config, with_source=with_source)
        save_denoiser(denoiser, checkpoint, getattr(torch, dtype), folder / "transformer")

        whole_mllm = weights.local_folder(mllm, MLLM_FILES)
        whole_base = weights.local_folder(base, BASE_FILES)
        model_files = ["config.json", "*.safetensors", "*.index.json"]
        copy_files(whole_mllm, [*model_files, "generation_config.json"], folder / "mllm")
        copy_files(whole_base / "vae", model_files, folder / "vae")
        copy_files(whole_base / "scheduler", ["scheduler_config.json"], folder / "scheduler")
        save_index(whole_mllm, folder)
        weights.check_model(folder)


def empty_denoiser(base: Path, mllm: Path, *, with_source: bool) -> "LoomVideoTransformer3DModel":
    """The denoiser without memory: the base's configuration, and a projector as wide as the language model."""
    import torch

    from loomvideo.models.wan import LoomVideoTransformer3DModel

    file = base / "transformer" / "config.json"
    fields = {name: value for name, value in read_json(file).items() if not name.startswith("_")}
    unknown = set(fields) - set(inspect.signature(LoomVideoTransformer3DModel.__init__).parameters)
    if unknown:
        raise CheckpointError(
            f"{file}: {', '.join(sorted(unknown))} are no fields of a Wan2.2 TI2V denoiser: give its --base"
        )
    file = mllm / "config.json"
    text = read_json(file).get("text_config", {})
    if text.get("num_hidden_layers", 0) < fields["num_layers"]:
        raise CheckpointError(
            f"{file}: {text.get('num_hidden_layers', 0)} text layers cannot feed the {fields['num_layers']} blocks of the "
            "denoiser: give the published Qwen3-VL as --mllm"
        )
    with torch.device("meta"):
        return LoomVideoTransformer3DModel(
            **fields, mllm_dim=text["hidden_size"], use_source_embedding=with_source, rounded_rotary_tables=True
        )


def save_denoiser(
    denoiser: "LoomVideoTransformer3DModel", checkpoint: Path, dtype: "torch.dtype", folder: Path
) -> None:
    state = weights.read_denoiser(checkpoint, {name: value.shape for name, value in denoiser.named_parameters()})
    converted = {name: tensor.to(dtype).contiguous() for name, tensor in state.items()}
    denoiser.load_state_dict(converted, strict=True, assign=True)
    denoiser.save_pretrained(folder, max_shard_size="5GB")


def copy_files(source: Path, patterns: Sequence[str], target: Path) -> None:
    files = sorted(file for pattern in patterns for file in source.glob(pattern))
    if not files:
        raise CheckpointError(
            f"{source} holds none of {', '.join(patterns)}: is it complete, and in diffusers' layout?"
        )
    target.mkdir()
    for file in files:
        shutil.copyfile(file, target / file.name)


def save_index(mllm: Path, folder: Path) -> None:
    """Write the tokenizer and model_index.json. The pipeline states both itself, built on models without memory."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
    from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

    from loomvideo.models.wan import LoomVideoTransformer3DModel
    from loomvideo.systems.loomvideo import LoomVideoPipeline

    if not (mllm / "tokenizer_config.json").is_file():
        raise CheckpointError(f"{mllm} holds no tokenizer: give the language model's whole folder as --mllm")
    tokenizer = AutoTokenizer.from_pretrained(mllm)
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler = cast("UniPCMultistepScheduler", UniPCMultistepScheduler.from_pretrained(folder / "scheduler"))
    pipeline = LoomVideoPipeline(
        transformer=weights.empty_model(LoomVideoTransformer3DModel, folder / "transformer"),
        mllm=weights.empty_model(Qwen3VLForConditionalGeneration, folder / "mllm"),
        tokenizer=tokenizer,
        vae=weights.empty_model(AutoencoderKLWan, folder / "vae"),
        scheduler=scheduler,
        limits=asdict(PUBLISHED_LIMITS),
        **processor_rules(mllm),
    )
    pipeline.save_config(folder)


def processor_rules(mllm: Path) -> dict[str, Any]:
    """Frame rule and pixel budgets as the language model's folder states them, else the published ones."""
    image = processor_settings(mllm, "preprocessor_config.json", "image_processor", PIXEL_SETTINGS)
    video = processor_settings(
        mllm, "video_preprocessor_config.json", "video_processor", {**PIXEL_SETTINGS, **FRAME_SETTINGS}
    )
    published = FrameRule()
    rule = FrameRule(sampled_frames=video.get("min_frames", published.sampled_frames))
    budgets = {"image": budget(image, PUBLISHED_BUDGETS["image"]), "video": budget(video, PUBLISHED_BUDGETS["video"])}
    return {"frame_rule": asdict(rule), "pixel_budgets": {kind: asdict(value) for kind, value in budgets.items()}}


def processor_settings(mllm: Path, name: str, key: str, needed: dict[str, Any]) -> dict[str, Any]:
    """One processor's settings, from its own file or from the common one; what is `needed` may not be set otherwise."""
    file, common = mllm / name, mllm / "processor_config.json"
    settings = read_json(file) if file.is_file() else {}
    if not settings and common.is_file():
        settings = read_json(common).get(key, {})
    for name, value in needed.items():
        if settings.get(name, value) != value:
            raise CheckpointError(f"{mllm}: {key} has {name} {settings[name]}, and only {value} is supported")
    return settings


def budget(settings: dict[str, Any], otherwise: PixelBudget) -> PixelBudget:
    size = settings.get("size") or {}
    smallest = size.get("shortest_edge") or settings.get("min_pixels") or otherwise.smallest
    largest = size.get("longest_edge") or settings.get("max_pixels") or otherwise.largest
    return PixelBudget(smallest, largest)


def read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; the folder must hold this configuration") from error


def dry_run(arguments: argparse.Namespace) -> Iterator[str]:
    """What an import would read, download and need, line by line."""
    size = sum(file.stat().st_size for file in weights.denoiser_files(arguments.checkpoint))
    yield f"denoiser: {arguments.checkpoint}, {gigabytes(size)} on this machine"
    yield from files_needed("language model", arguments.mllm, MLLM_FILES)
    yield from files_needed("VAE", arguments.base, BASE_FILES)
    yield "neither downloaded nor loaded: the base's own denoiser and its T5 text encoder"

    counts = {**PUBLISHED_PARAMETERS, **local_parameters(arguments)}
    total = gigabytes(2 * sum(counts.values()))
    parts = ", ".join(f"{name} {gigabytes(2 * count)}" for name, count in counts.items())
    width = 4 if arguments.dtype == "float32" else 2
    yield f"memory to import: {gigabytes(width * counts['denoiser'])}, the denoiser in {arguments.dtype}"
    yield f"memory to run in bfloat16: {total} of weights ({parts}), and some for latents and attention"
    yield f"nothing was written; without --dry-run the model would be {arguments.output}"


def files_needed(part: str, origin: str, patterns: Sequence[str]) -> Iterator[str]:
    folder = Path(origin).expanduser()
    if folder.is_dir() or not weights.is_hub_id(origin):
        found = weights.local_folder(origin, patterns)
        sizes = {
            str(file.relative_to(found)): file.stat().st_size for pattern in patterns for file in found.glob(pattern)
        }
        yield f"{part}: {origin}, {gigabytes(sum(sizes.values()))} on this machine"
        return
    try:
        files = weights.download_sizes(origin, patterns)
    except CheckpointError as error:
        yield f"{part}: {error}"
        size = gigabytes(2 * PUBLISHED_PARAMETERS[part])
        yield f"  of it {', '.join(patterns)} would be downloaded; published size: {size} in bfloat16"
        return
    to_download = {name: size for name, (size, wanted) in files.items() if wanted}
    yield f"{part}: {origin}, {gigabytes(sum(to_download.values()))} to download in {len(to_download)} of {len(files)} files"
    yield from (f"  {name} {gigabytes(size)}" for name, size in to_download.items())


def local_parameters(arguments: argparse.Namespace) -> dict[str, int]:
    """Parameters of the parts that are on this machine."""
    mllm, base = (Path(name).expanduser() for name in (arguments.mllm, arguments.base))
    counts = {}
    if mllm.is_dir() and base.is_dir():
        denoiser = empty_denoiser(base, mllm, with_source=not arguments.without_source_embedding)
        counts["denoiser"] = sum(parameter.numel() for parameter in denoiser.parameters())
    if mllm.is_dir():
        counts["language model"] = weights.num_parameters(weights.stored_shapes(mllm))
    if base.is_dir():
        counts["VAE"] = weights.num_parameters(weights.stored_shapes(base / "vae"))
    return counts


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
