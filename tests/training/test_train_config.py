"""A run's configuration: what is said is understood or refused by name, and the published YAML means what it meant."""

import pytest
import yaml

from loomvideo.training.config import (
    SHIPPED,
    ConfigError,
    DataConfig,
    FlowConfig,
    TrainConfig,
    from_mapping,
    leaves,
    read_config,
    trained_rule,
)
from loomvideo.training.loomvideo import LoomVideoRecipe
from loomvideo.training.trainer import rules_of

# The published stages' values (fact sheet 9) under the published names.
STAGES = {
    "stage1": {
        "buckets": ["256"], "frames": 33, "tokens": 10240, "source": False, "scale": 0.65, "dropout": 0.0, "ema": False, "warmup": 100,
    },
    "stage2": {
        "buckets": ["640"], "frames": 121, "tokens": 16384, "source": True, "scale": 0.5, "dropout": 0.1, "ema": True, "warmup": 1000,
    },
}  # fmt: skip


def published(stage):
    said = STAGES[stage]
    return {
        "model": {
            "trainable_modules": {"gen_model": "all"},
            "gradient_checkpointing": True,
            "und": {"pretrained_model_path": "qwen", "add_source_video": said["source"]},
            "gen": {
                "pretrained_model_path": "wan",
                "base_timestep_shift": 1.0,
                "num_attn_token_base_shift": 64,
                "timestep_shift_scale": said["scale"],
                "use_source_embedding": said["source"],
            },
        },
        "data": {
            "und_temporal_downsample_factor": 15,
            "train": {
                "resolution_buckets": said["buckets"],
                "num_frames": said["frames"],
                "fps": 24,
                "max_batch_num_attention_tokens": said["tokens"],
                "all_dropout_rate": said["dropout"],
                "text_dropout_rate": said["dropout"],
            },
            "val": {"num_frames": 1},
        },
        "train": {
            "lr": 2e-5,
            "betas": [0.9, 0.95],
            "warmup_steps": said["warmup"],
            "max_steps": 100_000,
            "validation_interval": 1000,
            "ema": {"enabled": said["ema"], "decay": 0.9999},
        },
    }


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_read_by_its_name(path):
    assert isinstance(read_config(path.stem), TrainConfig)


@pytest.mark.parametrize("stage", STAGES)
def test_the_published_yaml_is_the_shipped_stage(stage, tmp_path):
    """But for budgets, which are of a step here and of a process there."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(published(stage)))
    theirs, ours = read_config(file), read_config(stage)
    assert theirs.flow == ours.flow or theirs.flow.num_attn_token_base_shift == 64
    assert rules_of(theirs, LoomVideoRecipe) == rules_of(ours, LoomVideoRecipe)
    assert theirs.optimizer == ours.optimizer
    assert theirs.ema_decay == ours.ema_decay
    assert theirs.model.use_source_embedding == ours.model.use_source_embedding
    assert theirs.model.gradient_checkpointing == ours.model.gradient_checkpointing
    assert theirs.model.trained == "all"
    for name in ("resolution_buckets", "num_frames", "fps"):
        assert getattr(theirs.data, name) == getattr(ours.data, name)
    assert theirs.data.tokens == ours.data.tokens_per_group


def test_keys_of_the_published_yaml_that_change_nothing_are_named(tmp_path, caplog):
    file = tmp_path / "config.yaml"
    said = published("stage1")
    said["train"]["flavour"] = "mild"
    file.write_text(yaml.safe_dump(said))
    read_config(file)
    (warning,) = [record.message for record in caplog.records if "change nothing" in record.message]
    named = set(warning.partition(": ")[2].split(", "))
    assert {"train.flavour", "data.val.num_frames", "model.und.pretrained_model_path"} <= named
    assert not {"train.lr", "train.ema.enabled", "train.ema.decay", "data.train.fps"} & named


def test_a_published_yaml_with_data_sets_is_its_own_source(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(published("stage1") | {"dataset": {"train": {"world": {"world": "t2i"}}}}))
    assert read_config(file).data.source == str(file)


def test_overrides_reach_any_key_and_keep_yamls_types():
    config = read_config(
        "finetune",
        [
            "optimizer.learning_rate=1e-5",
            "model.lora.targets=[to_q]",
            "ema_decay=null",
            "model.compile=true",
            "steps=7",
        ],
    )
    assert config.optimizer.learning_rate == 1e-5
    assert config.model.lora.targets == ("to_q",)
    assert config.ema_decay is None
    assert config.model.compile is True
    assert config.steps == 7
    assert config.optimizer.warmup_steps == read_config("finetune").optimizer.warmup_steps


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.name=muon", r"optimiser: there is no such key; did you mean optimizer"),
        ("optimizer.learning_rte=1", r"optimizer\.learning_rte.*optimizer\.learning_rate"),
        ("learning_rate=1", r"learning_rate.*did you mean optimizer\.learning_rate"),
        ("optimizer.name=sgd", r"optimizer\.name.*'sgd'.*adamw, muon"),
        ("steps=many", r"steps: 'many' is no int"),
        ("steps=0", r"steps: 0 is less than 1"),
        ("model.compile=1", r"model\.compile: 1 is no bool"),
        ("optimizer.betas=[0.9]", r"optimizer\.betas: 1 values where 2"),
        ("optimizer=3", r"optimizer: 3 is given where keys"),
        ("system=sora", r"system: 'sora' is none of loomvideo"),
        ("ema_decay=1.5", r"ema_decay: 1\.5.*null is none"),
        ("steps", r"steps: an override is KEY=VALUE"),
    ],
)
def test_what_is_not_understood_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        read_config("finetune", [override])


def test_a_name_that_is_no_file_names_those_that_are_shipped():
    with pytest.raises(ConfigError, match=r"stage9.*no such file.*finetune.*stage1"):
        read_config("stage9")


def test_what_must_be_said_and_is_not_is_named():
    with pytest.raises(ConfigError, match="run_dir is missing"):
        from_mapping(TrainConfig, {})


def test_the_rules_of_a_recipe_hold_where_nothing_is_said():
    assert rules_of(read_config("smoke"), LoomVideoRecipe) == LoomVideoRecipe.rules
    said = read_config("smoke", ["flow.text_dropout_rate=0.3"])
    assert rules_of(said, LoomVideoRecipe).text_dropout_rate == 0.3
    assert set(vars(FlowConfig())) == set(vars(LoomVideoRecipe.rules))


def test_beside_a_lora_nothing_else_is_trained_unless_it_is_said():
    assert trained_rule(read_config("stage1")) == "all"
    assert trained_rule(read_config("finetune")) is False
    assert trained_rule(read_config("finetune", ["model.trained=norm"])) == "norm"


def test_all_keys_are_known_by_their_dotted_names():
    names = leaves(TrainConfig)
    assert "model.lora.rank" in names
    assert {f"data.{name}" for name in vars(DataConfig())} < set(names)
