"""What a trainer draws from: the groups of a rank's next step, out of prepared shards or out of pixels."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from loomvideo.data.bad import BadSamples
from loomvideo.data.config import NamedSet
from loomvideo.data.order import Group, Order, Pick, part_of
from loomvideo.data.samples import BAD, Layout, Sample
from loomvideo.training.denoiser import layout_of
from loomvideo.training.prepared import PreparedSamples, prepare_pick, read_pick
from loomvideo.training.recipe import Draw, Recipe

PICKS_A_ROUND = 512
STEPS_AHEAD = 2  # that are read while a step is computed


class Samples(Protocol):
    """Where the samples of picks come from."""

    @property
    def sizes(self) -> Sequence[int | None]: ...

    @property
    def weights(self) -> Sequence[float]: ...

    def layouts(self, picks: Sequence[Pick]) -> Sequence[Layout | None]: ...

    def fetch(self, pick: Pick) -> Any: ...  # in a thread of its own; raises one of data.samples.BAD

    def draw(self, pick: Pick, fetched: Any, seed: int) -> Draw: ...  # in the trainer's thread, of what was fetched


class PixelSamples:
    """Samples that are read and prepared while training; networks run in the trainer's thread alone."""

    def __init__(
        self,
        sets: Sequence[NamedSet],
        recipe: Recipe,
        device: torch.device,
        *,
        seed: int,
        bad: BadSamples,
        workers: int,
    ) -> None:
        self.sets, self.recipe, self.device, self.seed, self.bad, self.workers = (
            sets,
            recipe,
            device,
            seed,
            bad,
            workers,
        )
        self.sizes = [one.data.size for one in sets]
        self.weights = [one.weight for one in sets]
        self.known: dict[tuple[int, int], Layout | None] = {}

    def layouts(self, picks: Sequence[Pick]) -> list[Layout | None]:
        """From headers, each of which is read once."""
        places = list(dict.fromkeys((pick.set, pick.index) for pick in picks))
        unknown = [place for place in places if place not in self.known]
        with ThreadPoolExecutor(self.workers) as pool:
            found = dict(zip(unknown, pool.map(self._layout, unknown), strict=True))
        for place, layout in found.items():
            if isinstance(layout, Exception):
                self.bad.add(layout)
                found[place] = None
        self.known |= {place: found[place] for place in unknown if self.sizes[place[0]] is not None}
        return [(found if (pick.set, pick.index) in found else self.known)[pick.set, pick.index] for pick in picks]

    def _layout(self, place: tuple[int, int]) -> Any:
        try:
            return self.sets[place[0]].data.layout(place[1])
        except BAD as error:
            return error

    def fetch(self, pick: Pick) -> Sample:
        return read_pick(self.sets, pick, self.seed)

    def draw(self, pick: Pick, fetched: Sample, seed: int) -> Draw:
        return Draw(prepare_pick(self.sets, self.recipe, pick, fetched, self.seed, self.device), (seed, *pick))


class Planned(NamedTuple):
    """A step that is being read: the order's state before it, and this rank's groups."""

    state: dict[str, int]
    groups: list[list[tuple[Pick, Future]]]


class BatchSource:
    """A rank's groups, step after step; see `Batches` in training.recipe.

    Every step's groups of all ranks together are the same however many ranks, threads and stops there are. All ranks
    have as many groups as each other, unless a step has fewer samples than there are ranks or a sample turns out bad.
    """

    def __init__(
        self,
        samples: Samples,
        recipe: Recipe,
        order: Order,
        *,
        rank: int = 0,
        world_size: int = 1,
        bad: BadSamples | None = None,
        workers: int = 2,
    ) -> None:
        self.samples, self.recipe, self.order = samples, recipe, order
        self.rank, self.world_size, self.bad = rank, world_size, bad or BadSamples()
        self.readers = ThreadPoolExecutor(workers)
        self.planner = ThreadPoolExecutor(1)  # looks at a round's headers while earlier steps are computed
        self.coming: deque[Future[Planned]] = deque()

    def next(self) -> list[list[Draw]]:
        """This rank's groups of the next step, each of one kind and layout. Raises DataError where too much is bad."""
        while len(self.coming) <= STEPS_AHEAD:
            self.coming.append(self.planner.submit(self._plan))
        groups = self.coming[0].result().groups
        self.coming.popleft()
        return [same for group in groups for same in self._alike(self._collected(group))]

    def state_dict(self) -> dict[str, Any]:
        """A handful of whole numbers, the same on all ranks: the step that `next` gives."""
        return dict(self.coming[0].result().state) if self.coming else self.order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises DataError for the state of another order."""
        self._forget()
        self.order.load_state_dict(state)

    def close(self) -> None:
        """End the threads; what is being read is not waited for."""
        self._forget()
        self.planner.shutdown()
        self.readers.shutdown(wait=False, cancel_futures=True)

    def _plan(self) -> "Planned":
        """In the planner's thread, which alone walks the order while steps are coming."""
        state = self.order.state_dict()
        mine = part_of(self.order.next(), self.rank, self.world_size)
        return Planned(state, [self._requested(group) for group in mine])

    def _forget(self) -> None:
        for planned in self.coming:
            if not planned.cancel() and planned.exception() is None:
                for _, request in (one for group in planned.result().groups for one in group):
                    request.cancel()
        self.coming.clear()

    def _requested(self, group: Group) -> list[tuple[Pick, Future]]:
        return [(pick, self.readers.submit(self.samples.fetch, pick)) for pick in group.picks]

    def _collected(self, requests: Sequence[tuple[Pick, Future]]) -> list[Draw]:
        draws = []
        for pick, future in requests:
            try:
                draws.append(self.samples.draw(pick, future.result(), self.order.seed))
            except BAD as error:
                self.bad.add(error)
            else:
                self.bad.good()
        return draws

    def _alike(self, draws: Sequence[Draw]) -> list[list[Draw]]:
        """One group as a rule: headers may promise a frame more than there is."""
        alike: dict[Any, list[Draw]] = {}
        for draw in draws:
            alike.setdefault((self.recipe.kind(draw.item), layout_of(draw.item)), []).append(draw)
        return list(alike.values())


def order_of(
    samples: Samples, seed: int, tokens_per_step: int, tokens_per_group: int | None, picks_per_round: int
) -> Order:
    return Order(
        samples.sizes,
        samples.weights,
        samples.layouts,
        seed=seed,
        tokens_per_group=tokens_per_group or tokens_per_step,
        tokens_per_step=tokens_per_step,
        picks_per_round=picks_per_round,
    )


def from_pixels(
    sets: Sequence[NamedSet],
    recipe: Recipe,
    device: torch.device,
    *,
    seed: int,
    tokens_per_step: int,
    tokens_per_group: int | None = None,
    picks_per_round: int = PICKS_A_ROUND,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
    bad_share: float = 0.05,
    kind: type[PixelSamples] = PixelSamples,
) -> BatchSource:
    """Train from data sets as they are (see data.config.load_sets). For the budgets see data.order.Order."""
    bad = BadSamples(bad_share)
    samples = kind(sets, recipe, device, seed=seed, bad=bad, workers=workers)
    order = order_of(samples, seed, tokens_per_step, tokens_per_group, picks_per_round)
    return BatchSource(samples, recipe, order, rank=rank, world_size=world_size, bad=bad, workers=workers)


def from_shards(
    folder: Path,
    recipe: Recipe,
    *,
    seed: int,
    tokens_per_step: int,
    tokens_per_group: int | None = None,
    picks_per_round: int = PICKS_A_ROUND,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
) -> BatchSource:
    """Train from what `loomvideo data prepare` wrote; nothing but the denoiser is computed."""
    samples = PreparedSamples(folder)
    order = order_of(samples, seed, tokens_per_step, tokens_per_group, picks_per_round)
    return BatchSource(samples, recipe, order, rank=rank, world_size=world_size, workers=workers)
