"""Omni-Video's published command lines, of both releases (fact sheet 9.4 and 10.7).

Flags with a name of ours stand beside it, as --frame_num does with --num-frames; the others are here.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loomvideo.cli.options import UsageError, number, whole_number
from loomvideo.media.clip import probe

if TYPE_CHECKING:
    from loomvideo.cli.import_omnivideo import OmniVideoWeights

SECOND_SEED = 1818  # of the second release's text-to-video program
SIZES = {"image": (480, 480), "video": (352, 640)}  # height and width of an edit of the first release ...
SECOND_SIZE = (480, 832)  # ... and of the second

# Read, and without effect: the weights say their own sizes, and several processes would make the same video.
UNUSED = (
    *("adapter_in_channels", "adapter_out_channels", "adapter_query_length", "use_visual_context_adapter"),
    *("visual_context_adapter_patch_size", "classifier_free_ratio", "unconditioned_context_length", "ar_query"),
    *("ar_model_num_video_frames", "ar_conv_mode", "qwen3vl_dtype", "qwen3vl_device_map", "qwen3vl_temperature"),
    *("video_max_duration", "sampling_rate", "use_usp", "sp_size", "t5_fsdp", "dit_fsdp"),
)


def add_options(group: "argparse._ArgumentGroup") -> None:
    """Flags that have no name of ours."""

    def add(name: str, **settings: Any) -> None:
        group.add_argument(f"--{name}", help=argparse.SUPPRESS, **settings)

    add("size")
    add("sample_guide_scale", type=number)
    add("sample_solver", choices=("unipc", "dpm++"))
    add("sample_shift", type=number)
    add("max_context_len", type=whole_number)
    add("skip_num", type=whole_number)
    add("condition_mode")
    add("qwen3vl_model_path")
    for name in ("new_checkpoint", "new_checkpoint_high", "new_checkpoint_low"):
        add(name, type=Path)
    for name in ("use_visual_as_input", *UNUSED):
        add(name, nargs="?", const="true")


def is_meant(arguments: argparse.Namespace) -> bool:
    """Whether a flag was typed that no other program has."""
    names = (
        *(
            "size",
            "sample_guide_scale",
            "sample_solver",
            "sample_shift",
            "max_context_len",
            "skip_num",
            "condition_mode",
        ),
        *("qwen3vl_model_path", "new_checkpoint", "new_checkpoint_high", "new_checkpoint_low", "use_visual_as_input"),
        *UNUSED,
    )
    return any(getattr(arguments, name) is not None for name in names)


def defaults(arguments: argparse.Namespace, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags say and leave to their program, as options; nothing where none was typed."""
    if not is_meant(arguments):
        return {}
    check_flags(arguments)
    index = index_of(arguments, options)
    second, source = index["second"], options.get("source")
    chosen: dict[str, Any] = {}
    if arguments.sample_guide_scale is not None:
        added = 0 if second or index["guidance"] == "released" else 1  # to the formula's own unit (fact sheet 8)
        chosen["guidance_scale"] = arguments.sample_guide_scale + added
    if arguments.size is not None:
        chosen["height"], chosen["width"] = size_of(arguments.size)
    elif source is not None and not {"height", "width"} & set(options):
        kind = probe(Path(str(source))).kind
        chosen["height"], chosen["width"] = SECOND_SIZE if second else SIZES[kind]
    if second and source is None:
        chosen["seed"] = SECOND_SEED
    return chosen


def check_flags(arguments: argparse.Namespace) -> None:
    """Raise UsageError for what no published weights were made for, or would be read otherwise here."""
    if arguments.use_visual_as_input not in (None, "false", "False"):
        raise UsageError("--use_visual_as_input: no published weights were trained with it, so leave it out")
    if arguments.condition_mode not in (None, "full"):
        raise UsageError(f"--condition_mode {arguments.condition_mode}: there is only full; leave it out")
    if arguments.skip_num:
        raise UsageError(f"--skip_num {arguments.skip_num}: a source is read from its beginning, so cut it before")
    pair = [arguments.new_checkpoint_high, arguments.new_checkpoint_low]
    if None in pair and any(pair):
        raise UsageError("--new_checkpoint_high and --new_checkpoint_low go together: give both, or --new_checkpoint")
    files = [file for file in (arguments.new_checkpoint, *pair) if file is not None]
    if files and arguments.checkpoint is None:
        raise UsageError(
            "--new_checkpoint without --ckpt_dir, which holds the text encoder, the VAE and special_tokens.pkl"
        )
    if missing := [str(file) for file in files if not file.is_file()]:
        raise UsageError(f"--new_checkpoint: there is no file {missing[0]}")


def size_of(text: str) -> tuple[int, int]:
    """Height and width of "832*480", which is width * height."""
    found = re.fullmatch(r"(\d+)\s*[*x]\s*(\d+)", text.strip())
    if found is None:
        raise UsageError(f"--size {text}: write width*height, such as 832*480")
    return int(found[2]), int(found[1])


def index_of(arguments: argparse.Namespace, options: Mapping[str, Any]) -> dict[str, Any]:
    """Which release the model is of, and its form of guidance. The flags must not contradict a model folder.

    Raises UsageError for a model of another system.
    """
    from loomvideo.checkpoint import model_index, resolve_model, system_of

    if arguments.checkpoint is not None and options.get("system") == "omnivideo":
        return {"second": is_second(weights_of(arguments)), "guidance": "standard"}
    folder = resolve_model(str(options.get("model", "builtin")), system=options.get("system"))
    if system_of(folder) != "omnivideo":
        raise UsageError("these flags are Omni-Video's: say --system omnivideo, or name a model of it with --model")
    check_folder(arguments, folder)
    index = model_index(folder)
    return {"second": index.get("state_projection", [None])[0] is not None, "guidance": index.get("guidance")}


def is_second(weights: "OmniVideoWeights") -> bool:
    from loomvideo.cli.import_omnivideo import SecondReleaseWeights

    return isinstance(weights, SecondReleaseWeights)


def check_folder(arguments: argparse.Namespace, folder: Path) -> None:
    """What a model folder settles can be said again, and not otherwise."""
    from loomvideo.checkpoint import component_folder, model_index, read_json

    scheduler = read_json(component_folder(folder, "scheduler") / "scheduler_config.json")
    solver = {"WanUniPCScheduler": "unipc", "WanDPMSolverScheduler": "dpm++"}
    settled = {
        "sample_solver": solver.get(model_index(folder)["scheduler"][1]),
        "sample_shift": scheduler.get("flow_shift"),
        "max_context_len": read_json(component_folder(folder, "transformer") / "config.json").get("max_context_len"),
    }
    for name, value in settled.items():
        typed = getattr(arguments, name)
        if typed not in (None, value):
            raise UsageError(
                f"--{name} {typed}: the model folder {folder} says {value}; leave it out, or give the published weights "
                "with --checkpoint"
            )


# --- published weights as they are


def model_settings(arguments: argparse.Namespace) -> tuple:
    """What beside the files of --checkpoint makes the model folder."""
    weights = weights_of(arguments)
    times = [file.stat().st_mtime_ns for file in weights.unified]
    return (
        *origins(arguments, weights).values(),
        weights.unified,
        times,
        weights.solver,
        weights.shift,
        weights.max_context_len,
    )


def assemble(arguments: argparse.Namespace, folder: Path) -> None:
    """Write a model folder of the published checkpoint."""
    from loomvideo.cli.import_steps import import_weights

    weights = weights_of(arguments)
    import_weights(weights, arguments.checkpoint, **origins(arguments, weights), output=folder)


def weights_of(arguments: argparse.Namespace) -> "OmniVideoWeights":
    """The release of --ckpt_dir, or that of the files of --new_checkpoint, which then stand in for those of its own."""
    from dataclasses import replace

    from loomvideo.cli.import_omnivideo import SecondReleaseWeights, find_release

    folder: Path = arguments.checkpoint
    if arguments.new_checkpoint is not None:
        weights = SecondReleaseWeights((arguments.new_checkpoint,), folder, max_context_len=6272)
    elif arguments.new_checkpoint_high is not None:
        experts = (arguments.new_checkpoint_high, arguments.new_checkpoint_low)
        weights = SecondReleaseWeights(experts, folder, max_context_len=6144)
    else:
        weights = find_release(folder)
    settings = {
        "solver": arguments.sample_solver,
        "shift": arguments.sample_shift,
        "max_context_len": arguments.max_context_len,
    }
    return replace(weights, **{name: value for name, value in settings.items() if value is not None})


def origins(arguments: argparse.Namespace, weights: "OmniVideoWeights") -> dict[str, str]:
    """Where language model and base come from: Hub ids, unless a flag or the checkpoint's own folder has them."""
    from loomvideo.cli.import_omnivideo import WAN_VAE

    inside = [folder for folder in (weights.folder / "wan/wanxiang1_3b", weights.folder) if [*folder.glob(WAN_VAE)]]
    base = str(inside[0]) if inside else weights.base
    return {"mllm": arguments.qwen3vl_model_path or weights.mllm, "base": base}
