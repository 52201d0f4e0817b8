"""The training objective and its gradients are the published ones."""

import torch
from golden_set import GRADIENT_TOLERANCE, assert_same, each_case, numbered
from test_loomvideo_mllm import chat_inputs

from loomvideo.conditioning.deepstack import layers_for_blocks
from loomvideo.models.qwen import layer_features, set_rotary_tables
from loomvideo.training.objective import Group, flow_matching_loss, predict_velocity


def samples(golden):
    """The tensors of each sample of the batch, without their prefix, in order."""
    prefixes = {name.split("_")[0] for name in golden if name[0] == "s" and name[1:].split("_")[0].isdigit()}
    for prefix in sorted(prefixes, key=lambda prefix: int(prefix[1:])):
        yield (
            prefix,
            {name.removeprefix(f"{prefix}_"): golden[name] for name in golden if name.startswith(f"{prefix}_")},
        )


def group(sample, time, mllm, num_blocks):
    with torch.no_grad():
        layers = layer_features(mllm, chat_inputs(sample))
    return Group(
        latents=sample["target_latent"],
        noise=sample["noise"],
        time=time,
        layers=layers_for_blocks(layers, num_blocks),
        source=sample.get("source_latent"),
        references=numbered(sample, "ref_latent"),
    )


def close(actual, expected):
    return abs(actual - expected) <= GRADIENT_TOLERANCE * abs(expected)


@each_case("loomvideo", "loss")
def test_loss_velocities_and_gradients(case, make_transformer, mllm):
    set_rotary_tables(mllm, rounded=False)
    golden, transformer = case.load(), make_transformer()
    generated = [(name, sample) for name, sample in samples(golden) if "target_latent" in sample]
    groups = [
        group(sample, golden["t"][i : i + 1], mllm, len(transformer.blocks)) for i, (_, sample) in enumerate(generated)
    ]
    assert len(groups) == len(golden["t"])
    for (name, sample), one in zip(generated, groups, strict=True):
        assert_same(f"{name}_pred", predict_velocity(transformer, one), sample["pred"])

    loss = flow_matching_loss(transformer, groups)
    assert_same("loss", loss.detach()[None], golden["loss"])
    assert close(loss.item(), case.params["loss"])

    loss.backward()
    gradients = {name: parameter.grad for name, parameter in transformer.named_parameters()}
    norms = {name: gradient.norm().item() for name, gradient in gradients.items() if gradient is not None}
    wrong = {name: norms[name] for name, norm in case.params["grad_norms"].items() if not close(norms[name], norm)}
    assert not wrong, f"gradient norms differ: {wrong}"
    assert close(torch.tensor(list(norms.values())).double().norm().item(), case.params["total_grad_norm"])
    without = [name for name, gradient in gradients.items() if gradient is None]
    assert sorted(without) == sorted(case.params["parameters_without_gradient"])
    zero = [name for name, norm in norms.items() if norm == 0]
    assert sorted(zero) == sorted(case.params["zero_gradient"])
