"""Published weights, a language model and a base become one folder; see also tests/test_checkpoint.py."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file

from loomvideo import LoomVideoPipeline
from loomvideo.cli.import_loomvideo import PUBLISHED_LIMITS, LoomVideoWeights
from loomvideo.cli.main import main

MLLM_REPOSITORY = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
BASE_REPOSITORY = [
    "model_index.json",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00003.safetensors",
    "tokenizer/tokenizer.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00005.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
]
OURS = ("mllm_dim", "use_source_embedding", "rounded_rotary_tables")  # fields that a base's configuration has not


@pytest.fixture
def sources(tiny_model, tmp_path) -> dict[str, Path]:
    """The three things that a person downloads, and where the model shall be."""
    mllm = tmp_path / "qwen"
    shutil.copytree(tiny_model / "mllm", mllm)
    shutil.copytree(tiny_model / "tokenizer", mllm, dirs_exist_ok=True)

    base = tmp_path / "wan"
    for name in ("vae", "scheduler"):
        shutil.copytree(tiny_model / name, base / name)
    config = json.loads((tiny_model / "transformer" / "config.json").read_text())
    (base / "transformer").mkdir()
    fields = {name: value for name, value in config.items() if name not in OURS}
    (base / "transformer" / "config.json").write_text(json.dumps(fields))
    (base / "text_encoder").mkdir()
    (base / "text_encoder" / "model.safetensors").write_bytes(b"never read")

    checkpoint = tmp_path / "gen_model.pth"
    torch.save(load_file(tiny_model / "transformer" / "diffusion_pytorch_model.safetensors"), checkpoint)
    return {"checkpoint": checkpoint, "mllm": mllm, "base": base, "output": tmp_path / "models" / "imported"}


def command(sources, *more):
    named = [word for name, value in sources.items() for word in (f"--{name}", str(value))]
    return main(["import", *named, *more])


def test_an_imported_folder_is_a_model_with_the_tensors_of_its_sources(sources, tiny_model):
    assert command(sources, "--dtype", "float32") == 0
    imported, original = (LoomVideoPipeline.from_pretrained(folder) for folder in (sources["output"], tiny_model))
    for name in ("transformer", "mllm", "vae"):
        expected = getattr(original, name).state_dict()
        torch.testing.assert_close(getattr(imported, name).state_dict(), expected, rtol=0, atol=0)
    assert imported.tokenizer.get_vocab() == original.tokenizer.get_vocab()
    assert imported.scheduler.config.flow_shift == original.scheduler.config.flow_shift


def test_an_imported_model_has_the_published_limits_and_rounded_tables(sources):
    command(sources)
    imported = LoomVideoPipeline.from_pretrained(sources["output"])
    limits = imported.limits
    assert limits == PUBLISHED_LIMITS
    assert (limits.fps, limits.max_frames, limits.default_frames) == (24, 121, 81)
    assert (limits.default_height, limits.default_width, limits.num_inference_steps) == (480, 832, 50)
    assert (limits.guidance_scale, limits.guidance_scale_edit, limits.guidance_scale_visual) == (5.0, 2.5, 1.5)
    assert limits.negative_prompt.startswith("Generate an image: 色调艳丽")
    assert (imported.frame_rule.factor, imported.frame_rule.min_frames) == (15, 2)
    assert imported.transformer.config.rounded_rotary_tables


def test_the_denoiser_is_written_in_bfloat16_and_the_rest_as_it_was(sources, tiny_model):
    command(sources)
    denoiser = load_file(sources["output"] / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in denoiser.values()} == {torch.bfloat16}
    for file in ("vae/diffusion_pytorch_model.safetensors", "mllm/model.safetensors"):
        assert (sources["output"] / file).read_bytes() == (tiny_model / file).read_bytes()


def test_only_what_a_model_needs_is_written(sources):
    command(sources)
    assert sorted(file.name for file in sources["output"].iterdir()) == sorted(
        ["model_index.json", "mllm", "scheduler", "tokenizer", "transformer", "vae"]
    )


def test_pixel_budgets_are_the_language_model_s_own_where_it_states_them(sources):
    (sources["mllm"] / "preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": 4096, "longest_edge": 8192}, "patch_size": 16})
    )
    command(sources)
    budgets = LoomVideoPipeline.from_pretrained(sources["output"]).pixel_budgets
    assert (budgets["image"].smallest, budgets["image"].largest) == (4096, 8192)
    assert (budgets["video"].smallest, budgets["video"].largest) == (4096, 25_165_824)


def test_a_stage_one_checkpoint_has_no_source_embedding(sources):
    state = torch.load(sources["checkpoint"], weights_only=True)
    torch.save({name: value for name, value in state.items() if "source_patch" not in name}, sources["checkpoint"])
    assert command(sources) == 2
    assert command(sources, "--without-source-embedding") == 0


def spoil_missing_key(sources):
    state = torch.load(sources["checkpoint"], weights_only=True)
    del state["proj_out.bias"]
    torch.save(state, sources["checkpoint"])


def spoil_language_model(sources):
    config = json.loads((sources["mllm"] / "config.json").read_text())
    config["text_config"]["hidden_size"] = 48
    (sources["mllm"] / "config.json").write_text(json.dumps(config))


def spoil_depth(sources):
    config = json.loads((sources["mllm"] / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1
    (sources["mllm"] / "config.json").write_text(json.dumps(config))


def spoil_processor(sources):
    (sources["mllm"] / "video_preprocessor_config.json").write_text(json.dumps({"fps": 8}))


def spoil_base(sources):
    config = json.loads((sources["base"] / "transformer" / "config.json").read_text())
    (sources["base"] / "transformer" / "config.json").write_text(json.dumps({**config, "guidance_embeds": True}))


def spoil_vae(sources):
    shutil.rmtree(sources["base"] / "vae")


def spoil_tokenizer(sources):
    (sources["mllm"] / "tokenizer_config.json").unlink()


def spoil_names(sources):
    sources["mllm"] = "nobody/nothing"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda sources: sources["checkpoint"].unlink(), "does not exist"),
        (spoil_missing_key, "1 missing: proj_out.bias"),
        (spoil_language_model, "mllm_embedder.norm.weight is (32,) and must be (48,)"),
        (spoil_depth, "1 text layers cannot feed the 2 blocks"),
        (spoil_processor, "video_processor has fps 8, and only 2 is supported"),
        (spoil_base, "guidance_embeds are no fields of a Wan2.2 TI2V denoiser"),
        (spoil_vae, "wan/vae holds none of"),
        (spoil_tokenizer, "qwen holds no tokenizer"),
        (spoil_names, "nobody/nothing is no folder here and cannot be had from the Hub"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(sources, spoil, message, capsys):
    spoil(sources)
    assert command(sources) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not sources["output"].exists()
    assert not sources["output"].parent.exists() or not list(sources["output"].parent.iterdir())


def test_an_output_that_exists_is_not_written_over(sources, capsys):
    sources["output"].mkdir(parents=True)
    (sources["output"] / "precious").touch()
    assert command(sources) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_dry_run_tells_sizes_and_memory_and_writes_nothing(sources, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert command(sources, "--dry-run") == 0
    told = capsys.readouterr().out
    assert f"denoiser: {sources['checkpoint']}, " in told
    assert "memory to run in bfloat16" in told
    assert "T5 text encoder" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_without_a_network_tells_the_published_sizes(sources, capsys):
    sources["mllm"], sources["base"] = "nobody/qwen", "nobody/wan"
    assert command(sources, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "nobody/qwen is no folder here and cannot be had from the Hub" in told
    assert "published size: 17.5 GB in bfloat16" in told
    assert (
        "memory to run in bfloat16: 29.1 GB of weights (denoiser 10.2 GB, language model 17.5 GB, VAE 1.4 GB)" in told
    )


def test_a_dry_run_names_every_file_that_would_be_downloaded(sources, monkeypatch, capsys):
    def listed(name, *, allow_patterns, dry_run):
        assert dry_run
        return [
            SimpleNamespace(filename=f, file_size=3_000_000_000, will_download=f != "config.json")
            for f in MLLM_REPOSITORY
        ]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", listed)
    sources["mllm"] = "somebody/qwen"
    assert command(sources, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "language model: somebody/qwen, 6.0 GB to download in 2 of 3 files" in told
    assert "model-00001-of-00002.safetensors 3.0 GB" in told


def test_of_the_base_neither_t5_nor_its_own_denoiser_is_downloaded():
    assert list(filter_repo_objects(BASE_REPOSITORY, allow_patterns=LoomVideoWeights.base_files)) == [
        "transformer/config.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ]


def test_models_tells_what_a_folder_holds(sources, capsys):
    command(sources)
    capsys.readouterr()
    (sources["output"] / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert main(["models", str(sources["output"])]) == 0
    told = capsys.readouterr().out
    assert "builtin: loomvideo" in told
    line = next(line for line in told.splitlines() if line.startswith(str(sources["output"])))
    assert "licence apache-2.0" in line
    assert all(f"{part} " in line for part in ("transformer", "mllm", "vae"))
