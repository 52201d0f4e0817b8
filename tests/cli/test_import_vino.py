"""VINO's one file, a language model and HunyuanVideo's VAE become one folder; see also tests/cli/test_import.py."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from loomvideo import VinoPipeline
from loomvideo.cli.import_vino import PUBLISHED_LIMITS, VinoWeights
from loomvideo.models.vino_chat import FIRST_BUDGETS
from loomvideo.systems.request import Task
from vino_parts import published_vino

BASE_REPOSITORY = [
    "model_index.json",
    "text_encoder/model-00001-of-00004.safetensors",
    "text_encoder_2/model.safetensors",
    "tokenizer/tokenizer.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00006.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
]


@pytest.fixture(scope="module")
def original(tiny_vino):
    return VinoPipeline.from_pretrained(tiny_vino)


@pytest.fixture
def sources(original, tmp_path) -> SimpleNamespace:
    """What a person downloads, in small, and where the model shall be."""
    checkpoint = published_vino(original, tmp_path)
    return SimpleNamespace(
        checkpoint=checkpoint,
        mllm=tmp_path / "qwen-4b",
        base=tmp_path / "hunyuan",
        output=tmp_path / "models" / "imported",
    )


@pytest.fixture
def imported(loomvideo, sources):
    def run(*more):
        named = [word for name, value in vars(sources).items() for word in (f"--{name}", value)]
        return loomvideo("import", "--system", "vino", *named, *more)

    return run


def test_an_imported_folder_is_a_model_with_the_tensors_of_its_sources(imported, sources, original):
    assert imported("--dtype", "float32").status == 0
    made = VinoPipeline.from_pretrained(sources.output)
    for name in ("transformer", "connector", "mllm", "vae"):
        expected = getattr(original, name).state_dict()
        torch.testing.assert_close(getattr(made, name).state_dict(), expected, rtol=0, atol=0)
    assert made.tokenizer.get_vocab() == original.tokenizer.get_vocab()


def test_an_imported_model_has_the_published_settings(imported, sources):
    imported()
    made = VinoPipeline.from_pretrained(sources.output)
    assert made.limits == PUBLISHED_LIMITS
    assert made.first_budgets == FIRST_BUDGETS
    assert (made.config["shift_image"], made.config["shift_video"]) == (5.0, 7.0)
    assert made.config["caption_system"].startswith("You are a helpful assistant")
    assert made.transformer.dtype == torch.float32  # as asked for; the file itself holds bfloat16
    assert sorted(file.name for file in sources.output.iterdir()) == [
        *("README.md", "connector", "mllm", "model_index.json", "scheduler", "tokenizer", "transformer", "vae"),
    ]


@pytest.mark.parametrize(
    ("task", "still", "guidance", "visual", "negative"),
    [
        ("t2i", True, 5.0, 1.0, True),
        ("t2v", False, 7.0, 1.0, True),
        ("i2v", False, 7.0, 1.0, False),
        ("mi2v", False, 7.0, 3.0, False),
        ("edit", True, 5.0, 1.0, True),
        ("ref_edit", True, 5.0, 3.0, True),
        ("edit", False, 7.0, 1.0, False),
        ("ref_edit", False, 7.0, 3.0, True),
        ("clone", False, 7.0, 1.0, False),
        ("camera_clone", False, 7.0, 1.0, True),
    ],
)
def test_each_task_has_its_documented_settings(task, still, guidance, visual, negative):
    limits = PUBLISHED_LIMITS.for_task(Task(task), still=still)
    assert (limits.guidance_scale, limits.guidance_scale_visual) == (guidance, visual)
    assert bool(limits.negative_prompt) == negative
    assert ("flicker" in limits.negative_prompt) == (negative and not still)


def test_the_licence_is_shown_at_import_and_among_the_models(imported, sources, loomvideo):
    assert "CC BY-NC 4.0" in imported("--dry-run").out
    assert "CC BY-NC 4.0" in imported().out
    line = loomvideo("models", sources.output).out.splitlines()[-1]
    assert line.startswith(f"{sources.output}: vino, ")
    assert line.endswith("licence CC BY-NC 4.0")
    assert "connector " in line


def edited(sources, change):
    state = torch.load(sources.checkpoint, weights_only=True)
    change(state)
    torch.save(state, sources.checkpoint)


def config_of_base(sources, **fields):
    file = sources.base / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.checkpoint.unlink(), "does not exist: name the published vino.ckpt"),
        (
            lambda s: edited(s, lambda state: state.pop("transformer.proj_out.bias")),
            "1 missing: transformer.proj_out.bias",
        ),
        (lambda s: edited(s, lambda state: state.pop("mm_encoder.metaquery")), "1 missing: mm_encoder.metaquery"),
        (lambda s: edited(s, lambda state: state.update(ema=torch.zeros(1))), "1 unexpected: ema"),
        (
            lambda s: edited(s, lambda state: state.update({"mm_encoder.metaquery": torch.zeros(3, 32)})),
            "1 mis-shaped: mm_encoder.metaquery is (3, 32) and must be",
        ),
        (lambda s: edited(s, lambda state: state.update(step=7)), "step hold something else than tensors"),
        (
            lambda s: config_of_base(s, use_source_embedding=True),
            "use_source_embedding are no fields of HunyuanVideo's",
        ),
        (lambda s: config_of_base(s, image_condition_type="token_replace"), "image_condition_type='token_replace'"),
        (lambda s: shutil.rmtree(s.base / "vae"), "hunyuan/vae holds none of"),
        (lambda s: (s.mllm / "tokenizer_config.json").unlink(), "qwen-4b holds no tokenizer"),
        (lambda s: (s.mllm / "config.json").write_text("{}"), "states no text_config.hidden_size"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(imported, sources, spoil, message):
    spoil(sources)
    outcome = imported()
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert not sources.output.exists()


def test_a_frozen_language_model_in_the_file_is_compared_and_left_where_it_is(imported, sources, original):
    frozen = {f"mm_encoder.mm_encoder.{name}": tensor for name, tensor in original.mllm.state_dict().items()}
    edited(sources, lambda state: state.update(frozen))
    assert imported().status == 0


def test_a_language_model_in_the_file_that_is_not_the_given_one_is_refused_by_its_tensor(imported, sources, original):
    name, tensor = next(iter(original.mllm.state_dict().items()))
    edited(sources, lambda state: state.update({f"mm_encoder.mm_encoder.{name}": tensor + 1}))
    outcome = imported()
    assert outcome.status == 2
    assert f"differs from {sources.mllm} in {name}" in outcome.err


def test_the_folder_that_holds_the_file_may_be_named(imported, sources):
    sources.checkpoint = sources.checkpoint.parent
    assert imported().status == 0


def test_of_the_base_neither_text_encoders_nor_its_own_denoiser_are_downloaded():
    assert list(filter_repo_objects(BASE_REPOSITORY, allow_patterns=VinoWeights.base_files)) == [
        "transformer/config.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_a_dry_run_tells_sizes_and_memory_and_writes_nothing(imported, sources, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    outcome = imported("--dry-run")
    assert outcome.status == 0
    assert f"denoiser and connector: {sources.checkpoint}, " in outcome.out
    assert "two text encoders" in outcome.out
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_network_a_dry_run_of_the_named_defaults_tells_the_published_sizes(loomvideo, sources):
    outcome = loomvideo("import", "--system", "vino", "--checkpoint", sources.checkpoint, "--output", "x", "--dry-run")
    assert outcome.status == 0
    assert "Qwen/Qwen3-VL-4B-Instruct is no folder here" in outcome.out
    assert "hunyuanvideo-community/HunyuanVideo is no folder here" in outcome.out
    assert "memory to run in bfloat16: 35.4 GB of weights (denoiser 25.6 GB, connector 0.4 GB, " in outcome.out


def test_an_option_of_another_system_is_refused(imported):
    outcome = imported("--without-source-embedding")
    assert outcome.status == 2
    assert "vino has no such checkpoints" in outcome.err


def test_weights_that_are_no_model_folder_yet_say_how_they_become_one(loomvideo, sources):
    outcome = loomvideo("generate", "--model", sources.checkpoint, "--prompt", "x")
    assert outcome.status == 2
    assert f"loomvideo import --system vino --checkpoint {sources.checkpoint}" in outcome.err
