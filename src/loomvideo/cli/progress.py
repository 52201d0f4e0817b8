"""What a person sees while they wait, on stderr: the stage, the step and the time left."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 10.0  # in a log file, where a line cannot be redrawn


class Progress(Protocol):
    def tell(self, line: str) -> None:
        """Something was chosen."""

    def stage(self, name: str) -> None:
        """Something of unknown length begins."""

    def step(self, done: int, total: int) -> None:
        """``done`` of ``total`` equal parts of the stage are finished."""


class Silence:
    def tell(self, line: str) -> None:
        pass

    def stage(self, name: str) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass


class Lines:
    """For files and pipes: a plain line now and then."""

    def __init__(self) -> None:
        self.name = ""
        self.began = self.told = time.monotonic()

    def tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

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

    def __init__(self, display: "RichProgress") -> None:
        self.display = display
        self.task = display.add_task("starting", total=None)

    def tell(self, line: str) -> None:
        self.display.console.print(line, highlight=False, markup=False)

    def stage(self, name: str) -> None:
        self.display.remove_task(self.task)
        self.task = self.display.add_task(name, total=None)

    def step(self, done: int, total: int) -> None:
        self.display.update(self.task, completed=done, total=total)


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Progress]:
    if quiet:
        yield Silence()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        with terminal_display() as display:
            yield Bar(display)


def columns() -> tuple:
    from rich import progress

    return (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )


def terminal_display() -> "RichProgress":
    from rich.console import Console
    from rich.progress import Progress

    return Progress(
        *columns(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else what is printed would leave its pipe for the terminal
    )
