"""Endless batches of a mixture of datasets under a token budget (fact sheet 8.1 and 8.5)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Sample = TypeVar("Sample")


def flatten_weights(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Sampling weight of every dataset of a config section, in its order.

    A group's `task_weight` is shared among its `datasets` by their `sample_weight`, and they are named `group/child`;
    any other entry has its own `sample_weight`.
    """
    weights: dict[str, float] = {}
    for name, entry in entries.items():
        if "datasets" not in entry:
            weights[name] = entry["sample_weight"]
            continue
        children = entry["datasets"]
        total = sum(child["sample_weight"] for child in children.values())
        for child_name, child in children.items():
            weights[f"{name}/{child_name}"] = entry["task_weight"] * child["sample_weight"] / total
    return weights


class Shuffled:
    """An endless walk over one dataset's indices, shuffled anew, from the order they are in, at every end."""

    def __init__(self, indices: Tensor, generator: torch.Generator) -> None:
        self.indices = indices
        self.generator = generator
        self.position = 0
        self._shuffle()

    def peek(self) -> int:
        """The next index. Asked again at the end of the list, it shuffles again: only `advance` settles the choice."""
        if self.position < len(self.indices):
            return int(self.indices[self.position])
        self._shuffle()
        return int(self.indices[0])

    def advance(self) -> None:
        self.position = self.position % len(self.indices) + 1

    def _shuffle(self) -> None:
        self.indices = self.indices[torch.randperm(len(self.indices), generator=self.generator)]


@dataclass(frozen=True, kw_only=True)
class TokenBatches(Generic[Sample]):
    """Batches of samples from several datasets, never ending, as the published training draws them.

    Datasets follow each other in one global index; every process walks each dataset with its own stride. A sample is
    drawn and joins the batch while the batch is empty or the tokens *including it* stay below the budget; otherwise the
    batch is given out and the same draw begins the next one. An unreadable sample uses up its draw.

    Args:
        load: global index to sample; None where it cannot be read.
        num_tokens: of a sample, in the budget's units.
        skip_samples: draws to pass over without loading, to resume a run.
        buffer_size: how many datasets are drawn at once; part of the random order.

    Raises ValueError when no process could ever draw: nothing to weigh, or a dataset smaller than the processes.
    """

    dataset_sizes: Sequence[int]
    weights: Sequence[float]
    load: Callable[[int], Sample | None]
    num_tokens: Callable[[Sample], int]
    budget: int
    seed: int
    num_processes: int = 1
    process_index: int = 0
    skip_samples: int = 0
    buffer_size: int = 10_000

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.dataset_sizes) or not any(self.weights):
            raise ValueError(
                f"weights {self.weights} of datasets of {self.dataset_sizes}: give each one weight, not all 0"
            )
        if min(self.dataset_sizes) < self.num_processes:
            raise ValueError(
                f"dataset_sizes={self.dataset_sizes} for {self.num_processes} processes: each process needs a sample of "
                "every dataset, so use fewer processes or leave the small dataset out"
            )

    def __iter__(self) -> Iterator[list[Sample]]:
        batch: list[Sample] = []
        total = 0
        for walk in self._walks():
            index = walk.peek()
            sample = self.load(index)
            if sample is not None and batch and total + self.num_tokens(sample) >= self.budget:
                yield batch
                batch, total = [], 0
                if (again := walk.peek()) != index:
                    sample = self.load(again)
            if sample is not None:
                batch.append(sample)
                total += self.num_tokens(sample)
            walk.advance()

    def _walks(self) -> Iterator[Shuffled]:
        """The walk of the dataset of every draw, after the skipped ones."""
        generator = torch.Generator().manual_seed(self.seed)
        walks = [Shuffled(indices, generator) for indices in self._shards()]
        draws = self._draws(generator)
        for dataset in islice(draws, self.skip_samples):
            walks[dataset].peek()
            walks[dataset].advance()
        yield from (walks[dataset] for dataset in draws)

    def _shards(self) -> list[Tensor]:
        """This process's global indices of every dataset."""
        datasets = torch.arange(sum(self.dataset_sizes)).split(list(self.dataset_sizes))
        return [indices[self.process_index :: self.num_processes] for indices in datasets]

    def _draws(self, generator: torch.Generator) -> Iterator[int]:
        weights = torch.tensor(self.weights, dtype=torch.float32)
        while True:
            yield from torch.multinomial(weights, self.buffer_size, replacement=True, generator=generator).tolist()
