"""Data sets as training draws from them: samples by number, their layouts before they are decoded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loomvideo.data.reading import Entry, Reading, entry_layout, read_entry
from loomvideo.data.samples import Layout, Sample, pixel_layout
from loomvideo.data.world import tasks as world


class Entries(Protocol):
    """What a format brings: its samples' records, by number. Raises DataError for one that cannot be understood."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Entry: ...


class DataSet(Protocol):
    @property
    def size(self) -> int | None: ...  # None: it never ends

    def layout(self, index: int) -> Layout: ...  # without decoding; what is then read may still turn out otherwise

    def read(self, index: int, rng: np.random.Generator) -> Sample: ...


@dataclass(frozen=True)
class FileSet:
    """Samples that are read from files; ``rng`` says where a clip begins."""

    entries: Entries
    reading: Reading

    @property
    def size(self) -> int:
        return len(self.entries)

    def layout(self, index: int) -> Layout:
        return entry_layout(self.entries[index], self.reading)

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        return read_entry(self.entries[index], self.reading, start=float(rng.random()))


@dataclass(frozen=True, kw_only=True)
class WorldSet:
    """The little world: its sample of a number is always the same one, and of the training split."""

    tasks: Mapping[str, float]  # shares
    height: int
    width: int
    num_frames: int
    size: int | None = None
    seed: int = 0

    def sample(self, index: int) -> world.Sample:
        names, shares = list(self.tasks), np.array(list(self.tasks.values()), float)
        rng = np.random.default_rng([self.seed, index])
        task = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        seed = 2 * int(rng.integers(2**61))  # even ones are for training
        return world.sample_at(task, seed, height=self.height, width=self.width, num_frames=self.num_frames)

    def layout(self, index: int) -> Layout:
        drawn = self.sample(index)
        return pixel_layout(
            drawn.task,
            (drawn.num_frames, drawn.height, drawn.width),
            has_source=drawn.source_scene is not None,
            references=((drawn.height, drawn.width),) * len(drawn.reference_scenes),
        )

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        return self.sample(index)
