"""The words of the command line: parsers whose errors are one line, and the options that several commands share."""

import argparse
import copy
import difflib
import math
import os
from typing import NoReturn

from loomvideo.pipelines import PIPELINES
from loomvideo.systems.request import SPEEDS

SYSTEMS = tuple(PIPELINES)
TASKS = ("t2i", "t2v", "edit", "ref_edit", "mi2v", "i2v", "clone", "camera_clone")
PUBLISHED_TASKS = {"i2i": "edit", "v2v": "edit"} | {
    f"{task}-{size}": ours for task, ours in (("t2v", "t2v"), ("v2v", "edit")) for size in ("A14B", "1.3B")
}  # Omni-Video's own names
DTYPES = ("float32", "bfloat16", "float16")

# What a person may ask of a request and of the model. A recipe holds the same names; a batch line those of a request.
REQUEST_OPTIONS = (
    "prompt",
    "source",
    "references",
    "task",
    "height",
    "width",
    "num_frames",
    "window",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_visual",
    "negative_prompt",
    "seed",
    "think",
    "speed",
    "keep_source",
)
MODEL_OPTIONS = ("system", "model", "device", "dtype", "memory_limit", "weights", "compile", "lora")


class UsageError(ValueError):
    """What was typed cannot be done: the value, the rule and the way out, in one line."""


def is_first_process() -> bool:
    """Whether this is the one process, or of those that torchrun started the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def is_message(error: Exception) -> bool:
    """Errors that this package defines are told to the person; all others are mistakes of ours and need a traceback."""
    return type(error).__module__.startswith("loomvideo.")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the options' own names only: the published project's names (with underscores) work but are not listed."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = [name for name in action.option_strings if "_" not in name]
        return super()._format_action_invocation(shown)


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, with UsageError for what it does not understand."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": HelpFormatter, **settings})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def reject(self, unknown: list[str]) -> NoReturn:
        """Raise UsageError for words that no option takes, with the nearest option's name."""
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        nearest = difflib.get_close_matches(word.partition("=")[0], self._option_string_actions, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"see {self.prog} --help"
        raise UsageError(f"{word}: {self.prog} has no such option; {hint}")


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; give one such as 17") from None


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number; give one such as 2.5")
    return value


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Every default is None, which stands for "not given": the model's own values are the defaults."""
    content = parser.add_argument_group("what to make")
    content.add_argument("--prompt", metavar="TEXT", help="what to show, or what to change")
    content.add_argument(
        "--source",
        "--source_video_path",
        "--src_file_path",
        metavar="FILE",
        help="the clip or picture to edit; its sound is kept",
    )
    content.add_argument(
        "--reference",
        "--ref_image_paths",
        dest="references",
        action="extend",
        nargs="+",
        metavar="FILE",
        help="a picture to take from, @Image 1, @Image 2 ... in the prompt; may be repeated",
    )
    content.add_argument(
        "--task",
        type=lambda name: PUBLISHED_TASKS.get(name, name),
        choices=TASKS,
        help="named rarely: it follows from the prompt, source and references given",
    )
    content.add_argument(
        "--negative-prompt", "--negative_prompt", metavar="TEXT", help="what to stay away from (default: the model's)"
    )

    add_think(content)
    add_keep_source(content)

    size = parser.add_argument_group("size and length (default: the source's ratio and length at the model's own area)")
    size.add_argument("--height", "--output_height", type=whole_number, metavar="PIXELS")
    size.add_argument("--width", "--output_width", type=whole_number, metavar="PIXELS")
    size.add_argument(
        "--num-frames",
        "--num_frames",
        "--output_num_frames",
        "--frame_num",
        type=whole_number,
        metavar="N",
        help="frames to make; 1 makes a picture",
    )
    size.add_argument(
        "--window",
        type=whole_number,
        metavar="N",
        help="edit a source of any length N frames at a time (default: as many as the model makes, where more are asked for)",
    )
    size.add_argument(
        "--fps", "--sample_fps", type=number, metavar="RATE", help="frames per second (default: the model's rate)"
    )

    sampling = parser.add_argument_group("sampling (default: the model's own values)")
    sampling.add_argument(
        "--steps", "--num_inference_steps", "--sample_steps", dest="num_inference_steps", type=whole_number, metavar="N"
    )
    sampling.add_argument(
        "--guidance-scale", "--guidance_scale", type=number, metavar="SCALE", help="how strongly the words count"
    )
    sampling.add_argument(
        "--guidance-scale-visual",
        "--guidance_scale_visual",
        "--guidance_scale_image",
        type=number,
        metavar="SCALE",
        help="how strongly source and references count",
    )
    add_speed(sampling)
    sampling.add_argument(
        "--seed",
        "--base_seed",
        type=whole_number,
        metavar="N",
        help="the same seed gives the same file; -1 draws one (default: 0)",
    )


def add_speed(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--speed",
        choices=tuple(SPEEDS),
        help="balanced takes two fifths of the model's steps, fast a sixth (default: exact)",
    )


def add_think(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--think",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let the language model first say what is to be seen; the rewritten prompt is printed and kept in the recipe "
        "(default: the model's)",
    )


def add_keep_source(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--keep-source",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show the source's own pixels where an edit changes nothing, and not what the VAE makes of them (default: the "
        "model's)",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument(
        "--system", choices=SYSTEMS, help="the system to run (default: the model's own; of the built-in ones loomvideo)"
    )
    model.add_argument("--model", metavar="NAME", help="builtin (default), a folder, or a Hugging Face Hub id")
    model.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    model.add_argument("--dtype", choices=DTYPES, help="precision (default: bfloat16 on cuda, else float32)")
    model.add_argument(
        "--memory-limit", metavar="SIZE", help="stay within 24GB, 16GB, 12GB ...: slower where that is short"
    )
    model.add_argument(
        "--weights",
        choices=("fp8", "int8"),
        help="keep the network's weights in eight bits: less memory, no more speed; int8 is nearer to them and needs torchao",
    )
    model.add_argument(
        "--compile",
        action="store_true",
        default=None,
        help="compile the network's blocks: faster steps behind a first one that takes a minute",
    )
    model.add_argument(
        "--lora", action="append", metavar="FILE[:WEIGHT]", help="a LoRA on the denoiser; may be repeated"
    )


def given(arguments: argparse.Namespace, names: tuple[str, ...]) -> dict:
    """The options among ``names`` that were typed."""
    typed = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in typed.items() if value is not None}
