"""``loomvideo generate --batch``: many requests, one model, and a journal that says which are done."""

import argparse
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loomvideo.cli.options import REQUEST_OPTIONS, UsageError, is_first_process, is_message
from loomvideo.cli.session import Session, make, request_of
from loomvideo.media.limits import check_file
from loomvideo.systems.plan import plan
from loomvideo.systems.request import ModelLimits

JOURNAL = "results.jsonl"
SAFE_NAME = re.compile(r"\w[\w.-]{0,119}")
SYNONYMS = {
    "steps": "num_inference_steps",
    # of Omni-Video 2's prompt files
    "edit_prompt": "prompt",
    "Prompt": "prompt",
    "source_clip_path": "source",
    "video_path_src": "source",
    "video": "source",
    "sample_id": "id",
}
SUFFIXES = {True: ".png", False: ".mp4"}  # one frame, more


class LineError(ValueError):
    """A line of the batch is no request."""


@dataclass(frozen=True)
class Line:
    """One line of the requests' file: its request's options, or what is wrong with it."""

    number: int
    name: str | None
    options: dict
    error: str | None = None


@dataclass(frozen=True)
class Requests:
    """Where many requests come from and go to."""

    folder: Path
    options: Mapping[str, Any]  # that hold for each
    read: Callable[[ModelLimits], list[Line]]


def requests(arguments: argparse.Namespace, options: Mapping[str, Any]) -> Requests:
    """What --batch asks for, checked as far as can be without a model."""
    if arguments.output is not None:
        raise UsageError("--output names one file; with --batch leave it out, --output-dir is where the files go")
    check_file(arguments.batch)
    return Requests(arguments.output_dir, options, lambda limits: list(read_lines(arguments.batch)))


def run(
    lines: Sequence[Line], session: Session, options: Mapping[str, Any], folder: Path, *, quiet: bool, as_json: bool
) -> int:
    """Exit status 0 when all is done, 1 when some failed. Only what the journal does not call done is tried."""
    done = finished(folder)
    missing = [line for line in lines if line.name not in done]
    if any(line.error is None for line in missing):
        session.load()
    failed = 0
    for place, line in enumerate(missing, start=1):
        result = carry_out(line, session, options, folder)
        if is_first_process():
            append(folder / JOURNAL, result)
        failed += result["status"] == "failed"
        tell(f"{place}/{len(missing)} {line.name or ''}", result, quiet=quiet or as_json)
    summary = {
        "requests": len(lines),
        "made": len(missing) - failed,
        "failed": failed,
        "results": str(folder / JOURNAL),
    }
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    return 1 if failed else 0


def carry_out(line: Line, session: Session, options: Mapping[str, Any], folder: Path) -> dict:
    """One journal entry. A bad request ends as a failed entry; so does a mistake of ours, with its traceback shown."""
    began = time.monotonic()
    entry = {
        "id": line.name,
        "line": line.number,
        "status": "failed",
        "output": None,
        "error": line.error,
        "seed": None,
    }
    try:
        if line.error is None:
            request = request_of({**options, **line.options})
            decided = plan(request, session.limits)
            output = folder / f"{line.name}{SUFFIXES[decided.output_frames == 1]}"
            make(session, request, decided, output)
            entry |= {"status": "done", "output": str(output), "seed": decided.seed, "notes": list(decided.notes)}
    except Exception as error:
        if not is_message(error):
            traceback.print_exc(file=sys.stderr)
        entry["error"] = f"line {line.number}: {' '.join(str(error).split()) or type(error).__name__}"
    return entry | {"seconds": round(time.monotonic() - began, 2)}


def read_lines(path: Path) -> Iterator[Line]:
    """Every line that is not blank; a line that is no request says so and stands in nobody's way."""
    taken: dict[str, int] = {}
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        if not text.strip():
            continue
        name = None
        try:
            fields = parse_object(text)
            name = checked_name(fields.pop("id", None), taken)
            taken[name] = number
            yield Line(number, name, request_fields(fields, path.parent))
        except LineError as error:
            yield Line(number, name, {}, f"line {number}: {error}")


def parse_object(text: bytes) -> dict:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise LineError(f"not JSON ({error}); write one object a line") from error
    if not isinstance(fields, dict):
        raise LineError('no JSON object; write {"id": ..., "prompt": ...}')
    return {SYNONYMS.get(name, name): value for name, value in fields.items()}


def checked_name(name: object, taken: Mapping[str, int]) -> str:
    if name is None:
        raise LineError("has no id; give each request its own, the file is named after it")
    name = str(name)
    if not SAFE_NAME.fullmatch(name):
        raise LineError(f"id {name[:40]!r} names no file; use letters, digits, '_', '-' and '.', 120 at most")
    if name in taken:
        raise LineError(f"id {name!r} stands in line {taken[name]} already; give each request its own")
    return name


def request_fields(fields: dict, folder: Path) -> dict:
    """Request options of a line, files found from the folder of the batch."""
    options = {name: value for name, value in fields.items() if value is not None}
    for name in options:
        if name not in REQUEST_OPTIONS:
            raise LineError(f"{name!r} is no option of a request; use {', '.join(REQUEST_OPTIONS)}")
    if isinstance(options.get("source"), str):
        options["source"] = str(folder / options["source"])
    references = options.get("references", [])
    references = [references] if isinstance(references, str) else references
    if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
        raise LineError(f"references={references!r}: must be a list of files")
    return options | {"references": [str(folder / reference) for reference in references]}


def finished(folder: Path) -> set[str]:
    """Ids whose last journal entry says done and whose file is there. A torn last entry, of a killed run, is passed over."""
    journal = folder / JOURNAL
    status: dict[str, bool] = {}
    for text in journal.read_bytes().splitlines() if journal.exists() else ():
        try:
            entry = json.loads(text)
            status[entry["id"]] = entry["status"] == "done" and Path(folder, Path(entry["output"]).name).exists()
        except (ValueError, TypeError, KeyError):
            continue
    return {name for name, is_done in status.items() if is_done}


def append(journal: Path, entry: dict) -> None:
    """One whole line, on disk before the next request begins; a torn line before it is ended first."""
    line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    try:
        with journal.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(
            f"{journal}: cannot be written ({error.strerror}); make room and start the batch again"
        ) from error


def tell(place: str, result: dict, *, quiet: bool) -> None:
    if result["error"] and is_first_process():
        print(f"error: {place}: {result['error']}", file=sys.stderr, flush=True)
    elif not quiet:
        print(f"{place}: {result['output']}, seed {result['seed']}, {result['seconds']} s", flush=True)
