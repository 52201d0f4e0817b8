"""What a training run is told: a YAML file with ``key=value`` overrides, or the published training YAML as it is."""

import difflib
import logging
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from loomvideo.pipelines import PIPELINES
from loomvideo.training.freeze import Rule

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "configs"


class ConfigError(ValueError):
    """A configuration cannot be read or does not mean anything: the key, the rule and the way out, in one line."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    rank: int = 32
    alpha: float | None = None  # the rank, where nothing is said
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")  # ends of the names of linear layers
    start: str | None = None  # a LoRA file to go on from


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    start: str = (
        "builtin"  # a model folder, "builtin" or a Hub id; its language model and VAE prepare what is learnt from
    )
    new: bool = False  # the built-in size from nothing, beside the language model and VAE of `start`
    trained: Any = "all"  # a rule of training.freeze; with a LoRA, what is trained besides: "" is nothing
    lora: LoraConfig | None = None
    gradient_checkpointing: bool = False
    compile: bool = False  # torch.compile, block by block
    precision: Literal["float32", "bfloat16"] = "float32"  # of the arithmetic; what is trained is held in float32
    use_source_embedding: bool | None = None  # LoomVideo's; None: as the model has it


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The step's samples, from shards or, prepared while training, from data sets; docs/data.md says what these are."""

    shards: str | None = None  # a folder that `loomvideo data prepare` wrote
    source: str | None = (
        None  # a data set YAML, a folder of clips, or "world"; where there are shards, what they are of
    )
    validation_shards: str | None = None  # of samples that are never trained on; or else the source's section `val`
    validation_samples: int = 32
    tokens: int = 10_240  # of a step, over all ranks
    tokens_per_group: int | None = None  # of samples that are computed together; None: as many as memory would take
    resolution_buckets: tuple[str, ...] | None = None  # this and the next two stand in for what the YAML says
    num_frames: int | None = None
    fps: float | None = None
    workers: int = 4
    max_bad_share: float = 0.05


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """What samples lose and how noisy they become; None: as the system's recipe has it."""

    all_dropout_rate: float | None = None
    text_dropout_rate: float | None = None
    even_time_share: float | None = None
    source_shift_factor: float | None = None
    clip_shift_factor: float | None = None
    base_timestep_shift: float | None = None
    num_attn_token_base_shift: int | None = None
    timestep_shift_scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    name: Literal["adamw", "muon"] = "adamw"  # muon: hidden matrices by Muon, all else by AdamW
    learning_rate: float = 2e-5
    matrix_rate: float = 0.015  # Muon's
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup_steps: int = 100
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # after the warm-up; the last two end at zero
    accumulate: int = 1  # draws of the source in a step


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    reshard_after_forward: bool = True  # False: more memory, less traffic
    sequence_parallel: int = 1  # ranks that share the tokens of one sample


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every: int = 1000
    keep: int = 3


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    log_every: int = 10
    validation_every: int = 1000
    samples_every: int = 0  # 0: never
    prompts: tuple[str, ...] = ()
    tensorboard: bool = False


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig:
    """Post-training by reward (training.nft); `ema_decay` says how slowly the policy that draws follows the learnt one."""

    reward: str = "world"  # or "pickscore", or "package.module:name" of one's own; see training.rewards
    group_size: int = 12  # clips drawn for every prompt, which are held against each other
    times: int = 2  # noise levels at which each of them is learnt from
    least_spread: float = 0.0  # what a group's rewards are divided by at least; smaller differences teach little
    beta: float = 1.0  # how far the implicit policies lie from the old one
    num_inference_steps: int = 10  # of Euler's, without guidance
    flow_shift: float = 3.0  # of the steps' times towards noise


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Fewer steps and no guidance (training.distill)."""

    num_inference_steps: int = 4
    teacher_steps: int = 6  # of the teacher, guided, for each of these
    flow_shift: float = 3.0  # of the steps' times towards noise


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    run_dir: str
    system: str = "loomvideo"
    steps: int = 100_000
    seed: int = 0
    ema_decay: float | None = None  # None: no averaged weights
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    reinforce: ReinforceConfig | None = None
    distill: DistillConfig | None = None

    def __post_init__(self) -> None:
        if self.system not in PIPELINES:
            raise ConfigError(f"system: {self.system!r} is none of {', '.join(PIPELINES)}")
        at_least_one = {
            "steps": self.steps,
            "optimizer.accumulate": self.optimizer.accumulate,
            "checkpoints.every": self.checkpoints.every,
            "checkpoints.keep": self.checkpoints.keep,
            "watch.log_every": self.watch.log_every,
            "data.tokens": self.data.tokens,
            "data.workers": self.data.workers,
            "distributed.sequence_parallel": self.distributed.sequence_parallel,
        }
        for section in ("reinforce", "distill"):
            said = {} if getattr(self, section) is None else vars(getattr(self, section))
            at_least_one |= {f"{section}.{name}": value for name, value in said.items() if isinstance(value, int)}
            if (shift := said.get("flow_shift", 1.0)) <= 0:
                raise ConfigError(
                    f"{section}.flow_shift: {shift} is not above 0; 1 leaves times as they are, 3 is usual"
                )
        for name, value in at_least_one.items():
            if value < 1:
                raise ConfigError(f"{name}: {value} is less than 1")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay: {self.ema_decay} does not lie in 0..1; 0.9999 is usual, null is none")
        if self.reinforce is not None:
            self._check_reinforce(self.reinforce)
        if self.distill is not None and self.model.lora is not None:
            raise ConfigError(
                "distill: a LoRA cannot say how many steps are taken; leave model.lora out, and a model folder is written"
            )

    def _check_reinforce(self, reinforce: ReinforceConfig) -> None:
        if self.distill is not None:
            raise ConfigError("reinforce, distill: one run does one of them; distil what the other run wrote")
        if self.ema_decay is None:
            raise ConfigError(
                "ema_decay: null, but the averaged weights are the policy that draws; 0.9 is a good value"
            )
        if self.data.source is None or self.data.shards is not None:
            raise ConfigError(
                "data.source: requests are drawn from, which data.shards do not hold; name the data set, and no shards"
            )
        if reinforce.group_size < 2:
            raise ConfigError(
                f"reinforce.group_size: {reinforce.group_size}: rewards are held against each other; use 8"
            )
        if reinforce.beta <= 0:
            raise ConfigError(f"reinforce.beta: {reinforce.beta} is not above 0; 1.0 is usual")


# --- reading


def read_config(name: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """A configuration: a file, or the name of one that is shipped; ``overrides`` are ``key=value``, the key dotted."""
    file = config_file(name)
    raw = _read_yaml(file)
    if is_published(raw):
        own_data = {"source": str(file)} if "dataset" in raw else {}
        raw = from_published(raw, run_dir=f"runs/{file.stem}")
        raw["data"] = own_data | raw.get("data", {})
    for override in overrides:
        _set(raw, override)
    config = from_mapping(TrainConfig, raw)
    beside = file.parent / (config.data.source or "")
    if config.data.source is not None and beside.is_file():
        return replace(config, data=replace(config.data, source=str(beside)))
    return config


def config_file(name: str | Path) -> Path:
    """The file of that name, or the shipped one."""
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    if Path(name).is_file():
        return Path(name)
    if str(name) not in shipped:
        raise ConfigError(f"{name}: no such file, and no configuration that is shipped ({', '.join(shipped)})")
    return shipped[str(name)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no keys: a configuration is a mapping such as 'steps: 1000'")
    return raw


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"{override}: an override is KEY=VALUE, such as optimizer.learning_rate=1e-4")
    *parents, last = key.split(".")
    for parent in parents:
        raw = _section(raw, parent, key)
    raw[last] = yaml.safe_load(value)


def _section(raw: dict[str, Any], parent: str, key: str) -> dict[str, Any]:
    section = raw.get(parent) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"{key}: {parent} is {section!r} and has no keys")
    raw[parent] = section
    return section


def from_mapping(kind: Any, raw: Any, place: str = "") -> Any:
    """A dataclass from nested mappings. Raises ConfigError for unknown and missing keys and for values of other types."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{place.rstrip('.')}: {raw!r} is given where keys are expected")
    hints, known = get_type_hints(kind), {one.name: one for one in fields(kind)}
    for key in raw:
        if key not in known:
            raise ConfigError(f"{place}{key}: there is no such key{_nearest(place, str(key), known)}")
    for name, one in known.items():
        if name not in raw and one.default is MISSING and one.default_factory is MISSING:
            raise ConfigError(f"{place}{name} is missing")
    return kind(**{key: _value(hints[key], value, f"{place}{key}") for key, value in raw.items()})


def _nearest(place: str, key: str, known: Mapping[str, Any]) -> str:
    everywhere = list(leaves(TrainConfig))
    near = difflib.get_close_matches(key, known, n=1)
    near = [f"{place}{name}" for name in near] or [name for name in everywhere if name.rsplit(".", 1)[-1] == key][:1]
    near = near or difflib.get_close_matches(f"{place}{key}", everywhere, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


def leaves(kind: Any, place: str = "") -> dict[str, Any]:
    """Dotted name and type of every key."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        inner = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        found |= leaves(inner, f"{place}{name}.") if inner else {f"{place}{name}": hint}
    return found


def _value(hint: Any, value: Any, place: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [one for one in get_args(hint) if one is not type(None)]
        return None if value is None else _value(kinds[0], value, place)
    if is_dataclass(hint):
        return from_mapping(hint, value, f"{place}.")
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{place}: {value!r} is none of {', '.join(map(str, get_args(hint)))}")
        return value
    if get_origin(hint) is tuple:
        return _values(get_args(hint), value, place)
    return value if hint is typing.Any else _plain(hint, value, place)


def _values(kinds: tuple, value: Any, place: str) -> tuple:
    given = value if isinstance(value, (list, tuple)) else [value]
    kinds = kinds[:1] * len(given) if kinds[-1] is Ellipsis else kinds
    if len(given) != len(kinds):
        raise ConfigError(f"{place}: {len(given)} values where {len(kinds)} are expected")
    return tuple(_value(kind, one, place) for kind, one in zip(kinds, given, strict=True))


def _plain(kind: type, value: Any, place: str) -> Any:
    wrong = ConfigError(f"{place}: {value!r} is no {kind.__name__}")
    if kind is float and not isinstance(value, bool):  # YAML takes 1e-4 for text
        try:
            return float(value)
        except (TypeError, ValueError):
            raise wrong from None
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong
    return value


# --- the published training YAML (fact sheet 9)

# A key's last parts there, and where it stands here; None: it has no bearing on what is learnt here.
PUBLISHED = {
    "model.trainable_modules": "model.trained",
    "model.gradient_checkpointing": "model.gradient_checkpointing",
    "model.pretrained_ckpt_path": "model.start",
    "gen.base_timestep_shift": "flow.base_timestep_shift",
    "gen.num_attn_token_base_shift": "flow.num_attn_token_base_shift",
    "gen.timestep_shift_scale": "flow.timestep_shift_scale",
    "gen.use_source_embedding": "model.use_source_embedding",
    "resolution_buckets": "data.resolution_buckets",
    "num_frames": "data.num_frames",
    "fps": "data.fps",
    "num_workers": "data.workers",
    "max_batch_num_attention_tokens": "data.tokens",
    "all_dropout_rate": "flow.all_dropout_rate",
    "text_dropout_rate": "flow.text_dropout_rate",
    "lr": "optimizer.learning_rate",
    "learning_rate": "optimizer.learning_rate",
    "betas": "optimizer.betas",
    "adam_betas": "optimizer.betas",
    "eps": "optimizer.eps",
    "weight_decay": "optimizer.weight_decay",
    "clip": "optimizer.clip",
    "max_grad_norm": "optimizer.clip",
    "warmup_steps": "optimizer.warmup_steps",
    "grad_accum": "optimizer.accumulate",
    "gradient_accumulation_steps": "optimizer.accumulate",
    "max_steps": "steps",
    "max_train_steps": "steps",
    "seed": "seed",
    "ema_decay": "ema_decay",
    "ema.decay": "ema_decay",
    "save_interval": "checkpoints.every",
    "validation_interval": "watch.validation_every",
    "log_dir": "run_dir",
}

EMA_SWITCHES = ("use_ema", "enable_ema", "ema.enable", "ema.enabled", "ema.use")


def is_published(raw: Mapping[str, Any]) -> bool:
    """Whether a configuration is the published project's: it says what `gen` and `und` are."""
    model = raw.get("model")
    return isinstance(model, Mapping) and ("gen" in model or "und" in model)


def from_published(raw: Mapping[str, Any], *, run_dir: str) -> dict[str, Any]:
    """The published YAML's values under this program's keys.

    What stands under `val` and `eval` of its data, and keys that the table does not name, are left out: how the language
    model looks at frames is the model folder's, and published weights must be imported first (``loomvideo import``). A
    warning names them.
    """
    found: dict[str, Any] = {}
    unused: list[str] = []
    values = {name: value for name, value in raw.items() if name != "dataset"}  # which the source of samples reads
    for name, value in _flat(values, stop={"trainable_modules", "betas", "adam_betas", "resolution_buckets"}):
        ours = _ours(name)
        if name.endswith(EMA_SWITCHES):
            continue
        if ours is None or name.startswith(("data.val.", "data.eval.")):
            unused.append(name)
        elif value is not None:
            found[ours] = value
    if unused:
        log.warning("these keys of the published YAML change nothing here: %s", ", ".join(sorted(unused)))
    if not _ema_on(raw):
        found.pop("ema_decay", None)
    nested: dict[str, Any] = {"run_dir": run_dir}
    for name, value in found.items():
        *parents, last = name.split(".")
        section = nested
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    rule = nested.get("model", {}).get("trained")
    if isinstance(rule, Mapping) and "gen_model" in rule:  # the denoiser is all that is trained here
        nested["model"]["trained"] = rule["gen_model"]
    nested.setdefault("model", {})["precision"] = "bfloat16"
    nested.setdefault("flow", {})["even_time_share"] = 0.0  # which is not published
    return nested


def _flat(raw: Mapping[str, Any], stop: set[str], place: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in raw.items():
        if isinstance(value, Mapping) and key not in stop:
            pairs += _flat(value, stop, f"{place}{key}.")
        else:
            pairs.append((f"{place}{key}", value))
    return pairs


def _ours(name: str) -> str | None:
    parts = name.split(".")
    for first in range(len(parts)):
        if (ours := PUBLISHED.get(".".join(parts[first:]))) is not None:
            return ours
    return None


def _ema_on(raw: Mapping[str, Any]) -> bool:
    return all(bool(value) for name, value in _flat(raw, set()) if name.endswith(EMA_SWITCHES))


def trained_rule(config: TrainConfig) -> Rule:
    """What the model's own parameters are trained by; nothing beside a LoRA unless it is said."""
    if config.model.lora is not None and config.model.trained == "all":
        return False
    return config.model.trained or False
