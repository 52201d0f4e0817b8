"""The head's palette: a few flat colours a token, and masks that say which of them stands where."""

import pytest
import torch
from torch import nn

from loomvideo.models.hunyuan import VinoTransformer3DModel
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.models.prediction import Palette
from loomvideo.models.wan import LoomVideoTransformer3DModel, token_numbers, unpatchify

DIM, PLACES, PATCH = 8, 16, 4  # 48 channels: three numbers of a colour for 16 pixels
NUMBERS = 3 * PLACES * PATCH


@pytest.fixture
def palette():
    torch.manual_seed(0)
    return Palette(DIM, NUMBERS, 5)


def pixels(numbers):
    """(b, n, patch and channel) -> (b, n, pixels, 3)."""
    return numbers.unflatten(-1, (PATCH, 3, PLACES)).transpose(-1, -2).flatten(2, 3)


def colours_of(palette, tokens):
    return palette.colours(tokens).unflatten(-1, (5, 3))


def test_every_pixel_is_a_mixture_of_the_token_s_colours(palette):
    """Masks sum to one: with equal colours nothing but that colour is said, and no pixel leaves the colours' range."""
    tokens = torch.randn(2, 7, DIM)
    said, colours = pixels(palette(tokens, PATCH, None)), colours_of(palette, tokens)
    assert said.shape == (2, 7, PATCH * PLACES, 3)
    assert (said <= colours.amax(2, keepdim=True) + 1e-5).all()
    assert (said >= colours.amin(2, keepdim=True) - 1e-5).all()
    nn.init.zeros_(palette.colours.weight)
    palette.colours.bias.data = torch.tensor([0.1, -0.2, 0.3]).repeat(5)
    torch.testing.assert_close(pixels(palette(tokens, PATCH, None)), torch.tensor([0.1, -0.2, 0.3]).expand(2, 7, 64, 3))


def test_a_sure_mask_gives_its_colour_and_no_other(palette):
    tokens = torch.randn(1, 3, DIM)
    nn.init.zeros_(palette.masks.weight)
    wanted = torch.randint(0, 5, (PATCH * PLACES,))
    palette.masks.bias.data = 60.0 * nn.functional.one_hot(wanted, 5).T.flatten().float()
    said, colours = pixels(palette(tokens, PATCH, None)), colours_of(palette, tokens)
    torch.testing.assert_close(said, colours[:, :, wanted])


def test_channels_are_colour_first_and_patches_before_channels(palette):
    """As the trainer's VAE lays frames out: unshuffled, channel c of colour c // 16."""
    nn.init.zeros_(palette.masks.weight)
    nn.init.zeros_(palette.masks.bias)
    nn.init.zeros_(palette.colours.weight)
    palette.colours.bias.data = torch.tensor([1.0, 2.0, 3.0]).repeat(5)
    latents = unpatchify(palette(torch.randn(1, 6, DIM), PATCH, None), (1, 2, 3), (1, 2, 2))
    assert latents.shape == (1, 48, 1, 4, 6)
    for colour in range(3):
        torch.testing.assert_close(
            latents[:, 16 * colour : 16 * (colour + 1)], torch.full((1, 16, 1, 4, 6), colour + 1.0)
        )


def test_of_an_edit_a_colour_may_stand_where_the_source_has_one(palette):
    """Yellow where it is red: the key of one colour is the source's, all else keeps another."""
    for layer in (palette.masks, palette.colours):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    red, blue = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0])
    yellow = torch.tensor([1.0, 1.0, -1.0])
    palette.colours.bias.data[:3] = yellow
    palette.keys.bias.data[:3] = 40 * red
    palette.mixes.bias.data = torch.cat([torch.zeros(9), torch.eye(3).flatten().repeat(4)])  # the others copy
    is_red = torch.rand(1, 2, PATCH, 1, PLACES) < 0.5
    source = torch.where(is_red, red[:, None], blue[:, None]).flatten(2)
    expected = torch.where(is_red, yellow[:, None], blue[:, None]).flatten(2)
    torch.testing.assert_close(palette(torch.randn(1, 2, DIM), PATCH, source), expected)


def test_a_new_palette_does_not_look_at_the_source(palette):
    tokens, source = torch.randn(2, 3, DIM), torch.randn(2, 3, NUMBERS)
    torch.testing.assert_close(palette(tokens, PATCH, source), palette(tokens, PATCH, None))


def test_a_source_s_numbers_lie_as_the_tokens_say_them():
    latents = torch.randn(2, 48, 3, 4, 6)
    numbers = token_numbers(latents, (3, 2, 3), (1, 2, 2))
    assert numbers.shape == (2, 18, 192)
    assert torch.equal(unpatchify(numbers, (3, 2, 3), (1, 2, 2)), latents)


SMALL = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 48, "out_channels": 48}
WAN = SMALL | {"text_dim": 4, "freq_dim": 16, "ffn_dim": 32, "num_layers": 1}
MODELS = {
    "loomvideo": (LoomVideoTransformer3DModel, WAN | {"mllm_dim": 8}),
    "omnivideo": (OmniVideoTransformer3DModel, WAN | {"max_context_len": 4}),
    "vino": (
        VinoTransformer3DModel,
        SMALL
        | {"num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "text_embed_dim": 8}
        | {"pooled_projection_dim": 4, "rope_axes_dim": (4, 4, 4)},
    ),
}


def latents_of(name, model):
    noisy, timestep = torch.randn(1, 48, 1, 4, 4), torch.tensor([500.0])
    if name == "loomvideo":
        conditions = model.prepare([torch.randn(1, 3, 8)], latent_shape=noisy.shape)
    elif name == "vino":
        conditions = model.prepare(torch.randn(1, 3, 8), latent_shape=noisy.shape)
    else:
        conditions = model.prepare([torch.randn(3, 4)], latent_shape=noisy.shape)
    return model(noisy, timestep, conditions)


@pytest.mark.parametrize("name", MODELS)
def test_every_denoiser_adds_it_to_what_its_head_says(name):
    torch.manual_seed(0)
    build, fields = MODELS[name]
    model = build(**fields, palette_size=5)
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    nn.init.zeros_(model.palette.colours.weight)
    model.palette.colours.bias.data = torch.tensor([1.0, 2.0, 3.0]).repeat(5)
    said = latents_of(name, model)
    for colour in range(3):
        torch.testing.assert_close(said[:, 16 * colour : 16 * (colour + 1)], torch.full((1, 16, 1, 4, 4), colour + 1.0))


@pytest.mark.parametrize("name", MODELS)
def test_published_denoisers_have_none(name):
    build, fields = MODELS[name]
    model = build(**fields)
    assert model.palette is None
    assert not [key for key in model.state_dict() if "palette" in key]
