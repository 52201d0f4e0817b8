"""Small data sets in every format, for the tests of several folders."""

import csv
import json
import tarfile

import numpy as np

from loomvideo.media.clip import Clip, write_clip, write_picture


def frames(count=9, height=64, width=96, shade=40):
    """A red square that moves right."""
    made = np.full((count, height, width, 3), shade, np.uint8)
    for time, frame in enumerate(made):
        frame[20:40, 8 * time : 8 * time + 20] = (220, 40, 40)
    return made


def write_media(folder, count=9):
    """A source and a target clip of 96x64 at 8 fps, and two pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(folder / "target.mp4", Clip(frames(count), 8))
    write_clip(folder / "source.mp4", Clip(frames(count, shade=90), 8))
    write_picture(folder / "a.png", frames(1)[0])
    write_picture(folder / "b.png", frames(1, 96, 64, shade=200)[0])


ROWS = (
    {"file_name": "target.mp4", "text": "a red square moves right"},
    {"file_name": "a.png", "caption": "a red square"},
    {"target": "target.mp4", "source": "source.mp4", "prompt": "make it darker"},
    {"target": "target.mp4", "source": "source.mp4", "references": ["a.png", "b.png"], "prompt": "as in Image 1"},
    {"target": "b.png", "references": ["a.png"], "prompt": "@Image 1 in white"},
)
TASKS = ("t2v", "t2i", "edit_video", "guided_edit", "mi2v")  # of ROWS


def write_jsonl(folder, rows=ROWS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_csv(folder, rows=ROWS):
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: ";".join(value) if isinstance(value, list) else value for name, value in row.items()}
            )
    return folder


def write_tar(folder, media, rows=ROWS):
    """One shard for every two rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(rows), 2):
        with tarfile.open(folder / f"shard-{first // 2}.tar", "w") as shard:
            for index, row in enumerate(rows[first : first + 2], start=first):
                words = folder / "words.txt"
                words.write_text(next(row[name] for name in ("text", "caption", "prompt") if name in row))
                shard.add(words, f"{index:04d}.txt")
                words.unlink()
                target = row.get("target", row.get("file_name"))
                shard.add(media / target, f"{index:04d}.{target.rpartition('.')[2]}")
                if "source" in row:
                    shard.add(media / row["source"], f"{index:04d}.source.mp4")
                for number, name in enumerate(row.get("references", ()), start=1):
                    shard.add(media / name, f"{index:04d}.reference{number}.png")
    return folder


def write_records(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    for index, record in enumerate(records):
        (folder / f"{index}.json").write_text(json.dumps(record))
    return folder
