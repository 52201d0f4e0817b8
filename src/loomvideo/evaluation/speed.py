"""Time, work and memory of several ways to the same result, side by side in one process."""

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Run = Callable[[], Tensor]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made while it lasts, `most` of them alive at once.

    Seen are the results of torch's operators, on any device, and not what a kernel takes for itself meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), given)
        return result

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen or key in given:
            return
        self.seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def count_flops(run: Callable[[], Any]) -> int:
    """FLOPs of matrix products, convolutions and attention, which not every kernel lets be counted: so by plain products."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def count_bytes(run: Callable[[], Any]) -> int:
    """The most bytes that were alive at once of what was made, beside what was there before."""
    with torch.no_grad(), LiveBytes() as counted:
        kept = run()
        del kept
    return counted.most


@dataclass
class Timing:
    """Seconds of one way, run by run."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # of all threads; what other programs take is not in it

    @property
    def seconds(self) -> float:
        return median(self.wall)

    @property
    def processor_seconds(self) -> float:
        return median(self.processor)


def side_by_side(runs: Mapping[str, Run], repeats: int) -> tuple[dict[str, Timing], dict[str, Tensor]]:
    """Timings and results of each way: one run of each unmeasured, then in turn, run by run, so that all see the same
    machine."""
    results = {name: _finished(run) for name, run in runs.items()}
    timings = {name: Timing() for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            _finished(run)
            timings[name].wall.append(time.perf_counter() - wall)
            timings[name].processor.append(time.process_time() - processor)
    return timings, results


def _finished(run: Run) -> Tensor:
    with torch.no_grad():
        result = run()
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    return result


def relative_distance(result: Tensor, truth: Tensor) -> float:
    """Norm of the difference by the norm of the truth."""
    return float((result.double() - truth.double()).norm() / truth.double().norm())


def psnr(frames: Tensor, truth: Tensor) -> float:
    """Decibels, of values from 0 to 1; infinite where they are equal."""
    error = float((frames.double() - truth.double()).square().mean())
    return float("inf") if error == 0 else -10 * float(torch.log10(torch.tensor(error)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bars(labels: Sequence[str], values: Sequence[float], width: int = 40) -> str:
    """A plain-text plot: one bar a value, from 0."""
    longest, most = max(map(len, labels)), max(values)
    return "\n".join(
        f"{label:>{longest}} {'#' * round(width * value / most)} {value:.2f}"
        for label, value in zip(labels, values, strict=True)
    )
