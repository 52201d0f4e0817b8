"""What is wrong with the samples of a data set, found by reading all of them (`loomvideo data check`)."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from loomvideo.data.config import NamedSet, load_sets, read_yaml, section_of, source_of
from loomvideo.data.reading import Entry, Files, check_pair, check_prompt, decoded
from loomvideo.data.samples import BAD, DataError
from loomvideo.data.sets import FileSet
from loomvideo.media.clip import probe, read_picture

SAMPLES_A_TASK = 16  # that a process is given at once


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one sample."""

    set: str
    index: int
    problem: str


Part = tuple[str, str, Sequence[int]]  # section, set, samples


def check(path: Path, *, workers: int, on_progress: Callable[[int, int], None]) -> tuple[int, list[Finding]]:
    """How many samples there are, and what is wrong with them; of the little world nothing is read."""
    _sets.cache_clear()  # files may have changed since
    parts = list(_parts(path))
    total = sum(len(indices) for *_, indices in parts)
    findings: list[Finding] = []
    done = 0
    for (*_, indices), found in zip(parts, _results(path, parts, workers), strict=True):
        findings += found
        done += len(indices)
        on_progress(done, total)
    return total, findings


def _results(path: Path, parts: Sequence[Part], workers: int) -> Iterator[list[Finding]]:
    if workers == 1 or len(parts) < 2:
        yield from (check_part(path, part) for part in parts)
        return
    # forked processes would inherit the threads' locks of libraries that are loaded already
    with ProcessPoolExecutor(min(workers, len(parts)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(check_part, [path] * len(parts), parts)


def _parts(path: Path) -> Iterator[Part]:
    for section in _sections(path):
        for one in _sets(path, section).values():
            if isinstance(one.data, FileSet):
                for first in range(0, one.data.size, SAMPLES_A_TASK):
                    yield section, one.name, range(first, min(first + SAMPLES_A_TASK, one.data.size))


def _sections(path: Path) -> list[str]:
    """Those that are learnt from or validated on; benchmarks have no targets."""
    if not path.is_file():
        return ["train"]
    config = read_yaml(path)
    if (source := source_of(config, path)) is not None:
        return _sections(source)
    return [name for name in ("train", "val") if section_of(config, name)] or ["train"]


@lru_cache(maxsize=4)
def _sets(path: Path, section: str) -> dict[str, NamedSet]:
    return {one.name: one for one in load_sets(path, section=section)}


def check_part(path: Path, part: Part) -> list[Finding]:
    section, name, indices = part
    data = _sets(path, section)[name].data
    assert isinstance(data, FileSet)
    return [Finding(name, index, problem) for index in indices for problem in problems(data, index)]


def problems(data: FileSet, index: int) -> Iterator[str]:
    """Of one sample: every frame of every file is decoded."""
    try:
        entry = data.entries[index]
    except BAD as error:
        yield str(error)
        return
    pair = [name for name in (entry.source, entry.target) if name is not None]
    broken = False
    tests = [_reads(entry.files, name, is_reference) for is_reference, name in _files(entry)]
    for test in (lambda: check_prompt(entry), *tests):
        try:
            test()
        except BAD as error:
            broken = True
            yield str(error)
    if len(pair) == 2 and not broken:
        try:
            _check_lengths(entry, data.reading.fps)
        except BAD as error:
            yield str(error)


def _files(entry: Entry) -> list[tuple[bool, str]]:
    """Every file once, and whether it must be a picture."""
    pair = [(False, name) for name in dict.fromkeys((entry.source, entry.target)) if name is not None]
    return pair + [(True, name) for name in dict.fromkeys(entry.references)]


def _reads(files: Files, name: str, is_reference: bool) -> Callable[[], object]:
    def read() -> object:
        with files.local(name) as path:
            if probe(path).kind == "image" or is_reference:
                return read_picture(path)
            return sum(1 for frame in decoded(path) if frame().size)

    return read


def _check_lengths(entry: Entry, fps: float) -> None:
    """Source and target are of one kind and last as long as each other, to half a frame."""
    assert entry.source is not None
    with ExitStack() as stack:
        pair = [stack.enter_context(entry.files.local(name)) for name in (entry.source, entry.target)]
        check_pair(*pair)
        if probe(pair[0]).kind == "image":
            return
        lengths = [sum(1 for _ in decoded(path)) / probe(path).fps for path in pair]
    if abs(lengths[0] - lengths[1]) * fps > 0.5:
        raise DataError(
            f"{entry.target}: the target lasts {lengths[1]:.2f} s and its source {entry.source} {lengths[0]:.2f} s; cut "
            "the longer one, since training would take the shorter length of both"
        )


def usual_workers() -> int:
    return min(os.cpu_count() or 1, 16)
