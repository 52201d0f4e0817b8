"""How published weights and the models they stand on become one folder: the steps that all systems share."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from loomvideo import checkpoint as weights
from loomvideo.checkpoint import CheckpointError, read_json
from loomvideo.models.qwen import (
    MERGE_SIZE,
    PATCH_SIZE,
    SAMPLED_FPS,
    TEMPORAL_PATCH_SIZE,
    FrameRule,
    PixelBudget,
)

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

MLLM_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
MODEL_FILES = ["config.json", "scheduler_config.json", "*.safetensors", "*.index.json"]
PUBLISHED_BUDGETS = {"image": PixelBudget(65_536, 16_777_216), "video": PixelBudget(4_096, 25_165_824)}
# What models.qwen does to pixels and frames; a processor with other settings would ask for other features.
PIXEL_SETTINGS = {
    "patch_size": PATCH_SIZE,
    "merge_size": MERGE_SIZE,
    "temporal_patch_size": TEMPORAL_PATCH_SIZE,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
# What all of Wan's denoisers are asked to stay away from.
WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，"
    "背景人很多，倒着走"
)
FRAME_SETTINGS = {"fps": SAMPLED_FPS, "do_sample_frames": True}
LANGUAGE_MODEL, VAE, TEXT_ENCODER = "language model", "VAE", "text encoder"
BASE_FOLDERS = {VAE: "vae", TEXT_ENCODER: "text_encoder"}
CALLED = {  # components as a person is told of them
    "transformer": "denoiser",
    "transformer_2": "second denoiser",
    "mllm": LANGUAGE_MODEL,
    "vae": VAE,
    "vision_head": "vision head",
}


class PublishedWeights(ABC):
    """What is particular to one system's published weights; abstract.

    `parameters` of every part, the fact sheets' figures, are for parts that are not on this machine.
    """

    file: ClassVar[str]  # the published name
    mllm: ClassVar[str]  # Hub ids of what they stand on
    base: ClassVar[str]
    base_files: ClassVar[Sequence[str]]  # of the base only this is read ...
    base_parts: ClassVar[Sequence[str]] = (VAE,)  # ... as a person is told ...
    copied: ClassVar[Sequence[str]] = ()  # ... these components as they are ...
    unread: ClassVar[str]  # ... and this not at all, as a person is told
    parameters: ClassVar[Mapping[str, int]]
    licence: ClassVar[str | None] = None  # where the fact sheet knows one
    note: ClassVar[str | None] = None  # what a person must know to use them
    card: ClassVar[str] = ""  # README.md of the folder, which keeps the licence

    def of(self, checkpoint: Path) -> "PublishedWeights":
        """The same for a checkpoint, where releases differ."""
        return self

    def copy(self, base: Path, folder: Path) -> None:
        """Put what the base gives into the model's folder."""
        for name in self.copied:
            copy_files(base / name, MODEL_FILES, folder / name)

    @abstractmethod
    def files(self, checkpoint: Path) -> list[Path]:
        """The files that are read of a checkpoint, itself a file or a folder."""

    @abstractmethod
    def empty_models(self, base: Path, mllm: Path) -> dict[str, "ModelMixin"]:
        """The components that the checkpoint fills, without memory, from the configurations of `base` and `mllm`."""

    @abstractmethod
    def read(self, checkpoint: Path, models: Mapping[str, "ModelMixin"]) -> dict[str, dict[str, "Tensor"]]:
        """Every component's tensors by name. Raises CheckpointError, with the names, for any that do not fit."""

    @abstractmethod
    def pipeline(
        self, folder: Path, tokenizer: "PreTrainedTokenizerBase", rules: dict[str, Any]
    ) -> "DiffusionPipeline":
        """The pipeline on models without memory, from the configurations in `folder`; it states model_index.json.

        `rules` are the language model's own `frame_rule` and `pixel_budgets`.
        """


def import_weights(
    system: PublishedWeights, checkpoint: Path, *, mllm: str, base: str, output: Path, dtype: str = "bfloat16"
) -> None:
    """Write the folder ``output`` of the published ``checkpoint`` and of ``mllm`` and ``base``, folders or Hub ids.

    ``dtype`` is that of the checkpoint's own parts. Small files come first: a checkpoint that does not fit is found
    before gigabytes are downloaded. Raises CheckpointError.
    """
    with weights.written_whole(output) as folder:
        mllm_config = weights.local_folder(mllm, ["config.json"])
        base_config = weights.local_folder(base, ["transformer/config.json"])
        models = system.empty_models(base_config, mllm_config)
        tensors = system.read(checkpoint, models)
        for name, model in models.items():
            save_model(model, tensors[name], dtype, folder / name)

        whole_mllm = weights.local_folder(mllm, MLLM_FILES)
        whole_base = weights.local_folder(base, system.base_files)
        weights.check_same(checkpoint, tensors.get("mllm", {}), whole_mllm)
        copy_files(whole_mllm, [*MODEL_FILES, "generation_config.json"], folder / "mllm")
        system.copy(whole_base, folder)
        save_index(system, whole_mllm, folder)
        if system.card:
            (folder / "README.md").write_text(system.card, encoding="utf-8")
        weights.check_model(folder)


def save_model(model: "ModelMixin", tensors: Mapping[str, "Tensor"], dtype: str, folder: Path) -> None:
    """Fill a model that has no memory and write it."""
    import torch

    converted = {name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in tensors.items()}
    model.load_state_dict(converted, strict=True, assign=True)
    model.save_pretrained(folder, max_shard_size="5GB")


def copy_files(source: Path, patterns: Sequence[str], target: Path) -> None:
    files = sorted(file for pattern in patterns for file in source.glob(pattern))
    if not files:
        raise CheckpointError(
            f"{source} holds none of {', '.join(patterns)}: is it complete, and in diffusers' layout?"
        )
    target.mkdir()
    for file in files:
        shutil.copyfile(file, target / file.name)


def save_index(system: PublishedWeights, mllm: Path, folder: Path) -> None:
    """Write the tokenizer, a scheduler that was not copied, and model_index.json, as the pipeline itself states them."""
    from transformers import AutoTokenizer

    if not (mllm / "tokenizer_config.json").is_file():
        raise CheckpointError(f"{mllm} holds no tokenizer: give the language model's whole folder as --mllm")
    tokenizer = AutoTokenizer.from_pretrained(mllm)
    tokenizer.save_pretrained(folder / "tokenizer")
    pipeline = system.pipeline(folder, tokenizer, processor_rules(mllm))
    if "scheduler" not in system.copied:
        pipeline.components["scheduler"].save_pretrained(folder / "scheduler")
    pipeline.save_config(folder)


def transformer_fields(base: Path) -> dict[str, Any]:
    """The configuration of a base's denoiser."""
    config = read_json(base / "transformer" / "config.json")
    return {name: value for name, value in config.items() if not name.startswith("_")}


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


# --- what an import would do


def dry_run(
    system: PublishedWeights, checkpoint: Path, *, mllm: str, base: str, output: Path, dtype: str
) -> Iterator[str]:
    """What an import would read, download and need, line by line."""
    own = [name for name in system.parameters if name not in (LANGUAGE_MODEL, *system.base_parts)]
    size = sum(file.stat().st_size for file in system.files(checkpoint))
    yield f"{' and '.join(own)}: {checkpoint}, {gigabytes(size)} on this machine"
    yield from files_needed(system, [LANGUAGE_MODEL], mllm, MLLM_FILES)
    yield from files_needed(system, system.base_parts, base, system.base_files)
    yield f"neither downloaded nor loaded: {system.unread}"

    counts = {**system.parameters, **local_parameters(system, mllm, base)}
    total = gigabytes(2 * sum(counts.values()))
    parts = ", ".join(f"{name} {gigabytes(2 * count)}" for name, count in counts.items())
    needed = (4 if dtype == "float32" else 2) * sum(counts[name] for name in own)
    yield f"memory to import: {gigabytes(needed)}, the {' and '.join(own)} in {dtype}"
    yield f"memory to run in bfloat16: {total} of weights ({parts}), and some for latents and attention"
    yield f"nothing was written; without --dry-run the model would be {output}"


def files_needed(system: PublishedWeights, parts: Sequence[str], origin: str, patterns: Sequence[str]) -> Iterator[str]:
    folder, part = Path(origin).expanduser(), " and ".join(parts)
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
        size = gigabytes(2 * sum(system.parameters[part] for part in parts))
        yield f"  of it {', '.join(patterns)} would be downloaded; published size: {size} in bfloat16"
        return
    to_download = {name: size for name, (size, wanted) in files.items() if wanted}
    yield f"{part}: {origin}, {gigabytes(sum(to_download.values()))} to download in {len(to_download)} of {len(files)} files"
    yield from (f"  {name} {gigabytes(size)}" for name, size in to_download.items())


def local_parameters(system: PublishedWeights, mllm: str, base: str) -> dict[str, int]:
    """Parameters of the parts that are on this machine."""
    mllm_folder, base_folder = (Path(name).expanduser() for name in (mllm, base))
    counts = {}
    if mllm_folder.is_dir() and base_folder.is_dir():
        for name, model in system.empty_models(base_folder, mllm_folder).items():
            counts[CALLED.get(name, name)] = sum(parameter.numel() for parameter in model.parameters())
    if mllm_folder.is_dir():
        counts[LANGUAGE_MODEL] = weights.num_parameters(weights.stored_shapes(mllm_folder))
    for part in system.base_parts:
        if (base_folder / BASE_FOLDERS[part]).is_dir():
            counts[part] = weights.num_parameters(weights.stored_shapes(base_folder / BASE_FOLDERS[part]))
    return counts


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
