"""Run the little world's suite over anything that makes frames, and report exact scores with their counts."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, TextIO

from loomvideo.data.world.styles import STYLES
from loomvideo.evaluation.cases import REAL_STYLE, TASKS, Case, Result, Size, SuiteError, cases, clips_in
from loomvideo.evaluation.judge import Verdict

Generate = Callable[[Case], Result]
OnResult = Callable[[Case, Result, Verdict], None]
WILSON_Z = 1.959964  # 95 %


@dataclass(frozen=True)
class Score:
    """``right`` of ``total``, with the 95 % Wilson interval (Wilson 1927) of the share."""

    right: int
    total: int

    @property
    def share(self) -> float:
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        if not self.total:
            return 0.0, 1.0
        n, p, z2 = self.total, self.share, WILSON_Z**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = WILSON_Z * sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return max(middle - half, 0.0), min(middle + half, 1.0)

    def to_json(self) -> dict[str, Any]:
        return {
            "right": self.right,
            "total": self.total,
            "share": round(self.share, 4),
            "interval": [round(end, 4) for end in self.interval],
        }


def score(rights: Iterable[bool]) -> Score:
    marks = list(rights)
    return Score(sum(marks), len(marks))


def evaluate(
    generate: Generate,
    *,
    tasks: Sequence[str],
    num_prompts: int = 200,
    seed: int = 0,
    size: Size = Size(),  # noqa: B008  frozen
    media: Path | None = None,
    records: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    on_result: OnResult | None = None,
) -> dict[str, Any]:
    """Scores of ``generate`` on ``num_prompts`` held-out prompts of every task of ``TASKS`` named.

    ``records`` is a file of one JSON line a prompt, written as results come; a run that finds it does only what is missing.
    ``settings`` tell what was measured (model, steps); a run is only continued under the same.

    Raises:
        SuiteError: an unknown task, no prompts, no clips for real styles, or records of other settings.
    """
    counts = {task: _count(task, num_prompts, media) for task in tasks}
    told = {**(settings or {}), "seed": seed, "size": asdict(size)}
    with record_file(records, told) as (done, keep):
        for task in tasks:
            missing = [index for index in range(counts[task]) if (task, index) not in done]
            for case in cases(task, missing, seed=seed, size=size, media=media):
                began = monotonic()
                result = generate(case)
                seconds = monotonic() - began
                verdict = case.judge(result)
                done[task, case.index] = keep(record_of(case, result, verdict, seconds))
                if on_result is not None:
                    on_result(case, result, verdict)
        results = [done[task, index] for task in tasks for index in range(counts[task])]
    return {
        "settings": told,
        "num_prompts": num_prompts,
        "tasks": {task: summary([row for row in results if row["task"] == task]) for task in tasks},
    }


def _count(task: str, num_prompts: int, media: Path | None) -> int:
    if task not in TASKS:
        raise SuiteError(f"task {task!r} is not in the suite: use some of {', '.join(TASKS)}")
    if num_prompts < 1:
        raise SuiteError(f"num_prompts={num_prompts}: a score needs at least 1")
    if task != REAL_STYLE:
        return num_prompts
    if media is None:
        raise SuiteError(f"task {task!r} needs a folder of clips: give --media")
    return min(num_prompts, len(clips_in(media)) * len(STYLES))


# --- records


def record_of(case: Case, result: Result, verdict: Verdict, seconds: float) -> dict[str, Any]:
    words = {"said": result, "answer": case.answer} if isinstance(result, str) else {}
    return words | {
        "task": case.task,
        "index": case.index,
        "prompt": case.prompt,
        "kind": case.kind,
        "num_objects": len(verdict.objects),
        "redrawn": case.redrawn,
        "all_right": verdict.all_right,
        "facts": dict(verdict.facts),
        "objects": [dict(facts) for facts in verdict.objects],
        "psnr": None if verdict.psnr is None else round(verdict.psnr, 3),
        "seconds": round(seconds, 3),
    }


Record = dict[str, Any]
Done = dict[tuple[str, int], Record]


@contextmanager
def record_file(path: Path | None, settings: Mapping[str, Any]):  # noqa: ANN201
    """The results so far, by task and index, and a function that keeps another one."""
    if path is None:
        yield {}, lambda record: record
        return
    done = read_records(path, settings) if path.exists() else {}
    _rewrite(path, settings, done.values())
    with path.open("a", encoding="utf-8") as file:
        yield done, lambda record: _kept(file, record)


def _kept(file: TextIO, record: Record) -> Record:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()
    return record


def read_records(path: Path, settings: Mapping[str, Any]) -> Done:
    """The whole lines of a record file; a last line cut short by a stop is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last line break was cut short
    try:
        header, *rows = [json.loads(line) for line in lines]
        found, done = header["settings"], {(row["task"], row["index"]): row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise SuiteError(
            f"{path} holds no results of this suite ({error!r}): name another --output, or delete it"
        ) from error
    if found != json.loads(json.dumps(settings)):
        raise SuiteError(f"{path} holds results of {found}, not of {settings}: name another --output, or delete it")
    return done


def _rewrite(path: Path, settings: Mapping[str, Any], rows: Iterable[Record]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ({"settings": dict(settings)}, *rows))
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write beside the final name and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


# --- scores


def summary(rows: Sequence[Record]) -> dict[str, Any]:
    """All right, then every fact where it was judged, then by kind and by number of objects; PSNR in dB."""
    psnrs = [row["psnr"] for row in rows if row["psnr"] is not None]
    return {
        "all_right": score(row["all_right"] for row in rows).to_json(),
        "facts": {
            name: score(row["facts"][name] for row in rows if name in row["facts"]).to_json()
            for name in _names(row["facts"] for row in rows)
        },
        "by_object": {
            name: score(facts[name] for row in rows for facts in row["objects"] if name in facts).to_json()
            for name in _names(facts for row in rows for facts in row["objects"])
        },
        "by_kind": {kind: _of(rows, "kind", kind) for kind in sorted({row["kind"] for row in rows}) if kind},
        "by_num_objects": {
            str(count): _of(rows, "num_objects", count)
            for count in sorted({row["num_objects"] for row in rows})
            if count
        },
        "psnr": {"mean": round(sum(psnrs) / len(psnrs), 2), "median": round(median(psnrs), 2), "total": len(psnrs)}
        if psnrs
        else None,
        "redrawn": sum(row["redrawn"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def _names(facts: Iterable[Mapping[str, bool]]) -> list[str]:
    return list(dict.fromkeys(name for each in facts for name in each))


def _of(rows: Sequence[Record], key: str, value: object) -> dict[str, Any]:
    part = [row for row in rows if row[key] == value]
    psnrs = [row["psnr"] for row in part if row["psnr"] is not None]
    scores = score(row["all_right"] for row in part).to_json()
    return scores | ({"psnr": round(sum(psnrs) / len(psnrs), 2)} if psnrs else {})


def table(report: Mapping[str, Any]) -> str:
    """The report as lines of text: a task's score with its interval, then its facts."""
    lines = [f"{'task':<15}{'all right':>18}{'95 %':>16}{'PSNR':>9}   facts"]
    for task, scores in report["tasks"].items():
        right, facts, psnr = scores["all_right"], scores["facts"], scores["psnr"]
        low, high = right["interval"]
        said = "  ".join(f"{name} {fact['right']}/{fact['total']}" for name, fact in facts.items())
        share = f"{right['right']}/{right['total']} = {right['share']:.1%}"
        decibels = f"{psnr['mean']:.1f} dB" if psnr else "-"
        lines.append(f"{task:<15}{share:>18}{f'{low:.1%} - {high:.1%}':>16}{decibels:>9}   {said}")
    return "\n".join(lines)
