"""What a run leaves: a model folder beside the one it began with, or a LoRA file."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from loomvideo.checkpoint import component_folder, components
from loomvideo.training.config import TrainConfig
from loomvideo.training.lora import add_lora, save_lora
from loomvideo.training.recipe import Recipe


def write_result(
    config: TrainConfig, recipe: Recipe, model: nn.Module, weights: Mapping[str, Tensor], start: Path
) -> Path:
    """The trained ``weights`` put into ``model``, as the recipe built it anew, and written into the run's folder.

    A LoRA alone becomes ``lora/``, all else ``model/``; what was not trained is shared with the folder ``start``.
    """
    run = Path(config.run_dir)
    if config.model.lora is not None:
        add_lora(model, config.model.lora)
        return save_lora(model, weights, run / "lora")
    own = run / "model.own"
    recipe.save(filled(model, weights), own)
    write_model(start, run / "model", own)
    shutil.rmtree(own)
    return run / "model"


def filled(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The model with trained weights by name; the others stay."""
    wrong = model.load_state_dict(dict(weights), strict=False).unexpected_keys
    if wrong:
        raise ValueError(f"the model has no {wrong[0]}: it is not the one that was trained")
    return model.eval()


def write_model(start: Path, output: Path, own: Path) -> None:
    """A model folder of the components in ``own`` and of those of ``start``, linked where the file system can.

    It is written beside its place and renamed.
    """
    beside = output.with_name(output.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    shutil.copyfile(start / "model_index.json", beside / "model_index.json")
    for name in components(start):
        if (own / name).is_dir():
            shutil.copytree(own / name, beside / name)
        else:
            place = component_folder(start, name)
            weights = "*.safetensors*" if name == "tokenizer" else ""  # it may lie in the language model's folder
            shutil.copytree(place, beside / name, copy_function=_link, ignore=shutil.ignore_patterns(weights))
    shutil.rmtree(output, ignore_errors=True)
    beside.rename(output)


def _link(source: Any, target: Any) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
