"""Two ranks that share the tokens of one denoiser compute what one process does: velocities and gradients."""

from itertools import product

import pytest
import torch
import torch.distributed as dist

from loomvideo.models.hunyuan import VinoTransformer3DModel
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.parallel import parallelise, parallelised, pieces
from two_ranks import run

WAN = {
    "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 8, "freq_dim": 16, "ffn_dim": 32,
    "num_layers": 2,
}  # fmt: skip
SHAPE = (2, 4, 3, 2, 6)  # 9 tokens a sample: no two ranks hold equally many
PICTURE = (2, 4, 1, 2, 2)


def loomvideo(heads):
    model = LoomVideoTransformer3DModel(num_attention_heads=heads, mllm_dim=8, absolute_places=True, **WAN)
    return model, {
        "layers": [torch.randn(2, 5, 8) for _ in range(2)],
        "source": torch.randn(SHAPE),
        "references": [torch.randn(PICTURE)],
        "context_mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
    }


def omnivideo(heads):
    model = OmniVideoTransformer3DModel(num_attention_heads=heads, max_context_len=16, **WAN)
    return model, {"contexts": [torch.randn(7, 8), torch.randn(4, 8)]}


def vino(heads):
    model = VinoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=heads, attention_head_dim=12, num_layers=2,
        num_single_layers=2, num_refiner_layers=2, text_embed_dim=8, pooled_projection_dim=8, rope_axes_dim=(4, 4, 4),
        absolute_places=True,
    )  # fmt: skip
    return model, {
        "text": torch.randn(2, 6, 8),
        "references": [torch.randn(PICTURE)],
        "markers": torch.randn(2, 1, 2, heads * 12),
        "context_mask": torch.tensor([[True] * 6, [True] * 2 + [False] * 4]),
    }


def vino_with_items_of_frames(heads):
    model, inputs = vino(heads)
    return model, inputs | {"text_frames": torch.tensor([[0, 1, 1, 2, 2, -1], [1, 2, -1, 0, 0, 0]])}


SYSTEMS = {
    "loomvideo": loomvideo,
    "omnivideo": omnivideo,
    "vino": vino,
    "vino with items of frames": vino_with_items_of_frames,
}
CASES = [*product(SYSTEMS, (2, 4), ("heads", "keys")), *product(SYSTEMS, (3,), (None,))]


def filled(system, heads):
    """The same network and inputs in every process, nothing at zero."""
    torch.manual_seed(0)
    model, inputs = SYSTEMS[system](heads)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model, inputs


def velocity_and_gradients(model, inputs, *, checkpointing=False):
    """The velocity, and the gradients of a loss of two groups of samples of different lengths."""
    torch.manual_seed(1)
    if checkpointing:
        model.enable_gradient_checkpointing()
    model.zero_grad()
    noisy, longer = torch.randn(SHAPE), torch.randn(2, 4, 3, 4, 6)
    velocity = model(noisy, torch.tensor([300.0, 700.0]), model.prepare(**inputs, latent_shape=SHAPE))
    without_source = {name: value for name, value in inputs.items() if name != "source"}
    other = model(longer, torch.tensor([500.0, 900.0]), model.prepare(**without_source, latent_shape=longer.shape))
    (velocity.square().sum() + other.square().sum()).backward()
    return velocity.detach(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def averaged(gradients):
    for gradient in gradients.values():
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
    return gradients


def on_a_rank():
    results = {}
    for system, heads, method in CASES:
        model, inputs = filled(system, heads)
        with parallelised(model, dist.group.WORLD, method):
            for checkpointing in (False, True):
                velocity, gradients = velocity_and_gradients(model, inputs, checkpointing=checkpointing)
                results[system, heads, method, checkpointing] = velocity, averaged(gradients)
        results[system, heads, method, "undone"] = velocity_and_gradients(model, inputs)
    model, _ = filled("loomvideo", 3)
    with pytest.raises(ValueError, match="3 heads over 2 ranks"):
        parallelise(model, dist.group.WORLD, "heads")
    with pytest.raises(TypeError, match="Linear"):
        parallelise(torch.nn.Linear(1, 1), dist.group.WORLD)
    return results


@pytest.fixture(scope="module")
def ranks():
    return run(on_a_rank)


@pytest.mark.parametrize("state", [False, True, "undone"], ids=["plain", "checkpointed", "undone"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_velocities_and_averaged_gradients_are_those_of_one_process(ranks, case, state):
    system, heads, _ = case
    expected, gradients = velocity_and_gradients(*filled(system, heads))
    for results in ranks:
        velocity, found = results[*case, state]
        torch.testing.assert_close(velocity, expected, rtol=1e-5, atol=1e-5)
        assert found.keys() == gradients.keys()
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        for name, gradient in gradients.items():
            scale = max(float(gradient.abs().max()), 1e-4 * largest)  # that of a key's bias is rounding alone
            torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(("total", "parts", "sizes"), [(9, 2, [5, 4]), (4, 4, [1, 1, 1, 1]), (2, 3, [1, 1, 0])])
def test_pieces_differ_by_one_at_most_and_make_the_whole(total, parts, sizes):
    assert pieces(total, parts) == sizes
