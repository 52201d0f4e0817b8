"""Laws of the denoiser."""

import pytest
import torch

from loomvideo.conditioning.deepstack import layers_for_blocks
from loomvideo.conditioning.references import reference_time
from loomvideo.models.wan import LoomVideoTransformer3DModel

SHAPE = (3, 4, 6)  # latent frames, rows, columns
WIDTH, CHANNELS, BLOCKS = 12, 4, 3


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    denoiser = LoomVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=8,
        freq_dim=16,
        ffn_dim=32,
        num_layers=BLOCKS,
        mllm_dim=WIDTH,
    )
    for parameter in denoiser.parameters():  # nothing stays at zero, so that everything is seen
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser.eval()


def latents(batch=1, shape=SHAPE):
    return torch.randn(batch, CHANNELS, *shape)


def context(batch=1, tokens=5):
    return [torch.randn(batch, tokens, WIDTH) for _ in range(BLOCKS)]


@torch.no_grad()
def velocity(denoiser, noisy, layers, timestep=700.0, **conditions):
    prepared = denoiser.prepare(layers, latent_shape=noisy.shape, **conditions)
    return denoiser(noisy, torch.full((len(noisy),), timestep), prepared)


def test_a_batch_of_two_equals_two_singles(denoiser):
    noisy, layers, source = latents(2), context(2), latents(2)
    references = [latents(2, (1, 4, 4)), latents(2, (1, 2, 6))]
    batch = velocity(denoiser, noisy, layers, source=source, references=references)
    singles = [
        velocity(
            denoiser,
            noisy[i : i + 1],
            [layer[i : i + 1] for layer in layers],
            source=source[i : i + 1],
            references=[reference[i : i + 1] for reference in references],
        )
        for i in range(2)
    ]
    torch.testing.assert_close(batch, torch.cat(singles), rtol=1e-5, atol=1e-5)


def test_every_sample_of_a_batch_has_its_own_time(denoiser):
    noisy, layers = latents().repeat(2, 1, 1, 1, 1), [layer.repeat(2, 1, 1) for layer in context()]
    prepared = denoiser.prepare(layers, latent_shape=SHAPE)
    with torch.no_grad():
        both = denoiser(noisy, torch.tensor([100.0, 900.0]), prepared)
    alone = velocity(denoiser, noisy[1:], [layer[1:] for layer in layers], 900.0)
    torch.testing.assert_close(both[1:], alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_a_padded_and_masked_context_equals_the_context_without_padding(denoiser):
    noisy, layers = latents(), context(tokens=5)
    padded = [torch.cat([layer, torch.randn(1, 3, WIDTH)], dim=1) for layer in layers]
    mask = torch.arange(8)[None] < 5
    torch.testing.assert_close(
        velocity(denoiser, noisy, padded, context_mask=mask), velocity(denoiser, noisy, layers), rtol=1e-5, atol=1e-5
    )


def test_a_source_of_zeros_equals_no_source(denoiser):
    noisy, layers = latents(), context()
    torch.testing.assert_close(
        velocity(denoiser, noisy, layers, source=torch.zeros_like(noisy)), velocity(denoiser, noisy, layers)
    )


def test_the_source_has_no_part_at_time_zero_and_has_one_later(denoiser):
    noisy, layers, source = latents(), context(), latents()
    with_source = velocity(denoiser, noisy, layers, 0.0, source=source)
    torch.testing.assert_close(with_source, velocity(denoiser, noisy, layers, 0.0, source=latents()))
    assert not torch.allclose(
        velocity(denoiser, noisy, layers, source=source), velocity(denoiser, noisy, layers), atol=1e-3
    )


def test_reference_tokens_do_not_depend_on_the_timestep_before_they_meet_the_target(denoiser):
    """Their modulation is the learned tables alone, so block 0 gives their queries, keys and values the same input."""
    prepared = denoiser.prepare(context(), latent_shape=SHAPE, references=[latents(shape=(1, 4, 4))])
    seen = []
    handle = denoiser.blocks[0].attn1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    noisy = latents()
    with torch.no_grad():
        for timestep in (10.0, 990.0):
            denoiser(noisy, torch.tensor([timestep]), prepared)
    handle.remove()
    num_target = 3 * 2 * 3
    torch.testing.assert_close(seen[0][:, num_target:], seen[1][:, num_target:], rtol=0, atol=0)
    assert not torch.allclose(seen[0][:, :num_target], seen[1][:, :num_target])


def test_the_order_of_references_matters_and_their_frames_share_one_time(denoiser):
    noisy, layers, one, other = latents(), context(), latents(shape=(1, 4, 4)), latents(shape=(1, 4, 4))
    assert not torch.allclose(
        velocity(denoiser, noisy, layers, references=[one, other]),
        velocity(denoiser, noisy, layers, references=[other, one]),
        atol=1e-4,
    )
    rope = denoiser.prepare(layers, latent_shape=SHAPE, references=[latents(shape=(2, 4, 4))]).rope
    first, second = rope[-8:].chunk(2)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert [reference_time(i) for i in range(3)] == [-10, -20, -30]


def test_swapping_the_frames_of_one_reference_changes_nothing(denoiser):
    noisy, layers, clip = latents(), context(), latents(shape=(2, 4, 4))
    torch.testing.assert_close(
        velocity(denoiser, noisy, layers, references=[clip]),
        velocity(denoiser, noisy, layers, references=[clip.flip(2)]),
        rtol=1e-5,
        atol=1e-5,
    )


def test_shown_frames_stand_at_their_own_times_and_references_where_they_stood(denoiser):
    """A frame that is shown alone is told apart from the same frame at another time; all frames shown are the clip."""
    layers, references = context(), [latents(1, (1, 4, 4))]
    whole = denoiser.prepare(layers, latent_shape=SHAPE, references=references).rope
    some = denoiser.prepare(layers, latent_shape=SHAPE, shown=[0, 2], references=references).rope
    num_target = SHAPE[0] * 2 * 3
    frames = whole[:num_target].unflatten(0, (SHAPE[0], -1))
    assert torch.equal(some, torch.cat([frames[[0, 2]].flatten(0, 1), whole[num_target:]]))
    noisy, source = latents(), latents()
    every = velocity(denoiser, noisy, layers, source=source)
    prepared = denoiser.prepare(layers, latent_shape=SHAPE, shown=range(SHAPE[0]), source=source)
    with torch.no_grad():
        assert torch.equal(denoiser(noisy, torch.tensor([700.0]), prepared), every)


def test_each_block_reads_its_own_layer(denoiser):
    noisy, layers = latents(), context()
    plain = velocity(denoiser, noisy, layers)
    for i in range(BLOCKS):
        changed = [layer + 1 if i == j else layer for j, layer in enumerate(layers)]
        assert not torch.allclose(velocity(denoiser, noisy, changed), plain, atol=1e-4)


def test_gradients_flow_through_preparation_and_velocity_to_every_parameter_but_the_unused_ones(denoiser):
    denoiser.zero_grad()
    prepared = denoiser.prepare(context(), latent_shape=SHAPE, source=latents(), references=[latents(shape=(1, 4, 4))])
    denoiser(latents(), torch.tensor([300.0]), prepared).square().sum().backward()
    without = {name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()}
    denoiser.zero_grad()
    assert {name.split(".")[1] for name in without} == {"text_embedder"}


def test_a_new_denoiser_ignores_the_language_model_and_the_source():
    new = LoomVideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=CHANNELS, out_channels=CHANNELS, text_dim=8,
        freq_dim=16, ffn_dim=32, num_layers=BLOCKS, mllm_dim=WIDTH,
    )  # fmt: skip
    torch.nn.init.normal_(new.proj_out.weight)
    noisy = latents()
    torch.testing.assert_close(
        velocity(new, noisy, context(), source=latents()), velocity(new, noisy, context()), rtol=0, atol=0
    )


def test_without_a_source_embedding_there_is_no_such_parameter_and_a_source_changes_nothing():
    new = LoomVideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=CHANNELS, out_channels=CHANNELS, text_dim=8,
        freq_dim=16, ffn_dim=32, num_layers=BLOCKS, mllm_dim=WIDTH, use_source_embedding=False,
    )  # fmt: skip
    assert not [name for name in new.state_dict() if name.startswith("source_patch_embedding")]
    assert new.prepare(context(), latent_shape=SHAPE, source=latents()).source is None


def test_a_saved_denoiser_is_loaded_with_its_configuration_and_weights(denoiser, tmp_path):
    denoiser.save_pretrained(tmp_path)
    loaded = LoomVideoTransformer3DModel.from_pretrained(tmp_path)
    public = {name: value for name, value in denoiser.config.items() if not name.startswith("_")}
    assert {name: loaded.config[name] for name in public} == public | {"patch_size": [1, 2, 2]}
    noisy, layers = latents(), context()
    torch.testing.assert_close(velocity(loaded, noisy, layers), velocity(denoiser, noisy, layers), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 2}, "2 layers for 3 blocks"),
        ({"latent_shape": (3, 5, 6)}, "do not fit patches"),
        ({"source": (1, CHANNELS, 3, 4, 4)}, "resize and cut the source"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(denoiser, arguments, message):
    source = arguments.get("source")
    with pytest.raises(ValueError, match=message):
        denoiser.prepare(
            context()[: arguments.get("layers", BLOCKS)],
            latent_shape=arguments.get("latent_shape", SHAPE),
            source=None if source is None else torch.zeros(source),
        )


def test_a_wan_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"text-to-video Wan2\.2"):
        LoomVideoTransformer3DModel(image_dim=1280)


def test_the_last_layers_feed_the_blocks_in_order():
    layers = [torch.full((1, 1, 1), float(i)) for i in range(6)]
    assert [int(layer) for layer in layers_for_blocks(layers, 4)] == [2, 3, 4, 5]
    assert [int(layer) for layer in layers_for_blocks(layers, 4, only_last=True)] == [5, 5, 5, 5]
    with pytest.raises(ValueError, match="6 MLLM layers cannot feed 7"):
        layers_for_blocks(layers, 7)
