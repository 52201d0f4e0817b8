"""Which samples every step of a training takes: the same on any number of ranks and workers, and after any stop.

Training goes in rounds of some hundred picks. How many picks a data set has had before a round follows from its weight
alone, and each set is walked pass after pass in a shuffled order: so no sample of a pass is lost or comes twice. Within a
round picks of one layout become groups of so many tokens, nothing padded, and groups become steps. A round is a pure
function of its number; the order's state is the round and the step in it.
"""

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from loomvideo.data.samples import DataError, Layout


class Pick(NamedTuple):
    """A sample, and in which pass over its data set it is taken."""

    set: int
    index: int
    epoch: int


class Group(NamedTuple):
    """Samples of one layout."""

    tokens: int  # of each
    picks: tuple[Pick, ...]

    @property
    def total(self) -> int:
        return self.tokens * len(self.picks)


Step = list[Group]
Item = TypeVar("Item")
Layouts = Callable[[Sequence[Pick]], Sequence[Layout | None]]  # None for one that cannot be used


class Order:
    """Endless steps of a mixture of data sets.

    Args:
        sizes: of the data sets; None for one without end.
        weights: how the picks are shared among them.
        layouts: of picks; asked once a round.
        tokens_per_group: what one batch may hold at most, unless a single sample is larger: a matter of memory.
        tokens_per_step: what all ranks' groups of a step may hold together: a matter of learning.
        picks_per_round: more make fuller groups, and take longer to look at before a run begins. A small
            set is walked several times in a round.
    """

    def __init__(
        self,
        sizes: Sequence[int | None],
        weights: Sequence[float],
        layouts: Layouts,
        *,
        seed: int,
        tokens_per_group: int,
        tokens_per_step: int,
        picks_per_round: int,
    ) -> None:
        if len(sizes) != len(weights) or not sizes or min(weights) < 0 or not sum(weights) > 0 or 0 in sizes:
            raise DataError(f"weights {list(weights)} of data sets of {list(sizes)}: give each one weight, not all 0")
        if min(tokens_per_group, tokens_per_step, picks_per_round) < 1:
            raise DataError(
                f"tokens_per_group={tokens_per_group}, tokens_per_step={tokens_per_step}, "
                f"picks_per_round={picks_per_round}: all must be above 0"
            )
        self.sizes, self.layouts, self.seed = list(sizes), layouts, seed
        self.shares = [weight / sum(weights) for weight in weights]
        self.tokens_per_group, self.tokens_per_step = tokens_per_group, tokens_per_step
        self.picks_per_round = picks_per_round
        self.round = self.step = 0
        self._steps: tuple[int, list[Step]] | None = None  # of a round
        self._permutations: dict[int, tuple[int, np.ndarray]] = {}  # of the pass that a set is in

    def next(self) -> Step:
        """The next step of all ranks together."""
        for _ in range(self._longest_wait()):
            steps = self.steps(self.round)
            if self.step < len(steps):
                self.step += 1
                return steps[self.step - 1]
            self.round, self.step = self.round + 1, 0
        raise DataError(f"no sample of rounds up to {self.round} can be read; loomvideo data check says why")

    def picks(self, round_: int) -> list[Pick]:
        """All picks of a round, shuffled."""
        found = [
            self._pick(number, position)
            for number, share in enumerate(self.shares)
            for position in range(self._before(share, round_), self._before(share, round_ + 1))
        ]
        order = np.random.default_rng([self.seed, 0, round_]).permutation(len(found))
        return [found[index] for index in order]

    def steps(self, round_: int) -> list[Step]:
        if self._steps is None or self._steps[0] != round_:
            groups = self._groups(round_)
            order = np.random.default_rng([self.seed, 1, round_]).permutation(len(groups))
            self._steps = round_, self._packed([groups[index] for index in order])
        return self._steps[1]

    def state_dict(self) -> dict[str, int]:
        return {"round": self.round, "step": self.step, "order": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises DataError where the saved run walked other data, or the same in another way."""
        if state["order"] != self._fingerprint():
            raise DataError(
                f"the saved run's order of samples ({state['order']}) is not this one's ({self._fingerprint()}): data sets, "
                "weights, token budgets and seed must be the same, so give those or begin a new run"
            )
        self.round, self.step = int(state["round"]), int(state["step"])

    def _fingerprint(self) -> int:
        budgets = (self.seed, self.tokens_per_group, self.tokens_per_step, self.picks_per_round)
        return zlib.crc32(repr((self.sizes, self.shares, budgets)).encode())

    def _before(self, share: float, round_: int) -> int:
        """How many picks a set has had before a round."""
        return math.floor(share * self.picks_per_round * round_)

    def _longest_wait(self) -> int:
        """Rounds until every set that has a weight has been picked from."""
        return 2 + math.ceil(1 / (min(share for share in self.shares if share) * self.picks_per_round))

    def _pick(self, number: int, position: int) -> Pick:
        size = self.sizes[number]
        if size is None:
            return Pick(number, position, 0)
        epoch, place = divmod(position, size)
        if self._permutations.get(number, (None,))[0] != epoch:
            order = np.random.default_rng([self.seed, 2, number, epoch]).permutation(size)
            self._permutations[number] = epoch, order
        return Pick(number, int(self._permutations[number][1][place]), epoch)

    def _groups(self, round_: int) -> list[Group]:
        picks = self.picks(round_)
        alike: dict[Layout, list[Pick]] = defaultdict(list)
        for pick, layout in zip(picks, self.layouts(picks), strict=True):
            if layout is not None:
                alike[layout].append(pick)
        budget = min(self.tokens_per_group, self.tokens_per_step)
        return [
            Group(layout.tokens, tuple(together))
            for layout, those in alike.items()
            for together in chunks(those, max(budget // layout.tokens, 1))
        ]

    def _packed(self, groups: Sequence[Group]) -> list[Step]:
        steps: list[Step] = []
        left = 0
        for group in groups:
            if group.total > left or not steps:
                steps.append([])
                left = self.tokens_per_step
            steps[-1].append(group)
            left -= group.total
        return steps


def part_of(step: Step, rank: int, world_size: int) -> list[Group]:
    """A rank's groups of a step: all ranks have as many groups, and about as many tokens.

    Groups are halved until there are as many for every rank. Only where a step has fewer samples than there are ranks,
    or none to halve is left, some ranks have one group less.
    """
    groups = list(step)
    while len(groups) % world_size:
        largest = max(range(len(groups)), key=lambda index: (len(groups[index].picks) > 1, groups[index].total))
        if len(groups[largest].picks) < 2:
            break
        tokens, picks = groups.pop(largest)
        half = len(picks) // 2
        groups[largest:largest] = [Group(tokens, picks[:half]), Group(tokens, picks[half:])]
    ordered = sorted(groups, key=lambda group: group.total, reverse=True)
    loads = [0] * world_size
    mine: list[Group] = []
    for dealt in chunks(ordered, world_size):  # the largest to whom has least
        for to, group in zip(sorted(range(world_size), key=loads.__getitem__), dealt, strict=False):
            loads[to] += group.total
            mine += [group] if to == rank else []
    return mine


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
