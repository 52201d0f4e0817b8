"""Data sets of files in a folder: the published one JSON a sample, and ``metadata.csv`` or ``metadata.jsonl``."""

import csv
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from loomvideo.data import segments as published
from loomvideo.data.reading import Entry
from loomvideo.data.samples import AS_WRITTEN, DataError
from loomvideo.data.segments import MediaSegment, Record, RecordError, Segment, TextSegment

METADATA = ("metadata.csv", "metadata.jsonl")
TEXTS = ("text", "caption", "prompt")  # columns of the words, the first that is there
TARGETS = ("target", "file_name")
SAID_TASKS = (AS_WRITTEN, "i2v")  # all others follow from what is given
SEPARATOR = ";"  # between references, where a cell can hold no list
# What a system puts before the words by itself
PREFIXES = (
    published.GENERATE_IMAGE,
    published.GENERATE_IMAGE_WITH_REFERENCES,
    published.EDIT_IMAGE,
    published.GENERATE_VIDEO,
    published.GENERATE_VIDEO_WITH_REFERENCES,
    published.EDIT_VIDEO,
    published.EDIT_VIDEO_WITH_REFERENCES,
)
Processor = Callable[[Record], list[Segment]]


@dataclass(frozen=True)
class Folder:
    """Names are relative to ``root``."""

    root: Path

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        yield self.root / name


# --- one JSON a sample


@dataclass(frozen=True, kw_only=True)
class JsonEntries:
    """``{data_json_dir}/{index}.json``, read by a published processor or by one's own (fact sheet 8.1)."""

    data_root: Path
    data_json_dir: Path
    process: Processor
    num_samples: int

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Entry:
        path = self.data_json_dir / f"{index}.json"
        record = read_record(path)
        try:
            return entry_of(Folder(self.data_root), self.process({**record, "_data_index": index}))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except Exception as error:  # a record may hold anything, and a process function may be anybody's
            raise DataError(
                f"{path}: it cannot be processed ({type(error).__name__}: {error}); mend the record"
            ) from error


def read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read as JSON ({reason}); each sample is one file of that form") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}: holds a {type(record).__name__}; a sample is one JSON object")
    return record


def entry_of(files: Folder, parts: list[Segment]) -> Entry:
    """A sample of a record's segments. Words with a prefix that a system gives by itself lose it, others stay as written."""
    words = "".join(part.content for part in parts if isinstance(part, TextSegment))
    media = [part for part in parts if isinstance(part, MediaSegment)]
    targets = [part.path for part in media if part.is_target]
    sources = [part.path for part in media if not part.is_target and part.kind.startswith("source")]
    if len(targets) != 1 or len(sources) > 1:
        raise RecordError(
            f"{len(targets)} targets and {len(sources)} sources: training needs one target and at most one source"
        )
    prefix = max((one for one in PREFIXES if words.startswith(one)), key=len, default="")
    return Entry(
        files=files,
        prompt=words.removeprefix(prefix),
        target=targets[0],
        source=sources[0] if sources else None,
        references=tuple(p.path for p in media if not p.is_target and not p.kind.startswith("source")),
        task=None if prefix else AS_WRITTEN,
    )


def processor(name: str, folder: Path) -> Processor:
    """A published processor, or ``FILE.py:FUNCTION`` with the file relative to ``folder``."""
    file, separator, function = name.rpartition(":")
    if not separator:
        if name not in published.PROCESSORS:
            raise DataError(
                f"process_func_name {name!r} is unknown: use one of {', '.join(published.PROCESSORS)}, or FILE.py:FUNCTION"
            )
        return lambda record: published.segments(name, record)
    path = folder / file
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise DataError(
            f"process_func_name {name!r}: there is no Python file {path}; name one beside the configuration"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Any = vars(module).get(function)
    if not callable(found):
        raise DataError(f"process_func_name {name!r}: {path} defines no function {function!r}; name one that it has")
    return cast(Processor, found)


# --- metadata.csv and metadata.jsonl


@dataclass(frozen=True)
class MetadataEntries:
    """A row a sample: `file_name` (or `target`) and `text` (or `caption`, `prompt`); `source`, `references` and `task` if any."""

    folder: Path

    @cached_property
    def rows(self) -> list[Mapping[str, Any]]:
        path = next((self.folder / name for name in METADATA if (self.folder / name).is_file()), None)
        if path is None:
            raise DataError(f"{self.folder}: holds neither {' nor '.join(METADATA)}; write one with file_name and text")
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                if path.suffix == ".csv":
                    return list(csv.DictReader(file))
                return [json.loads(line) for line in file if line.strip()]
        except (ValueError, csv.Error) as error:
            raise DataError(
                f"{path}: cannot be read ({error}); give UTF-8, one JSON object a line or a row a sample"
            ) from error

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Entry:
        return row_entry(Folder(self.folder), self.rows[index], f"{self.folder}, row {index + 1}")


def row_entry(files: Any, row: Any, name: str) -> Entry:
    """The sample of a row or of a record under the same names."""
    if not isinstance(row, Mapping):
        raise DataError(f"{name}: holds a {type(row).__name__}; a sample is one JSON object")
    target = next((row[column] for column in TARGETS if row.get(column)), None)
    prompt = next((row[column] for column in TEXTS if row.get(column)), "")
    task = row.get("task") or None
    if not isinstance(target, str) or not isinstance(prompt, str):
        raise DataError(
            f"{name}: has {', '.join(map(str, row))}; it needs file_name (or target) and text (or caption, prompt)"
        )
    source, references = row.get("source") or None, _references(row.get("references"), name)
    if task not in (None, *SAID_TASKS):
        raise DataError(f"{name}: task {task!r} is none that is said; use {' or '.join(SAID_TASKS)}, or leave it out")
    if task == "i2v" and (source is not None or len(references) != 1):
        raise DataError(f"{name}: task i2v goes on from one picture; give it as references, and no source")
    return Entry(
        files=files,
        prompt=prompt,
        target=target,
        source=source,
        references=references,
        task=task,
    )


def _references(given: Any, name: str) -> tuple[str, ...]:
    if not given:
        return ()
    if isinstance(given, str):
        return tuple(one.strip() for one in given.split(SEPARATOR) if one.strip())
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise DataError(
            f"{name}: references={given!r}: give a list of file names, or names with {SEPARATOR} between them"
        )
    return tuple(given)
