"""Post-training by reward on the forward process: DiffusionNFT (Zheng et al., 2025).

For every prompt a group of clips is drawn by the old policy, with any solver and without guidance. Rewards R become
optimality probabilities within their group,

    r = 1/2 + 1/2 clip((R - mean R) / max(std R, spread), -1, 1),

(the paper leaves the divisor open; without a least one a group whose rewards differ by next to nothing teaches as much as
one of good and bad clips), and the clips are learnt from by flow matching, towards good ones and away from bad ones:

    L = E[ r |v+ - v|^2 + (1 - r) |v- - v|^2 ],   v+ = (1 - beta) v_old + beta v_new,   v- = (1 + beta) v_old - beta v_new

with v the flow-matching target at a random time. Where v_new = v_old its gradient is 2 beta (2 r - 1) (v_old - v): nothing
where all rewards are equal, and else flow matching on what is better than the group, backwards on what is worse. Its optimum
is v_old + (2 / beta) E[r] (v_good - v_old), v_good being the velocity of the r-weighted clips. No likelihood and no
gradient through a solver is needed. Because v+ and v- are affine in v_new, with errors e = v_any - v,

    L = (1 + beta - 2 beta r) e_old^2 + beta (2 r - 1) e_new^2 + beta (1 + beta - 2 r) (v_new - v_old)^2,

so that a recipe's squared errors and its denoiser's velocities are all it takes. All three are weighted alike: as the recipe
weights errors at a time, and over how wrong the old policy is about the clip (the paper's adaptive weights), for otherwise
the few clips that are hardest to tell from their noise are all that a step is about.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from loomvideo.data.order import Pick
from loomvideo.data.samples import Sample
from loomvideo.models.vae import VAE, decode
from loomvideo.training.checkpoints import Tensors
from loomvideo.training.config import ReinforceConfig
from loomvideo.training.lora import denoiser_of
from loomvideo.training.objective import error_weights
from loomvideo.training.recipe import NO_DROPOUT, Batches, Draw
from loomvideo.training.results import filled
from loomvideo.training.rewards import Reward
from loomvideo.training.run import fast_arithmetic
from loomvideo.training.source import PixelSamples
from loomvideo.training.trainer import Network, Step, Trainer, attention_kernels
from loomvideo.training.velocities import kept_velocities, step_times, velocity_at

SAME = 1e-6  # rewards of a group that spread less are equal
SMALLEST_ERROR = 1e-8  # mean square; next to it an error is none


def optimality(rewards: Sequence[float], least_spread: float = 0.0) -> list[float]:
    """Optimality probabilities in 0..1 of one prompt's clips; 1/2 for all where none is better than another."""
    values = np.asarray(rewards, dtype=np.float64)
    spread = values.std()
    if spread < SAME:
        return [0.5] * len(values)
    return (0.5 + 0.5 * np.clip((values - values.mean()) / max(spread, least_spread), -1, 1)).tolist()


def nft_errors(new_errors: Tensor, old_errors: Tensor, apart: Tensor, optimality: Tensor, beta: float) -> Tensor:
    """The loss above, element by element, but for the adaptive weights.

    Args:
        new_errors, old_errors: squared errors (b, c, f, y, x) of the two policies.
        apart: the square of how far their velocities are apart, of the same shape and weighted as the errors are.
        optimality: r (b,) of every sample.
    """
    r = optimality.to(apart)[:, None, None, None, None]
    return (1 + beta - 2 * beta * r) * old_errors + beta * (2 * r - 1) * new_errors + beta * (1 + beta - 2 * r) * apart


def adaptive_weights(old_errors: Tensor) -> Tensor:
    """Weights (b, 1, 1, 1, 1): one over the root of each sample's mean squared error (b, c, f, y, x) under the old policy."""
    return old_errors.mean((1, 2, 3, 4), keepdim=True).clamp_min(SMALLEST_ERROR).rsqrt()


# --- what is learnt from


class AskedSamples(PixelSamples):
    """Prepared samples with what they were prepared from under "asked": the request that a reward judges."""

    def draw(self, pick: Pick, fetched: Sample, seed: int) -> Draw:
        prepared = super().draw(pick, fetched, seed)
        return prepared._replace(item=prepared.item | {"asked": fetched})


class Rollout(NamedTuple):
    latents: Tensor  # (c, f, y, x), normalised
    frames: np.ndarray  # uint8 (t, y, x, 3)


class Policy:
    """What weights of their own make of prepared requests: Euler's steps, without guidance, all of a batch at once."""

    def __init__(
        self, network: Network, vae: VAE, config: ReinforceConfig, *, device: torch.device, precision: torch.dtype
    ) -> None:
        self.network, self.vae, self.device, self.precision = network.eval(), vae, device, precision
        self.times = step_times(config.num_inference_steps, config.flow_shift).to(device)
        self.rules = replace(network.recipe.rules, **NO_DROPOUT)

    def become(self, weights: Tensors) -> None:
        filled(self.network.model, weights)

    @torch.no_grad()
    def __call__(self, draws: Sequence[Draw]) -> list[Rollout]:
        """Of requests of one layout, each from the noise of its draw."""
        batch = self.network.recipe.batch(draws, self.device, self.rules)
        latents = torch.stack([draw.noise(self.device) for draw in draws])
        autocast = torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)
        with autocast, attention_kernels(self.device):
            for time, following in self.times.unfold(0, 2, 1):
                velocity = velocity_at(self.network, batch, latents, time.expand(len(draws)))
                latents = latents - (time - following) * velocity
        with fast_arithmetic(self.device):
            frames = decode(self.vae, latents)
        shown = (255 * frames).round().byte().cpu().numpy()
        return [Rollout(one, clip) for one, clip in zip(latents.cpu(), shown, strict=True)]


class Rollouts:
    """`Batches` of what a policy makes of other batches' requests; "optimality" of an item is its r.

    They depend on the policy's weights, the configuration and the state of ``prompts`` alone.
    """

    def __init__(
        self,
        prompts: Batches,
        make: Callable[[Sequence[Draw]], list[Rollout]],
        reward: Reward,
        config: ReinforceConfig,
    ) -> None:
        self.prompts, self.make, self.reward, self.config = prompts, make, reward, config
        self.rewards: list[float] = []  # of the step that was drawn last

    def next(self) -> list[list[Draw]]:
        """Groups of one prompt's clips, as often as they are learnt from."""
        self.rewards = []
        return [group for asked in self.prompts.next() for draw in asked for group in self._groups(draw)]

    def _groups(self, draw: Draw) -> list[list[Draw]]:
        item = dict(draw.item)
        asked = item.pop("asked")
        made = self.make([Draw(item, (*draw.seed, member)) for member in range(self.config.group_size)])
        rewards = [self.reward(asked, one.frames) for one in made]
        self.rewards += rewards
        probabilities = optimality(rewards, self.config.least_spread)
        items = [item | {"target": one.latents, "optimality": r} for one, r in zip(made, probabilities, strict=True)]
        return [
            [Draw(one, (*draw.seed, member, time)) for member, one in enumerate(items)]
            for time in range(self.config.times)
        ]

    def state_dict(self) -> dict[str, Any]:
        return self.prompts.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prompts.load_state_dict(state)


# --- how it is learnt


class NftTrainer(Trainer):
    """The trainer with another loss, and without dropout of conditions: what was drawn was told all.

    The old policy is the averaged weights: an EMA of the new one that checkpoints hold, and the run's result.
    """

    batches: Rollouts

    def __init__(self, *given: Any, become: Callable[[Tensors], None], beta: float, **others: Any) -> None:
        """``become`` is told the old policy's weights before every step."""
        super().__init__(*given, **others)
        self.become, self.beta = become, beta
        self.rules = replace(self.rules, **NO_DROPOUT)

    def do_step(self) -> Step:
        self.become(self.weights())
        done = super().do_step()
        of_all = torch.tensor([reward for rewards in self.ranks.gather(self.batches.rewards) for reward in rewards])
        self.monitor.figures(
            self.step + 1, {"reward/mean": float(of_all.mean()), "reward/spread": float(of_all.std(correction=0))}
        )
        return done

    def errors(self, group: Sequence[Draw]) -> tuple[Tensor, float]:
        batch = self.recipe.batch(self.seeded(group), self.ranks.device, self.rules)
        r = torch.tensor([draw.item["optimality"] for draw in group], device=self.ranks.device)
        with self._autocast(), kept_velocities(self.network.model) as velocities:
            with torch.no_grad(), self._averaged():
                old = self.network(batch)
            new, operations = self.flops.counted(self.network, batch)
        weights = error_weights(denoiser_of(self.network.model).config["prediction"], batch.time)
        apart = (velocities[1] - velocities[0]).square() * weights
        return adaptive_weights(old) * nft_errors(new, old, apart, r, self.beta), operations
