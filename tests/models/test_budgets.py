"""Work and memory of small fixed requests: what would make them slower or larger fails here, without a clock.

A budget is what was counted when it was written; less is welcome, and the budget is then lowered.
"""

import pytest
import torch

from loomvideo import LoomVideoTransformer3DModel, VinoTransformer3DModel
from loomvideo.evaluation.speed import count_bytes, count_flops
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel

SLACK = 1.02
TOKENS, CONTEXT = 3 * 8 * 8, 40
LATENTS = (3, 16, 16)
WAN = {
    "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4,
    "freq_dim": 16, "ffn_dim": 96, "num_layers": 3,
}  # fmt: skip


def loomvideo():
    model = LoomVideoTransformer3DModel(**WAN, text_dim=8, mllm_dim=20)
    layers = [torch.randn(1, CONTEXT, 20)] * 3
    return model, lambda: model.prepare(layers, latent_shape=LATENTS, source=torch.randn(1, 4, *LATENTS))


def omnivideo():
    model = OmniVideoTransformer3DModel(**WAN, text_dim=20, max_context_len=CONTEXT)
    return model, lambda: model.prepare([torch.randn(CONTEXT, 20)], latent_shape=LATENTS)


def vino():
    model = VinoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=24, num_layers=1, num_single_layers=2,
        num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=20, pooled_projection_dim=8, rope_axes_dim=(8, 8, 8),
    )  # fmt: skip
    return model, lambda: model.prepare(torch.randn(1, CONTEXT, 20), latent_shape=LATENTS)


# FLOPs and largest live bytes of `prepare`, then of one `forward`.
BUDGETS = {
    loomvideo: ((4_534_272, 155_168), (52_823_040, 297_408)),
    omnivideo: ((1_367_040, 120_096), (52_823_040, 297_408)),
    vino: ((1_156_992, 78_880), (58_146_816, 455_744)),
}


def counted(build):
    torch.manual_seed(0)
    model, prepare = build()
    model.eval()
    with torch.no_grad():
        conditions = prepare()
    noisy, timestep = torch.randn(1, 4, *LATENTS), torch.tensor([500.0])

    def step():
        return model(noisy, timestep, conditions)

    return tuple((count_flops(work), count_bytes(work)) for work in (prepare, step))


@pytest.mark.parametrize("build", BUDGETS, ids=lambda build: build.__name__)
def test_preparation_and_a_step_stay_within_their_budgets(build):
    for made, allowed in zip(counted(build), BUDGETS[build], strict=True):
        assert made[0] <= SLACK * allowed[0], f"{made[0]:,} FLOPs, budget {allowed[0]:,}"
        assert made[1] <= SLACK * allowed[1], f"{made[1]:,} bytes, budget {allowed[1]:,}"


@pytest.mark.parametrize("build", BUDGETS, ids=lambda build: build.__name__)
def test_modulation_is_one_row_a_sample(build):
    """No linear layer of time sees as many rows as there are tokens."""
    model, prepare = build()
    with torch.no_grad():
        conditions = prepare()
    rows = {}
    names = ("time", "norm1", "norm_out", "guidance")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and any(word in name for word in names):
            module.register_forward_pre_hook(
                lambda _, given, name=name: rows.update({name: given[0].numel() // given[0].shape[-1]})
            )
    with torch.no_grad():
        model(torch.randn(2, 4, *LATENTS).expand(2, 4, *LATENTS)[:1], torch.tensor([500.0]), conditions)
    assert rows
    assert set(rows.values()) == {1}


@pytest.fixture(params=["loomvideo", "vino", "omnivideo"])
def pipe(request, small_pipeline):
    return small_pipeline(request.param)


def test_a_further_step_reads_no_context_and_encodes_nothing(pipe):
    """What belongs to the request runs as often in four steps as in one; what belongs to the step runs in each."""
    from loomvideo.models.wan import CrossAttention, LayerProjector

    calls: dict[str, int] = {}
    once = [*pipe.mllm.modules(), *pipe.vae.encoder.modules()]
    once += [module for module in pipe.transformer.modules() if isinstance(module, LayerProjector)]
    for attention in pipe.transformer.modules():
        if isinstance(attention, CrossAttention):
            once += [attention.to_k, attention.to_v]
    for text in ("text_encoder", "connector", "adapter", "vision_head", "source_tokenizer"):
        once += [] if getattr(pipe, text, None) is None else list(getattr(pipe, text).modules())

    def count(kind):
        def hook(*_):
            calls[kind] = calls.get(kind, 0) + 1

        return hook

    for module in once:
        module.register_forward_hook(count("once"))
    pipe.transformer.register_forward_hook(count("step"))
    found = []
    for steps in (1, 4):
        calls.clear()
        pipe("x", guidance_scale=2.0, num_frames=5, num_inference_steps=steps, output_type="latent")
        found.append(dict(calls))
    assert found[1] == {"once": found[0]["once"], "step": 4 * found[0]["step"]}


def test_bytes_are_counted_while_they_live():
    def two_at_a_time():
        first = torch.ones(1000)  # 4,000 bytes
        second = first + 1
        del first
        return second * 2

    assert count_bytes(two_at_a_time) == 8000
    kept = torch.ones(1000)
    assert count_bytes(lambda: kept.add_(1).view(10, 100)) == 0
