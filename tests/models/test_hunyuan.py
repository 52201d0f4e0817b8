"""Laws of VINO's denoiser."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from loomvideo.models import hunyuan
from loomvideo.models.hunyuan import VinoTransformer3DModel

SHAPE = (3, 4, 6)  # latent frames, rows, columns
CHANNELS, TEXT_WIDTH, WIDTH, TOKENS = 4, 10, 24, 5
PICTURE, CLIP = (1, 4, 4), (2, 2, 6)


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    denoiser = VinoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        text_embed_dim=TEXT_WIDTH,
        pooled_projection_dim=6,
        rope_axes_dim=(4, 4, 4),
    )
    for parameter in denoiser.parameters():  # nothing stays at zero, so that everything is seen
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser.eval()


def latents(batch=1, shape=SHAPE):
    return torch.randn(batch, CHANNELS, *shape)


def text(batch=1, tokens=TOKENS):
    return torch.randn(batch, tokens, TEXT_WIDTH)


def bounded(*shapes, batch=1):
    """References of these shapes, and their markers."""
    return {
        "references": [latents(batch, shape) for shape in shapes],
        "markers": torch.randn(batch, len(shapes), 2, WIDTH),
    }


@torch.no_grad()
def velocity(denoiser, noisy, tokens, timestep=700.0, **conditions):
    prepared = denoiser.prepare(tokens, latent_shape=noisy.shape, **conditions)
    return denoiser(noisy, torch.full((len(noisy),), timestep), prepared)


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_velocity_is_that_of_the_target_whatever_is_shown(denoiser):
    noisy = latents()
    for shown in ({}, bounded(PICTURE), bounded(CLIP, PICTURE), bounded(PICTURE, (7, 2, 2))):
        assert velocity(denoiser, noisy, text(), **shown).shape == noisy.shape


def test_a_batch_of_branches_equals_each_branch_alone(denoiser):
    noisy, tokens, shown = latents().repeat(3, 1, 1, 1, 1), text(3), bounded(PICTURE, CLIP, batch=3)
    batch = velocity(denoiser, noisy, tokens, **shown)
    for i in range(3):
        references = [reference[i : i + 1] for reference in shown["references"]]
        markers = shown["markers"][i : i + 1]
        alone = velocity(denoiser, noisy[:1], tokens[i : i + 1], references=references, markers=markers)
        assert_equal(batch[i : i + 1], alone)
    assert not torch.allclose(batch[0], batch[1], atol=1e-3)


def test_every_sample_of_a_batch_has_its_own_time(denoiser):
    noisy, tokens = latents().repeat(2, 1, 1, 1, 1), text().repeat(2, 1, 1)
    prepared = denoiser.prepare(tokens, latent_shape=SHAPE)
    with torch.no_grad():
        both = denoiser(noisy, torch.tensor([100.0, 900.0]), prepared)
    assert_equal(both[1:], velocity(denoiser, noisy[1:], tokens[1:], 900.0))
    assert not torch.allclose(both[0], both[1], atol=1e-3)


@pytest.mark.parametrize("shapes", [(), (PICTURE,)], ids=["no reference", "a reference"])
def test_a_padded_and_masked_text_equals_the_text_without_padding(denoiser, shapes):
    noisy, tokens, shown = latents(), text(), bounded(*shapes)
    padded, mask = F.pad(tokens, (0, 0, 0, 3), value=5.0), torch.arange(TOKENS + 3)[None] < TOKENS
    plain = velocity(denoiser, noisy, tokens, **shown)
    assert_equal(velocity(denoiser, noisy, padded, context_mask=mask, **shown), plain)
    assert not torch.allclose(velocity(denoiser, noisy, padded, **shown), plain, atol=1e-3)


def test_attention_gets_a_mask_only_where_text_is_padded(denoiser, monkeypatch):
    masks, attention = [], F.scaled_dot_product_attention

    def recorded(*arguments, attn_mask=None, **options):
        masks.append(attn_mask)
        return attention(*arguments, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    velocity(denoiser, latents(), text(), **bounded(PICTURE))
    assert masks
    assert all(mask is None for mask in masks)
    masks.clear()
    velocity(denoiser, latents(), text(), context_mask=torch.arange(TOKENS)[None] < 3)
    assert all(mask is not None for mask in masks)


# --- items that are moved to the frames of a clip

FRAMES_OF_TEXT = torch.tensor([[0, 0, 1, 1, 2, 2, -1]])


@pytest.mark.parametrize(("name", "frame"), [("item", 1), ("visual", 1), ("reference", -1), ("query", -1)])
def test_a_text_token_of_a_frame_meets_no_token_of_another_and_all_others_meet(name, frame):
    visual, text_frames = torch.tensor([-1, -1, 0, 0, 1, 1, 2, 2]), FRAMES_OF_TEXT
    own = hunyuan.own_frames(visual, text_frames)[0, 0]
    assert torch.equal(own, own.T), "who reads is read"
    first = {"item": 8 + 2, "visual": 4, "reference": 0, "query": 8 + 6}[name]
    others = torch.cat([visual, text_frames[0]])
    reads = (others == frame) | (others == -1) | (frame == -1)
    if name == "visual":
        reads[:8] = True
    assert torch.equal(own[first], reads)


@pytest.mark.parametrize("shown", [None, (0, 2)])
def test_the_targets_tokens_read_the_items_of_the_frame_they_stand_for(denoiser, shown):
    frames = SHAPE[0] if shown is None else len(shown)
    text_frames = torch.cat([torch.arange(frames), torch.tensor([-1])])[None]
    prepared = denoiser.prepare(
        text(tokens=frames + 1), latent_shape=SHAPE, shown=shown, text_frames=text_frames, **bounded(PICTURE)
    )
    num_text, a_frame = frames + 1, SHAPE[1] * SHAPE[2] // 4
    visual = prepared.joint_mask[0, 0, :-num_text, -num_text:]
    of_references, of_target = visual.split([len(visual) - frames * a_frame, frames * a_frame])
    assert of_references.all()
    for frame, tokens in enumerate(of_target.split(a_frame)):
        assert torch.equal(tokens, ((text_frames == frame) | (text_frames == -1)).expand(a_frame, -1))
    assert torch.equal(prepared.context_mask, prepared.joint_mask[..., -num_text:, -num_text:])


@torch.no_grad()
def test_what_is_said_of_a_frame_reaches_its_own_tokens_alone(denoiser):
    """In one block of either kind; over several it comes to others by what is of every frame."""
    prepared = denoiser.prepare(text(tokens=7), latent_shape=SHAPE, text_frames=FRAMES_OF_TEXT)
    num_visual, a_frame = prepared.joint_mask.shape[-1] - 7, SHAPE[1] * SHAPE[2] // 4
    tokens, embedding = torch.randn(1, num_visual + 7, WIDTH), torch.randn(1, WIDTH)
    other = tokens.clone()
    other[:, num_visual + 2] = torch.randn(WIDTH)  # an item of the second frame
    of = torch.cat([torch.arange(SHAPE[0]).repeat_interleave(a_frame), FRAMES_OF_TEXT[0]])

    def double(x):
        block = denoiser.transformer_blocks[0]
        x, said = x.split([num_visual, 7], dim=1)
        return torch.cat(block(x, said, embedding, prepared.rope, prepared.joint_mask), dim=1)

    def single(x):
        return denoiser.single_transformer_blocks[0](x, embedding, prepared.rope, prepared.joint_mask)

    for block in (double, single):
        changed = ((block(other) - block(tokens)).abs() > 1e-6).any(dim=-1)[0]
        assert torch.equal(changed, (of == 1) | (of == -1))


def test_what_is_padded_is_read_at_no_frame(denoiser):
    noisy, tokens = latents(), text(tokens=7)
    plain = velocity(denoiser, noisy, tokens, text_frames=FRAMES_OF_TEXT, **(shown := bounded(PICTURE)))
    places = torch.tensor([0, 1, 3, 4, 6, 7, 9])  # one more item of each frame is padding
    padded, mask = torch.full((1, 10, TEXT_WIDTH), 5.0), torch.zeros(1, 10, dtype=torch.bool)
    padded[:, places], mask[:, places] = tokens, True
    frames = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2, -1]])
    assert_equal(velocity(denoiser, noisy, padded, text_frames=frames, context_mask=mask, **shown), plain)
    assert not torch.allclose(velocity(denoiser, noisy, tokens, **shown), plain, atol=1e-3)


def test_text_of_every_frame_is_read_as_text_of_no_frames_is(denoiser):
    noisy, tokens = latents(), text()
    frames = torch.full((1, TOKENS), -1)
    assert_equal(velocity(denoiser, noisy, tokens, text_frames=frames), velocity(denoiser, noisy, tokens))


def test_the_order_of_references_matters(denoiser):
    noisy, tokens, shown = latents(), text(), bounded(PICTURE, PICTURE)
    reordered = {"references": shown["references"][::-1], "markers": shown["markers"].flip(1)}
    one, other = velocity(denoiser, noisy, tokens, **shown), velocity(denoiser, noisy, tokens, **reordered)
    assert not torch.allclose(one, other, atol=1e-4)


def test_markers_have_a_part_and_start_is_not_end(denoiser):
    noisy, tokens, shown = latents(), text(), bounded(PICTURE, CLIP)
    plain = velocity(denoiser, noisy, tokens, **shown)
    for changed in (torch.zeros_like(shown["markers"]), shown["markers"].flip(2)):
        assert not torch.allclose(velocity(denoiser, noisy, tokens, **{**shown, "markers": changed}), plain, atol=1e-4)


def test_references_and_markers_are_modulated_as_the_target_is(denoiser):
    """No part of the sequence has a time of its own: one row a sample, and a reference changes with the timestep."""
    rows, seen = [], []
    handles = [
        module.register_forward_hook(lambda _, __, output: rows.extend(output))
        for module in denoiser.modules()
        if isinstance(module, hunyuan.Modulation)
    ]
    handles.append(denoiser.transformer_blocks[0].attn.register_forward_pre_hook(lambda _, args: seen.append(args[0])))
    prepared = denoiser.prepare(text(2), latent_shape=SHAPE, **bounded(PICTURE, batch=2))
    noisy = latents(2)
    with torch.no_grad():
        for timestep in (10.0, 990.0):
            denoiser(noisy, torch.full((2,), timestep), prepared)
    for handle in handles:
        handle.remove()
    assert {row.shape for row in rows} == {(2, 1, WIDTH)}
    num_references = prepared.references.shape[1]
    assert not torch.allclose(seen[0][:, :num_references], seen[1][:, :num_references], atol=1e-3)


def test_a_step_computes_nothing_that_no_step_changes(denoiser, monkeypatch):
    shown = bounded(PICTURE, CLIP)
    prepared = denoiser.prepare(text(), latent_shape=SHAPE, **shown)
    refiner = denoiser.context_embedder
    constant = {
        "references' patches and the target's": denoiser.x_embedder["proj"],
        "text projection": refiner.proj_in,
        "mean text": refiner.time_text_embed.text_embedder,
        "first attention over text": refiner.blocks[0].attn,
        "guidance": denoiser.time_text_embed.guidance_embedder,
    }
    calls = dict.fromkeys(constant, 0)

    def count(name):
        return lambda *_: calls.update({name: calls[name] + 1})

    handles = [module.register_forward_hook(count(name)) for name, module in constant.items()]
    monkeypatch.setattr(hunyuan, "rope_table", None)  # must not be called
    monkeypatch.setattr(hunyuan, "bounded_positions", None)
    with torch.no_grad():
        for timestep in (900.0, 500.0, 100.0):
            denoiser(latents(), torch.tensor([timestep]), prepared)
    for handle in handles:
        handle.remove()
    assert calls == {**dict.fromkeys(constant, 0), "references' patches and the target's": 3}


def test_conditions_serve_every_step_and_cannot_be_changed(denoiser):
    noisy, tokens, shown = latents(), text(), bounded(CLIP)
    prepared = denoiser.prepare(tokens, latent_shape=SHAPE, **shown)
    with torch.no_grad():
        denoiser(noisy, torch.tensor([900.0]), prepared)
        again = denoiser(noisy, torch.tensor([700.0]), prepared)
    torch.testing.assert_close(again, velocity(denoiser, noisy, tokens, **shown), rtol=0, atol=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        prepared.references = None


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_reach_all_but_the_unused_embedder_of_pooled_text(denoiser, checkpointed):
    tokens, shown = text().requires_grad_(), bounded(PICTURE, CLIP)
    given = [tokens, shown["markers"].requires_grad_(), *(latent.requires_grad_() for latent in shown["references"])]
    if checkpointed:
        denoiser.enable_gradient_checkpointing()
    denoiser.train()
    try:
        prepared = denoiser.prepare(tokens, latent_shape=SHAPE, **shown)
        denoiser(latents(), torch.tensor([500.0]), prepared).square().sum().backward()
        untouched = {name for name, parameter in denoiser.named_parameters() if parameter.grad is None}
        without = {name for name, p in denoiser.named_parameters() if p.grad is not None and not p.grad.any()}
    finally:
        denoiser.zero_grad()
        denoiser.disable_gradient_checkpointing()
        denoiser.eval()
    assert untouched == {
        f"time_text_embed.text_embedder.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")
    }
    # the last double block's text goes on into the single blocks, so nothing is lost between the streams
    assert not without
    assert all(tensor.grad.abs().sum() > 0 for tensor in given)


def test_checkpointing_changes_no_gradient(denoiser):
    noisy, tokens, shown = latents(), text(), bounded(PICTURE)
    results = []
    denoiser.train()
    try:
        for switch in (denoiser.disable_gradient_checkpointing, denoiser.enable_gradient_checkpointing):
            switch()
            denoiser.zero_grad()
            prepared = denoiser.prepare(tokens, latent_shape=SHAPE, **shown)
            denoiser(noisy, torch.tensor([500.0]), prepared).square().sum().backward()
            results.append(denoiser.x_embedder["proj"].weight.grad.clone())
    finally:
        denoiser.zero_grad()
        denoiser.disable_gradient_checkpointing()
        denoiser.eval()
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_fresh_weights_predict_nothing_and_pass_a_gradient():
    fresh = VinoTransformer3DModel(
        in_channels=2, out_channels=2, num_attention_heads=1, attention_head_dim=12, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=4, pooled_projection_dim=4, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip
    noisy = torch.randn(1, 2, 1, 4, 4)
    predicted = fresh(noisy, torch.tensor([500.0]), fresh.prepare(torch.randn(1, 3, 4), latent_shape=noisy.shape))
    assert not predicted.any()
    (predicted - noisy).square().sum().backward()
    assert fresh.proj_out.weight.grad.any()


def test_another_vae_needs_another_configuration_only():
    """48 channels in patches of one: the Wan latents of the built-in model."""
    denoiser = VinoTransformer3DModel(
        in_channels=48, out_channels=48, num_attention_heads=1, attention_head_dim=12, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, text_embed_dim=4, pooled_projection_dim=4, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip
    noisy = torch.randn(1, 48, 2, 3, 5)
    with torch.no_grad():
        prepared = denoiser.prepare(torch.randn(1, 3, 4), latent_shape=noisy.shape)
        assert denoiser(noisy, torch.tensor([500.0]), prepared).shape == noisy.shape


def test_bfloat16_weights_give_nearly_the_velocity_of_float32(denoiser, tmp_path):
    denoiser.save_pretrained(tmp_path)
    rounded = VinoTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert rounded.time_text_embed.timestep_embedder.linear_1.weight.dtype == torch.float32
    noisy, tokens, shown = latents(), text(), bounded(PICTURE)
    coarse = velocity(
        rounded,
        noisy.bfloat16(),
        tokens.bfloat16(),
        references=[latent.bfloat16() for latent in shown["references"]],
        markers=shown["markers"].bfloat16(),
    )
    assert coarse.dtype == torch.bfloat16
    exact = velocity(denoiser, noisy, tokens, **shown)
    assert (coarse.float() - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_weights_come_back_as_they_were_saved(denoiser, tmp_path):
    denoiser.save_pretrained(tmp_path)
    loaded = VinoTransformer3DModel.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in denoiser.state_dict().items())


def test_references_without_markers_and_markers_without_references_are_refused(denoiser):
    shown = bounded(PICTURE, CLIP)
    for wrong in ({"references": shown["references"]}, {"markers": shown["markers"]}):
        with pytest.raises(ValueError, match="pairs of markers for"):
            denoiser.prepare(text(), latent_shape=SHAPE, **wrong)


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 4, 7)])
def test_latents_that_do_not_fit_the_patches_are_refused(denoiser, shape):
    with pytest.raises(ValueError, match="multiple of its patch"):
        denoiser.prepare(text(), latent_shape=shape)
    with pytest.raises(ValueError, match="multiple of its patch"):
        denoiser.prepare(text(), latent_shape=SHAPE, **bounded(shape))
