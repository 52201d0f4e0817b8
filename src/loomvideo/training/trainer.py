"""One trainer for fine-tuning and for the published stages: steps, not minutes, on one process or many.

A step's result depends on the configuration, the step's number and the data alone: what is random is drawn from the
samples' own seeds, so that a run may be stopped, moved to another number of ranks, and gone on with.
"""

import logging
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from loomvideo.training.checkpoints import Checkpoints, Tensors, optimizer_tensors
from loomvideo.training.config import OptimizerConfig, TrainConfig, trained_rule
from loomvideo.training.distributed import Ranks, forget_gathered, shard, share_tokens, whole
from loomvideo.training.freeze import is_trainable
from loomvideo.training.lora import add_lora, denoiser_of, is_lora
from loomvideo.training.monitor import FlopCount, Monitor
from loomvideo.training.muon import Muon
from loomvideo.training.recipe import NO_DROPOUT, Batches, BatchRules, Draw, Recipe
from loomvideo.training.run import computes_bfloat16, is_hidden_matrix
from loomvideo.training.validation import at_time, band_means, validation_times

log = logging.getLogger(__name__)

BAD_STEPS = 3  # in a row, after which a run stops
Groups = Sequence[Sequence[Draw]]


class TrainingError(ValueError):
    """A run cannot go on: what happened, to which samples, and the way out."""


class Network(nn.Module):
    """All that a batch passes through, as one forward: sharded parameters are gathered by it."""

    def __init__(self, recipe: Recipe, model: nn.Module) -> None:
        super().__init__()
        self.recipe, self.model = recipe, model

    def forward(self, batch: Any) -> Tensor:
        return self.recipe.squared_errors(self.model, batch)


@dataclass(frozen=True)
class Step:
    """What a step did."""

    loss: float  # squared errors of all samples of all ranks over their elements; no number where it was skipped
    gradient: float  # norm before clipping
    rate: float  # share of the learning rates
    tokens: int  # of all ranks
    samples: int
    flops: float  # of all ranks, forward and backward


class Trainer:
    """A model, what it is trained by and where the run stands. ``model`` is what ``recipe.build`` made.

    With checkpoints in the run's folder it goes on behind the last one.
    """

    def __init__(
        self,
        config: TrainConfig,
        recipe: Recipe,
        model: nn.Module,
        batches: Batches,
        ranks: Ranks,
        *,
        validation: Groups = (),
        preview: Callable[[int, Tensors], None] | None = None,
    ) -> None:
        self.config, self.recipe, self.batches, self.ranks = config, recipe, batches, ranks
        self.validation, self.preview = validation, preview
        self.rules = rules_of(config, recipe)
        blocks = prepare_model(model, config, ranks)
        self.network = Network(recipe, model)
        shard(self.network, blocks, ranks, reshard_after_forward=config.distributed.reshard_after_forward)
        share_tokens(denoiser_of(model), ranks)
        self.parameters = {name: p for name, p in self.network.model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise TrainingError(f"model.trained: {config.model.trained!r} names no parameter, so nothing would learn")
        self.optimizers = make_optimizers(config.optimizer, self.parameters, ranks.device)
        self.averages: Tensors = {}
        if config.ema_decay is not None:
            self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.step = self.updates = self.bad_steps = 0
        self.stopping = False
        self.folder = Path(config.run_dir)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", config.checkpoints.keep, ranks)
        self.flops = FlopCount()
        self._resume()
        self.monitor = Monitor(self.folder, config.watch, self.step, config.steps, ranks)

    # --- the run

    def train(self) -> bool:
        """Until the last step; False where SIGTERM or SIGINT stopped it before, with all that is needed to go on saved."""
        with self._stopped_by_signals():
            if self.validation and self.step == 0:
                self.monitor.figures(0, self.validate())
            while self.step < self.config.steps:
                self.monitor.record(self.step + 1, self.do_step())
                self.step += 1
                last = self.step == self.config.steps
                if self.validation and (last or self.step % self.config.watch.validation_every == 0):
                    self.monitor.figures(self.step, self.validate())
                (stop,) = self.ranks.max(float(self.stopping))
                if stop or last or self.step % self.config.checkpoints.every == 0:
                    self.save()
                if self.preview and (every := self.config.watch.samples_every) and self.step % every == 0:
                    weights = self.weights()
                    if self.ranks.rank == 0:
                        self.preview(self.step, weights)
                    self.ranks.wait()
                if stop and not last:
                    log.info("stopped at step %d; the same command goes on from there", self.step)
                    return False
        self.monitor.close()
        return True

    def do_step(self) -> Step:
        """Forward and backward of a step's groups, then the update; a loss that is no number skips the update."""
        torch.manual_seed(self.config.seed + self.step)  # of what a network itself draws, such as a LoRA's dropout
        groups = [group for _ in range(self.config.optimizer.accumulate) for group in self.batches.next()]
        draws = [draw for group in groups for draw in group]
        (elements,) = self.ranks.sum(sum(draw.item["target"].numel() for draw in draws))
        total, bad, flops = torch.zeros((), dtype=torch.float64), [], 0.0
        for group, weight in self.ranks.even(groups):
            with attention_kernels(self.ranks.device):
                errors, operations = self.errors(group)
                # sharding gives the mean of the ranks' gradients
                (errors.sum() * (weight * self.ranks.data_ranks / elements)).backward()
            of_samples = weight * errors.detach().flatten(1).sum(1).double().cpu()
            bad += [draw for draw, error in zip(group, of_samples, strict=True) if not math.isfinite(error)]
            total += of_samples.sum()
            flops += 3 * weight * operations  # backward costs about twice the forward
        total, tokens, samples, flops = self.ranks.sum(
            total, sum(self.recipe.num_tokens(draw.item) for draw in draws), len(draws), flops
        )
        norm = float(whole(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.optimizer.clip)))
        rate = rate_at(self.config.optimizer, self.step, self.config.steps)
        if math.isfinite(total) and math.isfinite(norm):
            self._update(rate)
        else:
            self._skip(bad)
        self.network.zero_grad(set_to_none=True)
        return Step(total / elements, norm, rate, int(tokens), int(samples), flops)

    def errors(self, group: Sequence[Draw]) -> tuple[Tensor, float]:
        """What a group's samples (b, c, f, y, x) add to the step's loss, and the operations of one forward."""
        batch = self.recipe.batch(self.seeded(group), self.ranks.device, self.rules)
        with self._autocast():
            return self.flops.counted(self.network, batch)

    def seeded(self, group: Sequence[Draw]) -> list[Draw]:
        """Draws of this run, whose seed is its own."""
        return [Draw(draw.item, (self.config.seed, *draw.seed)) for draw in group]

    def _update(self, rate: float) -> None:
        self.bad_steps = 0
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["full_rate"]
            optimizer.step()
        self.updates += 1
        decay = min(self.config.ema_decay or 0.0, self.updates / (9 + self.updates))
        with torch.no_grad():
            for name, average in self.averages.items():
                average.lerp_(self.parameters[name].detach(), 1 - decay)

    def _skip(self, bad: Sequence[Draw]) -> None:
        named = [name for names in self.ranks.gather([_name(draw) for draw in bad]) for name in names]
        told = ", ".join(named[:8]) or "no sample's, but the gradient"
        self.bad_steps += 1
        log.warning("step %d: the loss is no number (%s); the update is skipped", self.step + 1, told)
        if self.bad_steps == BAD_STEPS:
            raise TrainingError(
                f"the loss was no number in {BAD_STEPS} steps in a row, the last one {self.step + 1}: {told}. Look at "
                "these samples, lower optimizer.learning_rate, or go on from an earlier checkpoint"
            )

    # --- looking at it

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean squared errors of held-out samples at fixed times, over all and by thirds of the noise (fact sheet 6)."""
        rules = replace(self.rules, **NO_DROPOUT)
        mine = self.validation[self.ranks.data_rank :: self.ranks.data_ranks]
        sums = torch.zeros(len(validation_times()), dtype=torch.float64)
        count = 0.0
        with self._averaged(), attention_kernels(self.ranks.device):
            for group, weight in self.ranks.even(mine):
                batch = self.recipe.batch(group, self.ranks.device, rules)
                for place, time in enumerate(validation_times().tolist()):
                    with self._autocast():  # the network alone: on CPUs it refuses to stack the batch's float16
                        errors = self.network(at_time(batch, time))
                    sums[place] += weight * errors.flatten(1).mean(1).sum().double().cpu()
                count += weight * len(group)
        *sums, count = self.ranks.sum(*sums, count)
        return {f"validation/{band}": value for band, value in band_means([one / count for one in sums]).items()}

    def _autocast(self) -> torch.autocast:
        enabled = self.config.model.precision == "bfloat16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=enabled)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """While it lasts, the parameters are their averages, where there are any."""
        kept = {name: self.parameters[name].detach().clone() for name in self.averages}
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(kept)

    def _set(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            forget_gathered(self.network)
            for name, value in values.items():
                self.parameters[name].copy_(value)

    def weights(self) -> Tensors:
        """Trained parameters by name, averaged where averages are kept, whole and on the CPU."""
        source = self.averages or self.parameters
        return {name: whole(value.detach()).to("cpu", copy=True) for name, value in source.items()}

    # --- stopping and going on

    def save(self) -> None:
        state = {
            "step": self.step,
            "updates": self.updates,
            "bad_steps": self.bad_steps,
            "batches": self.batches.state_dict(),
        }
        self.checkpoints.save(self.step, self._tensors(), state)

    def _resume(self) -> None:
        steps = self.checkpoints.steps()
        if not steps:
            return
        state = self.checkpoints.state(steps[-1])
        with torch.no_grad():
            self.checkpoints.load(steps[-1], self._tensors())
        self.step, self.updates, self.bad_steps = state["step"], state["updates"], state["bad_steps"]
        self.batches.load_state_dict(state["batches"])
        log.info("going on from step %d", self.step)

    def _tensors(self) -> Tensors:
        """All that learning changes."""
        return {
            **{f"model.{name}": parameter.detach() for name, parameter in self.parameters.items()},
            **{f"average.{name}": average for name, average in self.averages.items()},
            **optimizer_tensors(self.optimizers, self.parameters),
        }

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


# --- what a configuration makes of a model


def prepare_model(model: nn.Module, config: TrainConfig, ranks: Ranks) -> list[nn.Module]:
    """Let exactly what is to be trained have gradients, on the device; the blocks that are repeated."""
    rule = trained_rule(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trainable(name, rule))
    if config.model.lora is not None:
        add_lora(model, config.model.lora)
    blocks = repeated_blocks(model)
    if config.model.gradient_checkpointing:
        for module in model.modules():
            if getattr(module, "_supports_gradient_checkpointing", False):
                module.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
    if config.model.precision == "bfloat16" and ranks.mesh is None:
        lighten(model)
    model.to(ranks.device).train()
    if config.model.compile:
        for block in blocks:
            block.compile()
    return blocks


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that networks in ``model`` say they repeat."""
    names = {name for one in model.modules() for name in getattr(one, "_repeated_blocks", ())}
    return [one for one in model.modules() if type(one).__name__ in names]


def lighten(model: nn.Module) -> None:
    """Linear layers that are not trained, in the precision that they compute in: half the memory of a LoRA's base."""
    kept = {name for one in model.modules() for name in getattr(one, "_keep_in_fp32_modules", None) or ()}
    for name, module in model.named_modules():
        frozen = not any(parameter.requires_grad for parameter in module.parameters())
        if isinstance(module, nn.Linear) and frozen and not any(part in kept for part in name.split(".")):
            module.bfloat16()


def rules_of(config: TrainConfig, recipe: Recipe) -> BatchRules:
    """The recipe's rules with what the configuration says."""
    said = {name: value for name, value in vars(config.flow).items() if value is not None}
    return replace(recipe.rules, **said)


def attention_kernels(device: torch.device) -> AbstractContextManager:
    """On CPUs plain attention, which is faster for the few tokens that they can train on."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def make_optimizers(
    config: OptimizerConfig, parameters: Mapping[str, nn.Parameter], device: torch.device
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""
    muon = config.name == "muon"
    matrices = [p for name, p in parameters.items() if muon and is_hidden_matrix(name, p) and not is_lora(name)]
    held = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in parameters.values() if id(parameter) not in held]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        precision = torch.bfloat16 if computes_bfloat16(device) else torch.float32
        optimizers.append(Muon(matrices, lr=config.matrix_rate, weight_decay=config.weight_decay, precision=precision))
    if others:
        decay = 0.0 if muon else config.weight_decay
        optimizers.append(
            torch.optim.AdamW(others, config.learning_rate, betas=config.betas, eps=config.eps, weight_decay=decay)
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return optimizers


def rate_at(config: OptimizerConfig, step: int, steps: int) -> float:
    """Share of the learning rates: linear warm-up, then as the schedule says."""
    warm = min((step + 1) / max(config.warmup_steps, 1), 1.0)
    left = max(1 - max(step - config.warmup_steps, 0) / max(steps - config.warmup_steps, 1), 0.0)
    if config.schedule == "linear":
        return warm * left
    return warm * (1 - math.cos(math.pi * left)) / 2 if config.schedule == "cosine" else warm


def _name(draw: Draw) -> str:
    return f"{draw.item.get('name', draw.item.get('task', 'sample'))} {'/'.join(map(str, draw.seed))}"
