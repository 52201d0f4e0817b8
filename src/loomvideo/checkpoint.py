"""Where weights come from, and the rules they are read by.

A model is a folder in diffusers' layout: "builtin", a local one, or one from the Hub. The built-in systems share
components, which lie beside their folders. The published releases are other layouts: `read_denoiser` reads LoomVideo's
(fact sheet 9.1), `read_vino` VINO's (fact sheet 2). Weights are strict: a missing, unexpected or mis-shaped tensor is an
error that names it.
"""

import importlib
import json
import logging
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from loomvideo.pipelines import PIPELINES

log = logging.getLogger(__name__)

BUILTIN = Path(__file__).parent / "builtin"
MODEL_FILES = ["README.md", "model_index.json", "*/*.json", "*/*.safetensors", "*/*.jinja", "*/*.txt"]
TRUSTED_LIBRARIES = ("diffusers", "transformers", "loomvideo")  # whose classes a model_index.json may name
PRECISION_ARGUMENT = {ModelMixin: "torch_dtype", PreTrainedModel: "dtype"}  # of the libraries' from_pretrained
TOKENIZER_BESIDE = "mllm"  # a shared tokenizer lies in the shared language model's folder

# Where a published checkpoint keeps the denoiser, best first.
PUBLISHED_FILES = ("ema/ema.pth", "latest/gen_model.pth", "gen_model.pth")
WHOLE_MODEL_PREFIX = "gen_model."
VINO_FILE = "vino.ckpt"
# Which entries of it belong to which component, the longest prefix first.
VINO_PREFIXES = {"mllm": "mm_encoder.mm_encoder.", "connector": "mm_encoder.", "transformer": "transformer."}
MAX_NAMES = 10  # in an error

Model = TypeVar("Model", bound=nn.Module)
Shapes = Mapping[str, Sequence[int]]


class CheckpointError(ValueError):
    """Weights that are not there, cannot be read or do not fit: what, the rule and the way out, in one line."""


# --- model folders


def resolve_model(name: str | Path, *, system: str | None = None) -> Path:
    """The folder of a model: "builtin", a local folder, or a Hub id, which is downloaded.

    Raises CheckpointError for what is no model folder, and for one of another system than the named one.
    """
    folder = BUILTIN / (system or "loomvideo") if str(name) == "builtin" else local_folder(name, MODEL_FILES)
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(_no_model(name, folder))
    found = system_of(folder)
    if system not in (None, found):
        raise CheckpointError(f"{name} is a model of {found} and not of {system}: say --system {found} or nothing")
    return folder


def system_of(folder: Path) -> str:
    """The system whose pipeline a model folder names."""
    named = model_index(folder).get("_class_name")
    for system, pipeline in PIPELINES.items():
        if named == pipeline:
            return system
    raise CheckpointError(f"{folder} holds a {named}: one of {', '.join(PIPELINES.values())} is expected")


def pipeline_class(system: str) -> Any:
    """The pipeline of a system."""
    return getattr(importlib.import_module(f"loomvideo.systems.{system}"), PIPELINES[system])


def model_index(folder: Path) -> dict[str, Any]:
    """What model_index.json says: the components' classes, and the pipeline's configuration."""
    return read_json(folder / "model_index.json")


def components(folder: Path) -> dict[str, Any]:
    """The class of every component of a model folder."""
    entries = {name: entry for name, entry in model_index(folder).items() if isinstance(entry, list)}
    return {name: _component_class(folder, name, entry) for name, entry in entries.items() if entry[0] is not None}


def component_folder(folder: Path, component: str) -> Path:
    """Where a component lies: in the model's folder or, shared by several systems, beside it."""
    beside = folder.parent / (TOKENIZER_BESIDE if component == "tokenizer" else component)
    if not (folder / component).is_dir() and beside.is_dir():
        return beside
    return folder / component


def shared_components(
    folder: Path, *, dtype: torch.dtype = torch.float32, without: Collection[str] = ()
) -> dict[str, Any]:
    """The loaded components that do not lie in the model's own folder; none for an ordinary folder."""
    loaded = {}
    for name, component in components(folder).items():
        place = component_folder(folder, name)
        if place.parent != folder and name not in without:
            precision: Any = {
                PRECISION_ARGUMENT[kind]: dtype for kind in PRECISION_ARGUMENT if issubclass(component, kind)
            }
            loaded[name] = component.from_pretrained(place, **precision)
    return loaded


def check_model(folder: Path) -> None:
    """Compare the tensors of every component's files with what its configuration makes, reading names and shapes only.

    Raises CheckpointError with the names; without this check the libraries would fill missing tensors with noise.
    """
    for name, component in components(folder).items():
        if issubclass(component, nn.Module):
            place = component_folder(folder, name)
            found = stored_shapes(place)
            check_shapes(str(place), found, expected_shapes(component, place, found))


def expected_shapes(component: type[nn.Module], folder: Path, found: Collection[str]) -> dict[str, torch.Size]:
    """Name and shape of all that a component's folder must hold, from its configuration.

    A tensor that is tied to another one, as a language model's head may be to its embedding, need not be found.
    """
    model = empty_model(component, folder)
    tied = getattr(model, "all_tied_weights_keys", {})
    return {name: tensor.shape for name, tensor in model.state_dict().items() if name in found or name not in tied}


def empty_model(component: type[Model], folder: Path) -> Model:
    """A model built from its folder's configuration on the meta device: names and shapes without memory."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json: a model's folder holds its configuration beside its weights"
        )
    builder: Any = component
    with torch.device("meta"):
        if issubclass(component, PreTrainedModel):
            return builder(builder.config_class.from_pretrained(folder))
        return builder.from_config(builder.load_config(folder))


def stored_shapes(folder: Path) -> dict[str, list[int]]:
    """Name and shape of every tensor in a folder's safetensors files, from their headers."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder} has no .safetensors file: weights are missing, so copy or import the model again"
        )
    return {name: shape for file in files for name, shape in _header(file).items()}


def check_shapes(place: str, found: Shapes, expected: Shapes) -> None:
    """Raise CheckpointError, naming them, for tensors that are missing, unexpected or of another shape."""
    mis_shaped = [
        f"{name} is {tuple(found[name])} and must be {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    wrong = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "mis-shaped": mis_shaped,
    }
    if any(wrong.values()):
        named = "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in wrong.items() if names)
        raise CheckpointError(f"{place} does not hold the tensors that its configuration needs: {named}")


def num_parameters(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


# --- folders on this machine and on the Hub


def local_folder(name: str | Path, patterns: Sequence[str]) -> Path:
    """A local folder, or the files of a Hub repository that match the patterns, downloaded if need be."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_id(name):
        raise CheckpointError(_no_model(name, folder))
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(patterns)))
    except OSError as error:
        raise CheckpointError(_unreachable(name, error)) from error


def download_sizes(name: str, patterns: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """Size in bytes of every file of a Hub repository that matches, and whether it is to be downloaded. No download."""
    from huggingface_hub import snapshot_download

    try:
        files = snapshot_download(name, allow_patterns=list(patterns), dry_run=True)
    except OSError as error:
        raise CheckpointError(_unreachable(name, error)) from error
    return {file.filename: (file.file_size or 0, file.will_download) for file in files}


def is_hub_id(name: str | Path) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)) is not None


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes its name when the block ends; if the block fails, nothing is left of it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists already: nothing is written over, so name another or remove it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror}; name another folder") from error
    try:
        partial.chmod(0o755)  # mkdtemp's own is for the owner alone
        yield partial
        partial.replace(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {error}; nothing was left there") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# --- published checkpoints


def read_denoiser(checkpoint: Path, expected: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The denoiser's tensors, by name, from any published layout (fact sheet 9.1).

    Args:
        checkpoint: a file (.pth, .pt, .bin, .safetensors) of the denoiser or of the whole model, or a folder: its
            `ema/ema.pth`, else `latest/gen_model.pth`, else `gen_model.pth`, else safetensors.
        expected: shape of every parameter, in the order of the denoiser's parameters; averaged weights have no names.

    Raises:
        CheckpointError: no such layout, a pickle with code in it, or tensors that are not exactly the expected ones.
    """
    files = denoiser_files(checkpoint)
    content = {name: value for file in files for name, value in load_values(file).items()}
    if "shadow_params" in content:
        return _by_position(files[0], content["shadow_params"], expected)
    state = _denoiser_part(content)
    _check_tensors(checkpoint, state)
    check_shapes(str(checkpoint), {name: tensor.shape for name, tensor in state.items()}, expected)
    return state


def denoiser_files(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that hold the denoiser: one, or all shards of a diffusers folder."""
    if checkpoint.is_file():
        return [checkpoint]
    for name in PUBLISHED_FILES:
        file = checkpoint / name
        if (file.parent / "und_model.pth").exists():
            raise CheckpointError(
                f"{file.parent} holds und_model.pth: the language model was trained too and would be needed with the "
                "denoiser, which is not supported; remove that file to import with the one named by --mllm"
            )
        if file.is_file():
            return [file]
    for folder in (checkpoint / "transformer", checkpoint):
        if shards := sorted(folder.glob("*.safetensors")):
            return shards
    raise CheckpointError(
        f"{checkpoint} is no checkpoint: give a .pth or .safetensors file, or a folder with {', '.join(PUBLISHED_FILES)} "
        "or safetensors files"
    )


def read_vino(checkpoint: Path, expected: Mapping[str, Shapes]) -> dict[str, dict[str, Tensor]]:
    """The tensors of every component, by name, from VINO's one file or its folder.

    Args:
        expected: shapes of the components "transformer" and "connector", by name.

    Returns:
        These two, and as "mllm" what the file holds of the language model, which is nothing where that was frozen.

    Raises:
        CheckpointError: as read_denoiser; names are the file's own.
    """
    file = vino_file(checkpoint)
    content = load_values(file)
    _check_tensors(file, content)
    found = {name: tensor.shape for name, tensor in content.items() if not name.startswith(VINO_PREFIXES["mllm"])}
    needed = {VINO_PREFIXES[part] + name: shape for part, shapes in expected.items() for name, shape in shapes.items()}
    check_shapes(str(file), found, needed)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in VINO_PREFIXES}
    for name, tensor in content.items():
        part, prefix = next(item for item in VINO_PREFIXES.items() if name.startswith(item[1]))
        parts[part][name.removeprefix(prefix)] = tensor
    return parts


def vino_file(checkpoint: Path) -> Path:
    """The file that VINO's weights are in."""
    file = checkpoint / VINO_FILE if checkpoint.is_dir() else checkpoint
    if not file.is_file():
        raise CheckpointError(f"{checkpoint} is no checkpoint: give {VINO_FILE}, or the folder that holds it")
    return file


def check_same(checkpoint: Path, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Compare tensors of a checkpoint with a folder's safetensors files: what both hold must be the same.

    Raises CheckpointError with the names of those that differ, and of those that the folder has not.
    """
    stored = {name: file for file in sorted(folder.glob("*.safetensors")) for name in _header(file)}
    other = [
        name
        for name, tensor in tensors.items()
        if name not in stored or not torch.equal(_stored(stored[name], name).float(), tensor.float())
    ]
    if other:
        raise CheckpointError(
            f"{checkpoint} holds a language model that differs from {folder} in {_listed(other)}: give the one that it "
            "was trained with as --mllm"
        )


def _stored(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)


def _check_tensors(checkpoint: Path, state: Mapping[str, Any]) -> None:
    no_tensors = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if no_tensors:
        raise CheckpointError(f"{checkpoint} is no state dict: {_listed(no_tensors)} hold something else than tensors")


def load_values(file: Path) -> dict[str, Any]:
    """What a file of named tensors and plain values holds, in safetensors or in PyTorch's own form; nothing in it is run."""
    if file.suffix == ".safetensors":
        return _load_safetensors(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        named = ", ".join(re.findall(r"GLOBAL (\S+)", str(error)))
        raise CheckpointError(
            f"{file} is refused: only tensors and plain values are read from a pickle (weights_only), and this one is "
            f"{f'code that calls {named}' if named else 'something else'}; get a file of tensors, best as safetensors"
        ) from error
    except Exception as error:  # the unpickler raises errors of many kinds on a file that is damaged or something else
        raise CheckpointError(
            f"{file} cannot be read, it is damaged or no PyTorch file: {_first_line(error)}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} holds a {type(content).__name__}, not a state dict: give a file of named tensors"
        )
    return content


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read, it may be cut off: {_first_line(error)}") from error


def _header(file: Path) -> dict[str, list[int]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read, it may be cut off: {_first_line(error)}") from error


def _by_position(file: Path, tensors: Any, expected: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Averaged weights: a list in the order of the trained parameters, which are all of the denoiser's."""
    if not isinstance(tensors, list) or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise CheckpointError(f"{file}: shadow_params is no list of tensors; give a checkpoint with named tensors")
    for number, (tensor, (name, shape)) in enumerate(zip(tensors, expected.items(), strict=False), start=1):
        if tensor.shape != shape:
            raise CheckpointError(
                f"{file}: tensor {number} is {tuple(tensor.shape)}, but parameter {number}, {name}, is {tuple(shape)}: "
                "these are not this denoiser's averaged weights"
            )
    if len(tensors) != len(expected):
        raise CheckpointError(f"{file} holds {len(tensors)} tensors, but the denoiser has {len(expected)} parameters")
    return dict(zip(expected, tensors, strict=True))


def _denoiser_part(content: Mapping[str, Any]) -> dict[str, Any]:
    """The denoiser's entries of a whole model's state dict; any other is given back as it is."""
    part = {
        name.removeprefix(WHOLE_MODEL_PREFIX): value
        for name, value in content.items()
        if name.startswith(WHOLE_MODEL_PREFIX)
    }
    if not part:
        return dict(content)
    others = sorted({name.split(".")[0] for name in content if not name.startswith(WHOLE_MODEL_PREFIX)})
    if others:
        log.warning("of the whole model, these parts are not read: %s", ", ".join(others))
    return part


# --- reading and telling


def _component_class(folder: Path, name: str, entry: Sequence[str]) -> Any:
    library, class_name = entry
    if library.split(".")[0] not in TRUSTED_LIBRARIES:
        raise CheckpointError(
            f"{folder / 'model_index.json'} names {library}.{class_name} for {name}: only classes of "
            f"{', '.join(TRUSTED_LIBRARIES)} are loaded"
        )
    try:
        return getattr(importlib.import_module(library), class_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / 'model_index.json'} names {library}.{class_name}, which is not there"
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """Raises CheckpointError for a file that is missing or holds something else."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from error


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _no_model(name: str | Path, folder: Path) -> str:
    if str(name) == "builtin":
        return f"the built-in model is not part of this installation: {folder} is missing; name a folder or a Hub id"
    if not folder.exists():
        return f"{name} is no model: say builtin, name a folder that exists, or a Hub id such as organisation/name"
    published = folder.is_file() or any((folder / file).exists() for file in (*PUBLISHED_FILES, VINO_FILE))
    what = "published weights" if published else "no model_index.json"
    is_vino = folder.name == VINO_FILE or (folder / VINO_FILE).exists()
    command = "loomvideo import --system vino" if is_vino else "loomvideo import"
    return f"{name} is no model folder, it holds {what}: make one with {command} --checkpoint {name} --output FOLDER"


def _unreachable(name: str | Path, error: Exception) -> str:
    return (
        f"{name} is no folder here and cannot be had from the Hub ({_first_line(error)}): check the name and the "
        "connection, or give a folder"
    )
