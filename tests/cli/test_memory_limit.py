"""``--memory-limit``: what is chosen, and that it is kept."""

import gc
import re
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from loomvideo import LoomVideoPipeline, LoomVideoTransformer3DModel
from loomvideo.cli.import_loomvideo import PUBLISHED_LIMITS
from loomvideo.cli.main import main
from loomvideo.media.clip import read_picture
from loomvideo.models.eight_bits import weight_bytes
from loomvideo.systems.memory import Arrangement, MemoryLimitError, apply, arrange, parse_limit

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SYSTEMS = ("loomvideo", "vino", "omnivideo")


@pytest.fixture(params=SYSTEMS)
def pipe(request, small_pipeline):
    return small_pipeline(request.param)


@pytest.mark.parametrize(("text", "size"), [("24GB", 24 * 10**9), ("1.5 GiB", 3 * 2**29), ("900MB", 9 * 10**8)])
def test_a_limit_is_a_number_and_a_unit(text, size):
    assert parse_limit(text) == size


@pytest.mark.parametrize("text", ["24", "0GB", "-1GB", "much", "24 gb", "GB"])
def test_another_limit_is_refused(text):
    with pytest.raises(MemoryLimitError, match="must be a size such as 24GB"):
        parse_limit(text)


def ways(pipe, device):
    """Every arrangement, from much memory to the least, with the limits at which it begins."""
    found, limit = [], 10**12
    while True:
        try:
            found.append(arrange(pipe, limit, device))
        except MemoryLimitError as error:
            return found, str(error)
        limit = found[-1].needed  # the next that needs less


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_less_memory_gives_ways_that_need_less_and_at_last_an_error_that_says_how_much_would_do(pipe, device):
    found, message = ways(pipe, device)
    assert len(found) >= 2
    assert not found[0].streamed
    assert not found[0].in_turn
    assert found[0].batch_branches
    for arrangement in found:
        assert arrangement.needed <= 0.95 * arrangement.limit
    assert [one.needed for one in found] == sorted((one.needed for one in found), reverse=True)
    assert re.search(r"needs \d+\.\d\d GB for 9 frames of 9,216 pixels in float32", message)


@pytest.mark.parametrize("way", ["fp8", "int8"])
def test_weights_in_eight_bits_need_less_and_only_plain_ones_can_wait_on_the_disk(pipe, way):
    before, _ = ways(pipe, CPU)
    pipe.store_weights(way)
    after, _ = ways(pipe, CPU)
    assert after[0].needed < before[0].needed
    if way == "int8":
        assert not any("transformer" in one.streamed for one in after)


@pytest.fixture(scope="module")
def published_size():
    """LoomVideo's parts at full size in bfloat16, without a number in them."""
    text = {
        "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 151_936,
    }  # fmt: skip
    wan = {
        "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "in_channels": 12, "out_channels": 12, "patch_size": 2,
        "temperal_downsample": [False, True, True], "is_residual": True, "scale_factor_spatial": 16,
    }  # fmt: skip
    with torch.device("meta"):
        parts = {
            "transformer": LoomVideoTransformer3DModel(),
            "mllm": Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text)),
            "vae": AutoencoderKLWan(**wan),
        }
    for part in parts.values():
        torch.nn.Module.to(part, torch.bfloat16)
    sequence = LoomVideoPipeline.model_cpu_offload_seq
    return SimpleNamespace(**parts, components=parts, limits=PUBLISHED_LIMITS, model_cpu_offload_seq=sequence)


@pytest.mark.parametrize(
    ("limit", "in_turn", "batch_branches", "streamed"),
    [
        ("80GB", False, True, ()),
        ("24GB", True, False, ()),
        ("16GB", True, False, ("mllm", "transformer")),
        ("12GB", True, False, ("mllm", "transformer")),
    ],
)
def test_published_weights_are_arranged_for_the_usual_gpus(published_size, limit, in_turn, batch_branches, streamed):
    chosen = arrange(published_size, parse_limit(limit), GPU)
    assert (chosen.in_turn, chosen.batch_branches, chosen.streamed) == (in_turn, batch_branches, streamed)
    assert chosen.needed <= 0.95 * parse_limit(limit)


def test_streamed_weights_do_not_stay_and_the_latents_are_the_same(pipe):
    request = {"num_frames": 5, "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"}
    before = pipe("x", **request).frames
    models = {name: pipe.components[name] for name in pipe.model_cpu_offload_seq.split("->") if pipe.components[name]}
    whole = sum(weight_bytes(model) for model in models.values())
    layers = [layer for model in models.values() for layer in model.modules() if not any(layer.children())]
    largest = max(weight_bytes(layer) for layer in layers)
    apply(pipe, Arrangement(0, 0, batch_branches=False, in_turn=False, streamed=tuple(models)), CPU)
    most = 0

    def count(*_):
        nonlocal most
        most = max(most, sum(t.nbytes for m in models.values() for t in m.parameters() if not t.is_meta))

    for layer in layers:
        layer.register_forward_pre_hook(count)
    after = pipe("x", **request).frames
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    gc.collect()
    assert most <= 2 * largest < whole
    assert all(parameter.is_meta for model in models.values() for parameter in model.parameters())


def test_the_command_says_what_it_chose_and_writes_the_same_picture(tiny_model, tmp_path, capsys):
    words = ["generate", "--prompt", "x", "--model", str(tiny_model), "--device", "cpu", "--steps", "2"]
    assert main([*words, "--output", str(tmp_path / "free.png")]) == 0
    assert not capsys.readouterr().err
    assert main([*words, "--memory-limit", "20GB", "--output", str(tmp_path / "held.png")]) == 0
    assert re.search(
        r"memory: \d\.\d\d GB needed of 20.00 GB: everything stays where it is; float32", capsys.readouterr().err
    )
    assert (read_picture(tmp_path / "held.png") == read_picture(tmp_path / "free.png")).all()
    assert main([*words, "--memory-limit", "1MB", "--output", str(tmp_path / "short.png")]) == 2
    assert re.search(r"memory limit 0.00 GB: this model needs .* in bfloat16", capsys.readouterr().err)


@pytest.mark.gpu
@pytest.mark.parametrize("streamed", [(), ("mllm", "transformer")], ids=["turns", "streamed"])
def test_models_that_take_turns_on_a_gpu_make_the_same_latents(pipe, streamed):
    request = {"num_frames": 5, "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"}
    before = pipe("x", **request).frames
    apply(pipe, Arrangement(2**40, 0, batch_branches=False, in_turn=True, streamed=streamed), GPU)
    torch.testing.assert_close(pipe("x", **request).frames.cpu(), before, rtol=1e-2, atol=1e-2)
