"""LoRA: trained here and read by diffusers' own loader, merged, mixed, and read in the other layouts, all the same."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import CPU, TinyRecipe, config, make_trainer, sample, train

from loomvideo.models.lora import Lora, LoraError, linear_layers, load_loras, merge_loras, read_lora, wan_name
from loomvideo.training.config import ConfigError, LoraConfig
from loomvideo.training.distributed import Ranks
from loomvideo.training.lora import add_lora
from loomvideo.training.recipe import NO_DROPOUT, BatchRules, Draw
from loomvideo.training.results import filled, write_result

RULES = BatchRules(**NO_DROPOUT)
TARGETS = ("to_q", "to_out.0", "ffn.net.0.proj")


def errors_of(model):
    recipe = TinyRecipe()
    with torch.no_grad():
        return recipe.squared_errors(model, recipe.batch([Draw(sample(1), (1,))], CPU, RULES))


def model_of():
    return TinyRecipe().build(None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The settings, the trained weights and the file of a short run."""
    folder = tmp_path_factory.mktemp("lora")
    settings = config(
        folder,
        steps=3,
        model={"lora": {"rank": 2, "alpha": 4, "targets": list(TARGETS)}},
        watch={"validation_every": 100},
    )
    _, weights = train(settings)
    file = write_result(settings, TinyRecipe(), model_of(), weights, folder)
    return settings, weights, file


@pytest.fixture
def file(trained):
    return trained[2]


def test_only_the_adapters_learn(trained):
    _, weights, _ = trained
    assert all(".lora_" in name for name in weights)
    assert all(any(target in name for target in TARGETS) for name in weights)
    assert any(value.abs().max() > 0 for name, value in weights.items() if ".lora_B." in name)


def test_what_is_said_to_be_trained_beside_a_lora_is(tmp_path):
    settings = config(tmp_path, steps=1, model={"lora": {"rank": 2}, "trained": "norm_q"})
    names = set(make_trainer(settings, Ranks(CPU)).parameters)
    assert any(".lora_A." in name for name in names)
    assert any("norm_q" in name for name in names)
    assert all(".lora_" in name or "norm_q" in name for name in names)


def test_diffusers_own_loader_gives_what_was_trained(trained):
    settings, weights, file = trained
    theirs = model_of()
    theirs.load_lora_adapter(file.parent, prefix="transformer", weight_name=file.name)
    mine = model_of()
    add_lora(mine, settings.model.lora)
    expected = errors_of(filled(mine, weights))
    torch.testing.assert_close(errors_of(theirs), expected)
    assert not torch.allclose(expected, errors_of(model_of()), rtol=1e-4)


def test_ours_gives_the_same(file):
    theirs, ours = model_of(), model_of()
    theirs.load_lora_adapter(file.parent, prefix="transformer", weight_name=file.name)
    load_loras(ours, [Lora(file)])
    torch.testing.assert_close(errors_of(ours), errors_of(theirs))


@pytest.mark.parametrize("weights", [(1.0,), (0.5,), (0.7, -0.2)])
def test_merging_is_applying_with_the_same_weights(file, weights):
    loras = [Lora(file, weight) for weight in weights]
    applied, merged = model_of(), model_of()
    load_loras(applied, loras)
    merge_loras(merged, loras)
    torch.testing.assert_close(errors_of(merged), errors_of(applied), rtol=1e-4, atol=1e-5)
    assert set(merged.state_dict()) == set(model_of().state_dict())


def in_layout(file, layout, folder):
    """The same LoRA as another program writes it; alpha 4 at rank 2 scales by 2."""
    state = {}
    for key, value in load_file(file).items():
        layer, _, matrix = key.removeprefix("transformer.").rpartition(".lora_")
        down = matrix.startswith("A")
        if layout == "kohya":
            name = "lora_unet_" + wan_name(layer).replace(".", "_")
            state[f"{name}.lora_{'down' if down else 'up'}.weight"] = value
            state[f"{name}.alpha"] = torch.tensor(4.0)
        elif layout == "comfyui":
            state[f"diffusion_model.{wan_name(layer)}.lora_{matrix}"] = value if down else 2 * value
        else:
            state[f"{layer}.lora_{matrix}"] = value if down else 2 * value
    path = folder / f"{layout}.safetensors"
    save_file(state, path)
    return path


@pytest.mark.parametrize("layout", ["kohya", "comfyui", "bare"])
def test_other_layouts_are_the_same_lora(file, layout, tmp_path):
    expected, actual = model_of(), model_of()
    load_loras(expected, [Lora(file)])
    load_loras(actual, [Lora(in_layout(file, layout, tmp_path))])
    torch.testing.assert_close(errors_of(actual), errors_of(expected))


def test_every_layer_has_one_name_in_every_layout():
    layers = linear_layers(model_of())
    names = [wan_name(name) for name in layers]
    assert len(set(names)) == len(names)
    assert len({name.replace(".", "_") for name in [*names, *layers]}) == len({*names, *layers})


def spoiled(file, folder, change):
    state = load_file(file)
    change(state)
    path = folder / "spoiled.safetensors"
    save_file(state, path)
    return path


KEY = "transformer.blocks.0.attn1.to_q.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"blocks.9.attn1.to_q.lora_A.weight": s[KEY].clone()}), r"blocks\.9\.attn1.*another model"),
        (lambda s: s.update({KEY: torch.ones(3, 24)}), r"to_q\.lora_A\.weight has rank 3 and .*rank 2"),
        (lambda s: s.update({KEY: torch.ones(2, 7)}), r"to_q\.lora_A\.weight has 7 features and the layer 24"),
        (lambda s: s.pop(KEY), r"to_q\.lora_B\.weight stands alone"),
        (lambda s: s.update({"blocks.0.attn1.to_q.diff": s[KEY].clone()}), r"to_q\.diff is no LoRA matrix"),
    ],
)
def test_what_does_not_fit_is_named(file, tmp_path, change, message):
    with pytest.raises(LoraError, match=message):
        read_lora(spoiled(file, tmp_path, change), model_of())


def test_a_target_that_is_no_layer_is_named():
    with pytest.raises(ConfigError, match=r"model\.lora\.targets: to_x ends the name of no linear layer.*to_q"):
        add_lora(model_of(), LoraConfig(targets=("to_q", "to_x")))


def test_a_run_may_go_on_with_a_lora_from_a_file(file):
    model = model_of().requires_grad_(False)
    add_lora(model, LoraConfig(start=str(file)))
    expected = model_of()
    load_loras(expected, [Lora(file)])
    torch.testing.assert_close(errors_of(model), errors_of(expected))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if ".lora_" in name
    }
