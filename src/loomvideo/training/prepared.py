"""Data sets prepared once: a folder of shards with an index, written by `loomvideo data prepare` and trained from in any order.

``sets.json`` says what was prepared and how; of every set there are shards ``SET-NUMBER.pt``, each with a ``.json`` that
lists its samples. A preparation that was stopped goes on with the first shard that is not there.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loomvideo.data.bad import BadSamples
from loomvideo.data.config import NamedSet
from loomvideo.data.order import Pick
from loomvideo.data.samples import BAD, DataError, Layout, Sample
from loomvideo.training.denoiser import layout_of
from loomvideo.training.features import prepare_one, write_shard
from loomvideo.training.recipe import Draw, Prepared, Recipe

SAMPLES_A_SHARD = 64
OPEN_SHARDS = 64  # mapped into memory at once; of each only what is asked for is read
INDEX = "sets.json"


def read_pick(sets: Sequence[NamedSet], pick: Pick, seed: int) -> Sample:
    """Read a sample with a seed of its own, whoever does it and when. Raises one of `BAD`."""
    return sets[pick.set].data.read(pick.index, np.random.default_rng([seed, *pick, 0]))


def prepare_pick(
    sets: Sequence[NamedSet], recipe: Recipe, pick: Pick, read: Sample, seed: int, device: torch.device
) -> Prepared:
    """The same for what the networks make of it; "name" says which one it is. Raises one of `BAD`."""
    item = prepare_one(recipe, read, np.random.default_rng([seed, *pick, 1]), device)
    return item | {"name": f"{sets[pick.set].name}, sample {pick.index}"}


def layout_in_batches(recipe: Recipe, item: Prepared) -> Layout:
    """What prepared samples share in one batch, and what one costs."""
    return Layout(f"{recipe.kind(item)} {layout_of(item)}", recipe.num_tokens(item))


# --- writing


def prepare_sets(
    sets: Sequence[NamedSet],
    recipe: Recipe,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    seed: int,
    device: torch.device,
    bad: BadSamples,
) -> Iterator[tuple[int, int]]:
    """Write all samples of all sets into ``folder``, in their first pass; yields how many of how many are done.

    ``settings`` (JSON-like) says how: a folder that was begun with others is refused by DataError.
    """
    check_finite(sets)
    header = {
        "seed": seed,
        "settings": dict(settings),
        "sets": [{"name": one.name, "weight": one.weight, "size": one.data.size} for one in sets],
    }
    _begin(folder, header)
    total = sum(one.data.size or 0 for one in sets)
    done = 0
    for number, one in enumerate(sets):
        size = one.data.size or 0
        for first in range(0, size, SAMPLES_A_SHARD):
            indices = range(first, min(first + SAMPLES_A_SHARD, size))
            path = folder / f"{number:03d}-{first // SAMPLES_A_SHARD:06d}.pt"
            if not path.with_suffix(".json").exists():
                _write(path, _prepared(sets, recipe, number, indices, seed, device, bad), recipe)
            done += len(indices)
            yield done, total


def check_finite(sets: Sequence[NamedSet]) -> None:
    for one in sets:
        if one.data.size is None:
            raise DataError(f"{one.name}: never ends; give it num_samples, or train from it without preparing")


def _begin(folder: Path, header: Mapping[str, Any]) -> None:
    path = folder / INDEX
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(path, header)
    elif read_index(folder) != header:
        raise DataError(f"{folder}: was prepared otherwise, from other data, or for another model; name another folder")


def _prepared(
    sets: Sequence[NamedSet],
    recipe: Recipe,
    number: int,
    indices: range,
    seed: int,
    device: torch.device,
    bad: BadSamples,
) -> list[tuple[int, Prepared]]:
    items = []
    for index in indices:
        pick = Pick(number, index, 0)
        try:
            items.append((index, prepare_pick(sets, recipe, pick, read_pick(sets, pick, seed), seed, device)))
        except BAD as error:
            bad.add(error)
        else:
            bad.good()
    return items


def _write(path: Path, items: Sequence[tuple[int, Prepared]], recipe: Recipe) -> None:
    """The shard, then its list: a shard without one was not finished."""
    write_shard(path, [item for _, item in items])
    layouts = [(index, layout_in_batches(recipe, item)) for index, item in items]
    rows = [{"index": index, "layout": layout.kind, "tokens": layout.tokens} for index, layout in layouts]
    _write_json(path.with_suffix(".json"), rows)


def _write_json(path: Path, value: Any) -> None:
    beside = path.with_suffix(".json-writing")
    beside.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(beside, path)


# --- reading


def read_index(folder: Path) -> dict[str, Any]:
    """What `prepare_sets` was called with."""
    try:
        return json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: holds no {INDEX} that can be read; prepare it with loomvideo data prepare"
        ) from error


class PreparedSamples:
    """What `BatchSource` draws from: prepared samples by their picks, in which an index counts those that were good."""

    def __init__(self, folder: Path) -> None:
        header = read_index(folder)
        self.settings: dict[str, Any] = header["settings"]
        self.weights = [one["weight"] for one in header["sets"]]
        self.rows = [_rows(folder, number, one) for number, one in enumerate(header["sets"])]
        self.sizes = [len(rows) for rows in self.rows]

    def layouts(self, picks: Sequence[Pick]) -> list[Layout]:
        rows = [self.rows[pick.set][pick.index] for pick in picks]
        return [Layout(row["layout"], row["tokens"]) for row in rows]

    def fetch(self, pick: Pick) -> Prepared:
        """Read one sample, and nothing else, from its shard."""
        row = self.rows[pick.set][pick.index]
        item = _open(row["shard"])[row["row"]]
        return {name: _copied(value) for name, value in item.items()}

    def draw(self, pick: Pick, fetched: Prepared, seed: int) -> Draw:
        """With the seed that the sample has when it is prepared while training."""
        return Draw(fetched, (seed, pick.set, self.rows[pick.set][pick.index]["index"], pick.epoch))


def _rows(folder: Path, number: int, one: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for first in range(0, one["size"], SAMPLES_A_SHARD):
        path = folder / f"{number:03d}-{first // SAMPLES_A_SHARD:06d}.pt"
        listed = path.with_suffix(".json")
        if not listed.exists() or not path.exists():
            raise DataError(f"{path}: is not there yet; run loomvideo data prepare again, it goes on where it stopped")
        rows += [{**row, "shard": path, "row": place} for place, row in enumerate(json.loads(listed.read_text()))]
    if not rows:
        raise DataError(
            f"{folder}: no sample of {one['name']} was good; loomvideo data check says what is wrong with them"
        )
    return rows


@lru_cache(maxsize=OPEN_SHARDS)
def _open(path: Path) -> list[Prepared]:
    return torch.load(path, weights_only=True, mmap=True)


def _copied(value: Any) -> Any:
    """Out of the mapped file, so that a shard that is closed takes nothing along."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value
