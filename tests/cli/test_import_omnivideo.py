"""Both releases of Omni-Video, a language model and a base become one folder; see also tests/cli/test_import.py."""

import json
import pickle
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from loomvideo import OmniVideoPipeline
from loomvideo.cli import import_omnivideo
from loomvideo.cli.import_omnivideo import FIRST_LIMITS, SECOND_LIMITS
from loomvideo.systems.request import Task
from omnivideo_parts import (
    base_of,
    dump,
    first_release,
    mllm_of,
    release_first,
    release_second,
    save,
    second_release,
    wan_base_of,
)

RELEASES = {
    "first": (partial(first_release, stored=True), release_first),
    "second": (second_release, release_second),
    "one_expert": (partial(second_release, experts=1), release_second),
}
OWN = ("transformer", "vision_head", "adapter", "source_tokenizer", "state_projection", "fixed_rows")


@pytest.fixture(scope="module")
def originals(tiny_model):
    return {name: make(tiny_model) for name, (make, _) in RELEASES.items()}


@pytest.fixture
def sources_of(originals, tmp_path):
    """What a person downloads, in small, and where the model shall be."""

    def lay_out(release):
        pipe = originals[release]
        return SimpleNamespace(
            checkpoint=RELEASES[release][1](pipe, tmp_path / "released"),
            mllm=mllm_of(pipe, tmp_path / "qwen"),
            base=base_of(pipe, tmp_path / "wan"),
            output=tmp_path / "models" / "imported",
        )

    return lay_out


@pytest.fixture
def imported(loomvideo):
    def run(sources, *more):
        named = [word for name, value in vars(sources).items() for word in (f"--{name}", value)]
        return loomvideo("import", "--system", "omnivideo", *named, *more)

    return run


def networks(pipe):
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


@pytest.mark.parametrize("release", RELEASES)
def test_an_imported_folder_is_a_model_with_the_tensors_of_its_sources(imported, sources_of, originals, release):
    sources = sources_of(release)
    outcome = imported(sources, "--dtype", "float32")
    assert outcome.status == 0, outcome.err
    made = OmniVideoPipeline.from_pretrained(sources.output)
    assert set(networks(made)) == set(networks(originals[release]))
    for name, part in networks(originals[release]).items():
        torch.testing.assert_close(getattr(made, name).state_dict(), part.state_dict(), rtol=0, atol=0)
    assert made.tokenizer.get_vocab() == originals[release].tokenizer.get_vocab()
    assert made.scheduler.config["flow_shift"] == 5.0


@pytest.mark.parametrize(
    ("release", "limits", "max_rows", "mllm_frames"),
    [("first", FIRST_LIMITS, 2560, 8), ("second", SECOND_LIMITS, 6144, 6), ("one_expert", SECOND_LIMITS, 6272, 6)],
)
def test_an_imported_model_has_the_published_settings(imported, sources_of, release, limits, max_rows, mllm_frames):
    sources = sources_of(release)
    imported(sources)
    made = OmniVideoPipeline.from_pretrained(sources.output)
    assert made.limits == limits
    assert made.transformer.config["max_context_len"] == max_rows
    assert made.frame_rule.sampled_frames == mllm_frames
    assert made.transformer.config["attention_head_dim"] == 128
    for file in sources.output.glob("transformer*/*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("limits", "task", "still", "frames", "steps", "scale", "fps", "size"),
    [
        (FIRST_LIMITS, "t2v", False, 81, 50, 6.0, 16, (480, 832)),
        (FIRST_LIMITS, "t2i", True, None, 50, 6.0, None, (480, 480)),
        (FIRST_LIMITS, "edit", False, 17, 40, 4.0, 8, 352 * 640),
        (FIRST_LIMITS, "edit", True, None, 40, 4.0, None, 480 * 480),
        (SECOND_LIMITS, "t2v", False, 81, 50, 3.0, 16, (480, 832)),
        (SECOND_LIMITS, "edit", False, 41, 40, 3.0, 8, 480 * 832),
    ],
)
def test_each_task_has_its_published_settings(limits, task, still, frames, steps, scale, fps, size):
    usual = limits.for_task(Task(task), still=still)
    assert (usual.num_inference_steps, usual.guidance_scale) == (steps, scale)
    assert frames in (None, usual.default_source_frames if task == "edit" else usual.default_frames)
    assert fps in (None, usual.fps)
    assert size == (usual.area if isinstance(size, int) else (usual.default_height, usual.default_width))


def test_the_person_is_told_that_the_vision_head_was_trained_on_another_model_s_states(imported, sources_of):
    sources = sources_of("first")
    for more in (("--dry-run",), ()):
        assert "trained on the states of a VILA that is not published" in imported(sources, *more).out


def test_heads_in_files_of_their_own_are_read_where_the_whole_model_has_none(imported, sources_of, originals):
    sources = sources_of("first")
    file = sources.checkpoint / "transformer/model.pt"
    state = torch.load(file, weights_only=True)
    heads = {
        prefix: {n: state.pop(n) for n in list(state) if n.startswith(prefix)} for prefix in ("adapter.", "ar_vision")
    }
    save(state, file)
    adapter = {f"module.{name.removeprefix('adapter.')}": value for name, value in heads["adapter."].items()}
    save({"model_state_dict": adapter}, sources.checkpoint / "adapter/model.pt")
    vision = {name.removeprefix("ar_vision_head."): value for name, value in heads["ar_vision"].items()}
    save(vision, sources.checkpoint / "vision_head/vision_head/pytorch_model.bin")
    outcome = imported(sources, "--dtype", "float32")
    assert outcome.status == 0, outcome.err
    made = OmniVideoPipeline.from_pretrained(sources.output)
    for name in ("adapter", "vision_head"):
        expected = getattr(originals["first"], name).state_dict()
        torch.testing.assert_close(getattr(made, name).state_dict(), expected, rtol=0, atol=0)


def test_a_base_may_be_in_wan_s_own_layout(imported, sources_of, originals):
    """As the release itself carries it, in wan/wanxiang1_3b."""
    sources = sources_of("first")
    sources.base = sources.checkpoint / "wan/wanxiang1_3b"
    vae, encoder = wan_base_of(originals["first"], sources.base)
    outcome = imported(sources)
    assert outcome.status == 0, outcome.err
    made = OmniVideoPipeline.from_pretrained(sources.output)
    torch.testing.assert_close(made.vae.state_dict(), vae.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(made.text_encoder.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    assert made.text_tokenizer.get_vocab() == originals["first"].text_tokenizer.get_vocab()
    assert made.text_encoder.config.to_dict().items() >= {"feed_forward_proj": "gated-gelu"}.items()


def changed(file, change):
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)


def spoil_name(sources):
    changed(sources.checkpoint / "transformer/model.pt", lambda state: state.pop("wan_model.head.head.bias"))


def spoil_size(sources):
    changed(sources.checkpoint / "transformer/model.pt", lambda state: state.pop("wan_model.patch_embedding.weight"))


def spoil_part(sources):
    def change(state):
        for name in [name for name in state if name.startswith("adapter.")]:
            del state[name]

    changed(sources.checkpoint / "transformer/model.pt", change)


def spoil_stranger(sources):
    changed(sources.checkpoint / "transformer/model.pt", lambda state: state.update(stranger=torch.zeros(1)))


def spoil_width(sources):
    config = json.loads((sources.mllm / "config.json").read_text())
    config["text_config"]["hidden_size"] = 48
    (sources.mllm / "config.json").write_text(json.dumps(config))


def spoil_mllm(sources):
    config = json.loads((sources.mllm / "config.json").read_text())
    (sources.mllm / "config.json").write_text(json.dumps({**config, "architectures": ["LlavaLlamaModel"]}))


def spoil_boundaries(sources):
    file = sources.checkpoint / "special_tokens/tokens.pkl"
    content = pickle.loads(file.read_bytes())
    del content["<ipl_st>"]
    dump(content, file)


class Burglar:
    def __reduce__(self):
        return (print, ("inside",))


def spoil_pickle(sources):
    dump({"text_emb": Burglar()}, sources.checkpoint / "unconditioned_context/context.pkl")


def spoil_torch_pickle(sources):
    torch.save(Burglar(), sources.checkpoint / "special_tokens/tokens.pkl")


def spoil_base(sources):
    shutil.rmtree(sources.base / "vae")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda sources: shutil.rmtree(sources.checkpoint / "transformer"), "is no checkpoint of Omni-Video"),
        (spoil_name, "1 missing: proj_out.bias"),
        (spoil_size, "patch_embedding.weight' is missing"),
        (spoil_part, "and must hold transformer, vision_head, adapter, source_tokenizer"),
        (spoil_stranger, "stranger is of none of a unified model's parts"),
        (spoil_width, "states are 48 wide, and these weights read states that are 32 wide"),
        (spoil_mllm, "holds a LlavaLlamaModel"),
        (spoil_boundaries, "has no rows <ipl_st>"),
        (spoil_pickle, "code that calls builtins.print"),
        (spoil_torch_pickle, "refused"),
        (spoil_base, "holds 0 of *VAE*.pth"),
        (lambda sources: (sources.checkpoint / "special_tokens/tokens.pkl").unlink(), "tokens.pkl is missing"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(imported, sources_of, spoil, message):
    sources = sources_of("first")
    spoil(sources)
    outcome = imported(sources)
    assert outcome.status == 2
    assert "inside" not in outcome.out
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert not sources.output.exists()


@pytest.mark.parametrize("release", RELEASES)
def test_a_dry_run_tells_sizes_and_memory_and_writes_nothing(imported, sources_of, tmp_path, release):
    sources = sources_of(release)
    before = sorted(tmp_path.rglob("*"))
    outcome = imported(sources, "--dry-run")
    assert outcome.status == 0, outcome.err
    assert "memory to run in bfloat16" in outcome.out
    assert "VAE and text encoder: " in outcome.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_without_a_network_tells_the_published_sizes(imported, sources_of):
    sources = sources_of("second")
    sources.mllm, sources.base = "nobody/qwen", "nobody/wan"
    told = imported(sources, "--dry-run").out
    assert "published size: 62.1 GB in bfloat16" in told  # the language model
    assert "published size: 11.6 GB in bfloat16" in told  # text encoder and VAE


def test_plain_pickles_and_pytorch_s_own_hold_the_same(tmp_path):
    content = {"a": torch.arange(6.0).view(2, 3).bfloat16(), "b": [torch.ones(1, 4)]}
    dump(content, tmp_path / "plain.pkl")
    torch.save(content, tmp_path / "torch.pkl")
    torch.save(content, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    for name in ("plain", "torch", "old"):
        read = import_omnivideo.read_pickle(tmp_path / f"{name}.pkl")
        assert torch.equal(read["a"], content["a"])
        assert torch.equal(read["b"][0], content["b"][0])
