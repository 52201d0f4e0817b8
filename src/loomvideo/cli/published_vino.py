"""VINO's published command line (fact sheet 6.1, 6.5): its flags, and its task files as a batch.

A flag that is not given leaves the choice to the model, whose defaults are the settings documented for each task; the
program itself would make one frame of 640 x 640. Paths are data: nothing is evaluated.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loomvideo.cli.batch import Line, LineError, Requests, checked_name
from loomvideo.cli.options import MODEL_OPTIONS, UsageError
from loomvideo.media.clip import probe
from loomvideo.media.letterbox import box_size
from loomvideo.media.limits import check_file
from loomvideo.systems.request import ModelLimits

OUTPUT = Path("output")
RECORD_TASKS = ("t2i", "t2v", "i2v", "ti2v", "ti2i", "tv2v", "tiv2v")
STILL = ("t2i", "ti2i")
SIZED_BY_FLAGS = ("t2i", "t2v", "ti2v")  # others take the size of what they are shown
SHARED_OPTIONS = (
    *MODEL_OPTIONS,
    "seed",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_visual",
    "think",
)


def add_options(group: "argparse._ArgumentGroup") -> None:
    """Flags that have no name of ours; the others stand beside it, as --output_height does with --height."""
    group.add_argument("--json_path", type=Path, help=argparse.SUPPRESS)
    group.add_argument("--negative_prompt_video", help=argparse.SUPPRESS)
    for origin in ("mm_encoder", "vae", "transformer"):
        group.add_argument(f"--{origin}_path", type=Path, help=argparse.SUPPRESS)


def model_settings(arguments: argparse.Namespace) -> tuple:
    """Where language model and base come from: Hub ids, unless the flags name folders."""
    from loomvideo.cli.import_vino import VinoWeights

    places = {
        part: _repository(getattr(arguments, f"{part}_path"), part)
        for part in ("vae", "transformer")
        if getattr(arguments, f"{part}_path") is not None
    }
    if len(set(places.values())) > 1:
        raise UsageError(
            f"--vae_path and --transformer_path lie in {places['vae']} and {places['transformer']}: name one HunyuanVideo "
            "repository, which holds both"
        )
    base = next(iter(places.values()), VinoWeights.base)
    return str(arguments.mm_encoder_path or VinoWeights.mllm), str(base)


def assemble(arguments: argparse.Namespace, folder: Path) -> None:
    """Write a model folder of the published checkpoint."""
    from loomvideo.cli.import_steps import import_weights
    from loomvideo.cli.import_vino import VinoWeights

    mllm, base = model_settings(arguments)
    import_weights(VinoWeights(), arguments.checkpoint, mllm=mllm, base=base, output=folder)


def requests(arguments: argparse.Namespace, options: Mapping[str, Any]) -> Requests:
    """What --json_path asks for, checked as far as can be without a model.

    Sizes, length and negative prompt are not among what holds for every record: their meaning depends on its task.
    """
    own = [name for name in ("prompt", "source", "references", "task") if name in options]
    own += [name for name in ("batch", "like") if getattr(arguments, name) is not None]
    if own:
        raise UsageError(f"--{own[0]}: the records of --json_path say that themselves, so leave it out")
    check_file(arguments.json_path)
    records = read_records(arguments.json_path)
    typed = {**options, "negative_prompt_video": arguments.negative_prompt_video}
    return Requests(
        folder=arguments.output_dir or arguments.output or OUTPUT,
        options=_typed(options, *SHARED_OPTIONS),
        read=lambda limits: list(lines_of(records, typed, limits)),
    )


def read_records(path: Path) -> list:
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"--json_path {path}: no JSON ({error}); name a list of records") from error
    if not isinstance(records, list):
        raise UsageError(f"--json_path {path}: holds no list; name a list of records with index, task and caption")
    return records


def lines_of(records: Sequence[object], options: Mapping[str, Any], limits: ModelLimits) -> Iterator[Line]:
    """Every record as a request; one that is none says so and stands in nobody's way."""
    taken: dict[str, int] = {}
    for number, record in enumerate(records, start=1):
        name = None
        try:
            if not isinstance(record, dict):
                raise LineError("no JSON object; write index, task and caption")
            name = checked_name(record.get("index"), taken)
            taken[name] = number
            yield Line(number, name, request_of_record(record, options, limits))
        except ValueError as error:
            yield Line(number, name, {}, f"record {number}: {error}")


def request_of_record(record: Mapping[str, Any], options: Mapping[str, Any], limits: ModelLimits) -> dict:
    """A record as options of a request of its own: nothing stays from the record before it."""
    task, caption = record.get("task"), record.get("caption")
    if task not in RECORD_TASKS:
        raise LineError(f"task={task!r}: there is no such task; use one of {', '.join(RECORD_TASKS)}")
    if not isinstance(caption, str):
        raise LineError(f"caption={caption!r}: must be text")
    has_base = record.get("ref_image_have_base") or False
    pictures, clip = _paths(record, "ref_image_paths"), _paths(record, "ref_video_path")
    if not isinstance(has_base, bool) or len(clip) > 1:
        raise LineError("ref_image_have_base must be true or false, and ref_video_path one path")
    return {
        "prompt": caption,
        **_inputs(task, pictures, clip, has_base, limits),
        **({"num_frames": 1} if task in STILL else _typed(options, "num_frames")),
        **(_typed(options, "height", "width") if task in SIZED_BY_FLAGS else {}),
        **_negative_prompt(options, still=task in STILL or options.get("num_frames") == 1),
    }


def _inputs(task: str, pictures: list[str], clip: list[str], has_base: bool, limits: ModelLimits) -> dict[str, Any]:
    """Task, source and references as a request of this package names them (fact sheet 6.1)."""
    if task in ("tv2v", "tiv2v"):
        if not clip:
            raise LineError(f"task={task} edits a clip: give ref_video_path")
        return {"task": "ref_edit" if pictures else "edit", "source": clip[0], "references": pictures}
    if clip:
        raise LineError(f"task={task} takes no ref_video_path: use tv2v or tiv2v, or leave it out")
    if task in ("t2i", "t2v"):
        return {"task": task, "references": pictures}
    if not pictures:
        raise LineError(f"task={task} starts from pictures: give ref_image_paths")
    if task == "ti2i" and (has_base or len(pictures) == 1):
        *references, source = pictures
        return {"task": "ref_edit" if references else "edit", "source": source, "references": references}
    if task == "i2v" and len(pictures) == 1:
        return {"task": "i2v", "references": pictures}
    size = {} if task == "ti2v" else _size_of(pictures[-1], limits)
    return {"task": "mi2v", "references": pictures, **size}


def _size_of(picture: str, limits: ModelLimits) -> dict[str, int]:
    """The size of a letterboxed picture."""
    info = probe(picture)
    area = limits.reference_area or limits.area
    height, width = box_size(info.height, info.width, area, limits.size_multiple)
    return {"height": height, "width": width}


def _negative_prompt(options: Mapping[str, Any], *, still: bool) -> dict[str, str]:
    """An empty text is one, too; none leaves it to the model."""
    text = options.get("negative_prompt" if still else "negative_prompt_video")
    return {} if text is None else {"negative_prompt": text}


def _typed(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def _paths(record: Mapping[str, Any], name: str) -> list[str]:
    """A path or a list of them; nothing for null and for an empty text."""
    value = record.get(name) or []
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise LineError(f"{name}={value!r}: must be a path or a list of paths")
    return paths


def _repository(path: Path, part: str) -> Path:
    """The repository that a flag names, itself or by its folder of one part."""
    return path.parent if path.name == part and not (path / part).is_dir() else path
