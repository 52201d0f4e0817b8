"""A golden set: tensors that the published implementation computed with small random weights, and how to compare to them.

Nothing about a particular set is known here: cases, shapes, sizes and weights are read from its folder.
"""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

REPOSITORY = Path(__file__).parents[2]
TOLERANCE = 2e-5  # of the largest magnitude in the expected tensor (fact sheet 13)
GRADIENT_TOLERANCE = 1e-4


def find_golden_root() -> Path:
    """The folder that holds a set for each system: the named one, the shared one, or the subset kept beside the tests."""
    if "LOOMVIDEO_GOLDEN" in os.environ:
        return Path(os.environ["LOOMVIDEO_GOLDEN"])
    shared = REPOSITORY.parent / "shared" / "golden"
    return shared if (shared / "loomvideo" / "cases.json").is_file() else REPOSITORY / "tests" / "golden"


@dataclass(frozen=True)
class Case:
    folder: Path
    file: str
    group: str
    shapes: dict[str, list[int]]
    params: dict[str, Any]
    inputs_from: str | None

    @property
    def name(self) -> str:
        return Path(self.file).stem

    def load(self) -> dict[str, Tensor]:
        """The case's tensors, exactly those that the index names; skips where the file is not part of this set."""
        tensors = load_file(require(self.folder / self.file))
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        assert shapes == self.shapes, f"{self.file} does not hold the tensors that cases.json names"
        return tensors

    def inputs(self) -> dict[str, Tensor]:
        """The tensors that the case starts from: its own, or its parent's."""
        return self.load() if self.inputs_from is None else load_file(require(self.folder / self.inputs_from))


@cache
def golden_cases(system: str) -> tuple[Case, ...]:
    """A set's index is a list of cases, or names them and says of each its kind, its request and facts."""
    folder = find_golden_root() / system
    if not (folder / "cases.json").is_file():
        return ()
    index = json.loads((folder / "cases.json").read_text())
    return tuple(
        Case(
            folder,
            entry["file"],
            entry.get("group") or entry["kind"],
            {name: tensor["shape"] for name, tensor in entry["tensors"].items()},
            entry.get("params") or {name: entry[name] for name in ("request", "facts") if name in entry},
            entry.get("inputs_from"),
        )
        for entry in (index if isinstance(index, list) else index["cases"].values())
    )


def each_case(system: str, group: str, having: str | None = None) -> pytest.MarkDecorator:
    """Parametrise a test by a group's cases, or by those that hold a tensor; with ids like "loomvideo-dit_t2v"."""
    cases = [case for case in golden_cases(system) if case.group == group and (having is None or having in case.shapes)]
    return pytest.mark.parametrize("case", cases, ids=[f"{system}-{case.name}" for case in cases])


def require(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.relative_to(path.parents[2])} is not part of the golden set in {find_golden_root()}")
    return path


def assert_same(name: str, actual: Tensor, expected: Tensor, *, allowed: float | None = None) -> None:
    """Integers equal; floats off by no more than is allowed: by default, the tolerance of the largest expected magnitude.

    NaN is never the same.
    """
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if not expected.is_floating_point():
        assert torch.equal(actual.to(expected.dtype), expected), f"{name}: integers differ"
        return
    error = (actual.double() - expected.double()).abs().max().item()
    if allowed is None:
        allowed = TOLERANCE * expected.double().abs().max().item()
    assert error <= allowed, f"{name}: off by {error:.3g}, allowed {allowed:.3g}"


def assert_all_same(
    computed: dict[str, Tensor], golden: dict[str, Tensor], *, given: set[str], allowed: float | None = None
) -> None:
    """Every golden tensor that is not a given input was computed, and is the same."""
    missing = set(golden) - set(computed) - given
    assert not missing, f"not compared: {sorted(missing)}"
    for name in sorted(set(golden) & set(computed)):
        assert_same(name, computed[name], golden[name], allowed=allowed)


def numbered(tensors: dict[str, Tensor], prefix: str, separator: str = "_") -> list[Tensor]:
    """The tensors prefix_0, prefix_1, ... in order."""
    names = sorted(
        (name for name in tensors if name.removeprefix(f"{prefix}{separator}").isdigit()),
        key=lambda name: int(name.rsplit(separator)[-1]),
    )
    return [tensors[name] for name in names]
