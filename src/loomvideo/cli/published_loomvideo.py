"""LoomVideo's published command line (fact sheet 7.3, 7.4): its configuration file means what it meant there."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loomvideo.cli.options import UsageError
from loomvideo.media.clip import probe


@dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """What the configuration file says that has a bearing on inference."""

    mllm: str | None = None
    base: str | None = None
    frame_divisor: int = 15  # data.und_temporal_downsample_factor
    only_last_layer: bool = False
    use_source_embedding: bool = True
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    guidance_scale_edit: float | None = None
    guidance_scale_visual: float | None = None


# Where each field stands in the file, and of what type it is.
KEYS = {
    "mllm": ("model.und.pretrained_model_path", str),
    "base": ("model.gen.pretrained_model_path", str),
    "frame_divisor": ("data.und_temporal_downsample_factor", int),
    "only_last_layer": ("model.und.only_last_hidden_states", bool),
    "use_source_embedding": ("model.gen.use_source_embedding", bool),
    "negative_prompt": ("generation.negative_prompt", str),
    "guidance_scale": ("generation.guidance_scale", float),
    "guidance_scale_edit": ("generation.guidance_scale_edit", float),
    "guidance_scale_visual": ("generation.guidance_scale_visual", float),
}


def add_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--config", "--config_path", type=Path, metavar="YAML", help="LoomVideo's configuration; its defaults hold then"
    )


def defaults(arguments: argparse.Namespace, options: Mapping[str, Any]) -> dict:
    """What an old command line leaves to its configuration and inputs, as options; nothing for any other."""
    if arguments.config is None:
        return {}
    if arguments.checkpoint is None and "model" not in options:
        raise UsageError("--config without weights: add --checkpoint gen_model.pth, or --model with a folder")
    config = read_config(arguments.config)
    edits = options.get("source") is not None
    chosen = {
        "negative_prompt": config.negative_prompt,
        "guidance_scale": config.guidance_scale_edit if edits else config.guidance_scale,
        "guidance_scale_visual": config.guidance_scale_visual,
    }
    return {name: value for name, value in chosen.items() if value is not None} | native_size(options)


def model_settings(arguments: argparse.Namespace) -> tuple:
    """What the configuration says about the model itself."""
    config = _config(arguments)
    return config.mllm, config.base, config.frame_divisor, config.only_last_layer, config.use_source_embedding


def assemble(arguments: argparse.Namespace, folder: Path) -> None:
    """Write a model folder of the published checkpoint, with what its configuration says about the model."""
    from loomvideo.checkpoint import written_whole
    from loomvideo.cli.import_loomvideo import LoomVideoWeights
    from loomvideo.cli.import_steps import import_weights

    config = _config(arguments)
    system = LoomVideoWeights(with_source=config.use_source_embedding)
    origins = {"mllm": config.mllm or system.mllm, "base": config.base or system.base}
    with written_whole(folder) as partial:
        import_weights(system, arguments.checkpoint, **origins, output=partial)
        index_file = partial / "model_index.json"
        index = json.loads(index_file.read_text(encoding="utf-8"))
        index["frame_rule"]["factor"] = config.frame_divisor
        index["only_last_layer"] = config.only_last_layer
        index_file.write_text(json.dumps(index, indent=2), encoding="utf-8")


def _config(arguments: argparse.Namespace) -> PublishedConfig:
    return PublishedConfig() if arguments.config is None else read_config(arguments.config)


def native_size(options: Mapping[str, Any]) -> dict[str, int]:
    """The published default size: the source's own, else the first reference's."""
    shown = options.get("source") or next(iter(options.get("references") or ()), None)
    if shown is None:
        return {}
    info = probe(Path(str(shown)))
    return {"height": info.height, "width": info.width}


def read_config(path: Path) -> PublishedConfig:
    """Raises UsageError for a file that is no YAML mapping, or a value of another kind."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path}: cannot be read as YAML ({error}); name the program's file") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: holds no mapping; name the published program's configuration")
    found = {field: _value(path, content, key, kind) for field, (key, kind) in KEYS.items()}
    return PublishedConfig(**{field: value for field, value in found.items() if value is not None})


def _value(path: Path, content: object, key: str, kind: type) -> Any:
    """The value at a dotted key, None where there is none."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    whole_float = kind is float and type(content) is int
    if content is not None and type(content) is not kind and not whole_float:
        raise UsageError(f"--config {path}: {key}={content!r} must be of type {kind.__name__}")
    return content
