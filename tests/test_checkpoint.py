"""Where models come from, and that weights are read strictly."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loomvideo import LoomVideoPipeline, LoomVideoTransformer3DModel
from loomvideo.checkpoint import (
    CheckpointError,
    check_model,
    read_denoiser,
    resolve_model,
    shared_components,
    written_whole,
)

FULL_KEYS = Path(__file__).parents[2] / "shared" / "golden" / "loomvideo" / "full_keys.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(scope="module")
def state(tiny_model) -> dict[str, torch.Tensor]:
    """The denoiser's tensors, in the order of its parameters."""
    denoiser = LoomVideoTransformer3DModel.from_pretrained(tiny_model / "transformer")
    return {name: value.detach() for name, value in denoiser.named_parameters()}


@pytest.fixture(scope="module")
def shapes(state) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def edit_weights(file: Path, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


# A model is named


def test_a_folder_names_itself(model):
    assert resolve_model(model) == resolve_model(str(model)) == model


def test_what_is_no_model_says_what_may_be_named(tmp_path):
    with pytest.raises(CheckpointError, match="say builtin, name a folder that exists, or a Hub id"):
        resolve_model("no-such-model")


def test_a_hub_id_that_cannot_be_reached_is_one_line():
    with pytest.raises(CheckpointError, match=r"^nobody/nothing is no folder here and cannot be had from the Hub"):
        resolve_model("nobody/nothing")


@pytest.mark.parametrize("name", ["gen_model.pth", "latest/gen_model.pth", "ema/ema.pth"])
def test_published_weights_are_not_a_model_yet_and_the_error_says_how_they_become_one(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=f"published weights: .* loomvideo import --checkpoint {tmp_path}"):
        resolve_model(tmp_path)


def test_another_pipeline_s_folder_is_refused_by_its_name(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(CheckpointError, match=r"holds a WanPipeline: one of .*LoomVideoPipeline"):
        resolve_model(tmp_path)


def test_a_model_index_may_only_name_classes_of_the_libraries_it_stands_on(model):
    index = json.loads((model / "model_index.json").read_text())
    index["scheduler"] = ["subprocess", "Popen"]
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"names subprocess\.Popen for scheduler"):
        LoomVideoPipeline.from_pretrained(model)


# Components that systems share


@pytest.fixture
def shared_model(model, tmp_path) -> Path:
    """The layout of the built-in folder: a system's own denoiser, and beside it what systems share."""
    system = tmp_path / "builtin" / "loomvideo"
    system.mkdir(parents=True)
    for name in ("transformer", "model_index.json"):
        (model / name).rename(system / name)
    for name in ("vae", "mllm", "scheduler"):
        (model / name).rename(system.parent / name)
    shutil.copytree(model / "tokenizer", system.parent / "mllm", dirs_exist_ok=True)
    return system


def test_shared_components_are_found_beside_the_system(shared_model, tiny_model):
    shared = LoomVideoPipeline.from_pretrained(shared_model, **shared_components(shared_model))
    whole = LoomVideoPipeline.from_pretrained(tiny_model)
    for name in ("transformer", "mllm", "vae"):
        expected = getattr(whole, name).state_dict()
        torch.testing.assert_close(getattr(shared, name).state_dict(), expected, rtol=0, atol=0)
    assert shared.tokenizer.get_vocab() == whole.tokenizer.get_vocab()


def test_shared_components_come_in_the_precision_asked_for(shared_model):
    shared = shared_components(shared_model, dtype=torch.float16)
    assert shared["vae"].dtype == shared["mllm"].dtype == torch.float16


def test_an_ordinary_folder_shares_nothing(tiny_model):
    assert shared_components(tiny_model) == {}


# Weights are strict


def test_a_saved_pipeline_passes_the_check(tiny_model):
    check_model(tiny_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("proj_out.bias"), r"1 missing: proj_out\.bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda tensors: tensors.update({"proj_out.bias": torch.zeros(3)}),
            r"1 mis-shaped: proj_out\.bias is \(3,\) and must be \(16,\)",
        ),
    ],
    ids=["missing", "unexpected", "mis-shaped"],
)
def test_a_tensor_that_does_not_belong_is_named(model, change, message):
    edit_weights(model / "transformer" / WEIGHTS, change)
    with pytest.raises(CheckpointError, match=message):
        LoomVideoPipeline.from_pretrained(model)


@pytest.mark.parametrize(("component", "file"), [("vae", WEIGHTS), ("mllm", "model.safetensors")])
def test_the_other_components_are_as_strict(model, component, file):
    edit_weights(model / component / file, lambda tensors: tensors.popitem())
    with pytest.raises(CheckpointError, match=f"{component} .* 1 missing"):
        check_model(model)


def test_a_long_list_of_names_ends_with_a_count(model):
    edit_weights(model / "transformer" / WEIGHTS, lambda tensors: [tensors.popitem() for _ in range(13)])
    with pytest.raises(CheckpointError, match=r"13 missing: .* and 3 more"):
        check_model(model)


def test_a_language_model_may_leave_out_a_head_that_is_its_embedding(model):
    config = json.loads((model / "mllm" / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (model / "mllm" / "config.json").write_text(json.dumps(config))
    edit_weights(model / "mllm" / "model.safetensors", lambda tensors: tensors.pop("lm_head.weight"))
    check_model(model)


def test_weights_that_are_cut_off_are_named(model):
    file = model / "vae" / WEIGHTS
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"vae/{WEIGHTS} cannot be read"):
        check_model(model)


# Published layouts


def whole_model(state):
    return {**{f"gen_model.{name}": tensor for name, tensor in state.items()}, "und_model.head": torch.zeros(1)}


def averaged(state):
    return {"decay": 0.9999, "optimization_step": 7, "shadow_params": list(state.values())}


def saved(content, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(content, file) if file.suffix == ".safetensors" else torch.save(content, file)
    return file


LAYOUTS = {
    "denoiser file": lambda state, folder: saved(state, folder / "gen_model.pth"),
    "denoiser safetensors": lambda state, folder: saved(state, folder / "gen_model.safetensors"),
    "whole-model file": lambda state, folder: saved(whole_model(state), folder / "model.bin"),
    "whole-model safetensors": lambda state, folder: saved(whole_model(state), folder / "model.safetensors"),
    "averaged file": lambda state, folder: saved(averaged(state), folder / "ema.pth"),
    "release folder": lambda state, folder: saved(state, folder / "gen_model.pth").parent,
    "latest folder": lambda state, folder: saved(state, folder / "latest" / "gen_model.pth").parents[1],
    "averaged folder": lambda state, folder: saved(averaged(state), folder / "ema" / "ema.pth").parents[1],
    "diffusers folder": lambda state, folder: saved(state, folder / "transformer" / WEIGHTS).parents[1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_gives_the_same_tensors(layout, state, shapes, tmp_path):
    read = read_denoiser(LAYOUTS[layout](state, tmp_path), shapes)
    torch.testing.assert_close(read, state, rtol=0, atol=0)


def test_shards_are_read_together(state, shapes, tmp_path):
    names = list(state)
    for number, part in enumerate((names[:5], names[5:]), start=1):
        saved(
            {name: state[name] for name in part},
            tmp_path / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors",
        )
    torch.testing.assert_close(read_denoiser(tmp_path, shapes), state, rtol=0, atol=0)


def test_averaged_weights_come_before_the_latest_and_the_latest_before_the_folder_s_own(state, shapes, tmp_path):
    def marked(value):
        return {name: torch.full_like(tensor, value) for name, tensor in state.items()}

    def first_value():
        return next(iter(read_denoiser(tmp_path, shapes).values())).flatten()[0].item()

    saved(marked(1.0), tmp_path / "gen_model.pth")
    assert first_value() == 1.0
    saved(marked(2.0), tmp_path / "latest" / "gen_model.pth")
    assert first_value() == 2.0
    saved(averaged(marked(3.0)), tmp_path / "ema" / "ema.pth")
    assert first_value() == 3.0


def test_a_published_file_with_a_wrong_name_is_refused(state, shapes, tmp_path):
    renamed = {name.replace("proj_out", "head"): tensor for name, tensor in state.items()}
    with pytest.raises(
        CheckpointError, match=r"2 missing: proj_out\.weight, proj_out\.bias; 2 unexpected: head\.weight"
    ):
        read_denoiser(saved(renamed, tmp_path / "gen_model.pth"), shapes)


def test_averaged_weights_are_matched_by_shape_and_the_first_that_differs_is_named(state, shapes, tmp_path):
    shifted = dict(list(state.items())[1:])
    with pytest.raises(CheckpointError, match=r"parameter 1, scale_shift_table, is \(1, 2, 32\)"):
        read_denoiser(saved(averaged(shifted), tmp_path / "ema.pth"), shapes)


def test_averaged_weights_must_be_as_many_as_the_parameters(state, shapes, tmp_path):
    fewer = dict(list(state.items())[:-1])
    with pytest.raises(CheckpointError, match=f"holds {len(state) - 1} tensors, but the denoiser has {len(state)}"):
        read_denoiser(saved(averaged(fewer), tmp_path / "ema.pth"), shapes)


def test_a_language_model_that_was_trained_too_is_not_left_out_in_silence(state, shapes, tmp_path):
    saved(state, tmp_path / "latest" / "gen_model.pth")
    (tmp_path / "latest" / "und_model.pth").touch()
    with pytest.raises(CheckpointError, match=r"und_model\.pth: the language model was trained too"):
        read_denoiser(tmp_path, shapes)


class Code:
    """Unpickled without care, this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False], ids=["today's format", "old format"])
def test_a_pickle_with_code_is_refused_by_file_and_rule_and_does_not_run(shapes, tmp_path, zipped):
    trap = tmp_path / "made by the pickle"
    file = tmp_path / "gen_model.pth"
    torch.save({"weight": Code(trap)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"gen_model\.pth is refused: .*weights_only.*mkdir") as refused:
        read_denoiser(file, shapes)
    assert "\n" not in str(refused.value)
    assert not trap.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not weights at all\n" * 20, bytes(range(256)) * 8], ids=["empty", "text", "bytes"]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_something_else_is_one_line(shapes, tmp_path, content, suffix):
    file = tmp_path / f"gen_model{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"gen_model{suffix}") as refused:
        read_denoiser(file, shapes)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_cut_off_is_refused(state, shapes, tmp_path):
    file = saved(state, tmp_path / "gen_model.pth")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"gen_model\.pth cannot be read"):
        read_denoiser(file, shapes)


def test_the_order_of_the_full_size_parameters_is_the_published_one():
    if not FULL_KEYS.exists():
        pytest.skip(f"{FULL_KEYS} is missing")
    published = json.loads(FULL_KEYS.read_text())["tensors"]
    with torch.device("meta"):
        denoiser = LoomVideoTransformer3DModel()
    assert [(name, list(value.shape)) for name, value in denoiser.named_parameters()] == list(published.items())


# Folders are written whole or not at all


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with written_whole(tmp_path / "new" / "model") as folder:
        (folder / "file").touch()
        assert not (tmp_path / "new" / "model").exists()
    assert [file.name for file in (tmp_path / "new" / "model").iterdir()] == ["file"]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model"]


def fill_and_fail(folder: Path, failure: BaseException):
    with written_whole(folder) as partial:
        (partial / "file").touch()
        raise failure


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), CheckpointError("no such tensor")], ids=lambda f: type(f).__name__
)
def test_a_folder_that_fails_half_way_leaves_nothing(tmp_path, failure):
    with pytest.raises(type(failure)):
        fill_and_fail(tmp_path / "model", failure)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="No space left"):
        fill_and_fail(tmp_path / "model", OSError(28, "No space left on device"))
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="exists already"), written_whole(tmp_path):
        pytest.fail("the block must not run")
