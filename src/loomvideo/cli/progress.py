"""What a person sees while they wait, on stderr: the stage, the step and the time left."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SECONDS_BETWEEN_LINES = 10.0  # in a log file, where a line cannot be redrawn


class Progress(Protocol):
    def stage(self, name: str) -> None:
        """Something of unknown length begins."""

    def step(self, done: int, total: int) -> None:
        """``done`` of ``total`` equal parts of the stage are finished."""


class Silence:
    def stage(self, name: str) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass


class Lines:
    """For files and pipes: a plain line now and then."""

    def __init__(self) -> None:
        self.name = ""
        self.began = self.told = time.monotonic()

    def stage(self, name: str) -> None:
        self.name = name
        self.began = self.told = time.monotonic()

    def step(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == 0 or now - self.told < SECONDS_BETWEEN_LINES:
            return
        self.told = now
        left = (now - self.began) / done * (total - done)
        print(f"{self.name}: step {done} of {total}, {left:.0f} s left", file=sys.stderr, flush=True)


class Bar:
    """For terminals: one line, redrawn by rich and wiped at the end."""

    def __init__(self, display: object) -> None:
        self.display = display
        self.task = display.add_task("starting", total=None)  # type: ignore[attr-defined]

    def stage(self, name: str) -> None:
        self.display.reset(self.task, description=name, total=None)  # type: ignore[attr-defined]

    def step(self, done: int, total: int) -> None:
        self.display.update(self.task, completed=done, total=total)  # type: ignore[attr-defined]


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Progress]:
    if quiet:
        yield Silence()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        with _rich_display() as display:
            yield Bar(display)


def _rich_display() -> object:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
