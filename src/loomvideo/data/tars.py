"""WebDataset shards: tar files whose members of one name are one sample.

They are read with `tarfile` and not with the `webdataset` package, which streams shards and shuffles within a buffer: an
order that is exactly resumed and the same for any number of ranks needs any sample by its number. The members' places are
read once, from headers alone.
"""

import json
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from loomvideo.data.folders import row_entry
from loomvideo.data.reading import Entry
from loomvideo.data.samples import DataError

WORDS = ("json", "txt")
REFERENCE = re.compile(r"reference(\d*)\.\w+")


class Member(NamedTuple):
    offset: int
    size: int


@dataclass(frozen=True)
class Shard:
    """An uncompressed tar file, of which members are copied out while they are read."""

    path: Path
    members: Mapping[str, Member]

    def read(self, name: str) -> bytes:
        if name not in self.members:
            raise DataError(f"{self.path}: has no member {name}; pack the shard again")
        member = self.members[name]
        with self.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="loomvideo-") as folder:
            path = Path(folder) / PurePosixPath(name).name
            path.write_bytes(self.read(name))
            yield path


@dataclass(frozen=True)
class TarEntries:
    """Samples of several shards, in the order they stand in.

    ``NAME.mp4`` (or any picture or clip) is the target, ``NAME.txt`` its words; ``NAME.json`` holds them under the names of
    metadata.jsonl. ``NAME.source.mp4`` and ``NAME.reference1.png`` … are what an edit begins with.
    """

    paths: Sequence[Path]

    @cached_property
    def samples(self) -> list[tuple[Shard, str, dict[str, str]]]:
        """Of every sample its shard, its name, and its members by what follows the name."""
        found: list[tuple[Shard, str, dict[str, str]]] = []
        for path in self.paths:
            shard = Shard(path, _members(path))
            grouped: dict[str, dict[str, str]] = {}
            for name in shard.members:
                folder, _, base = name.rpartition("/")
                key, _, extension = base.partition(".")
                grouped.setdefault(f"{folder}/{key}" if folder else key, {})[extension.lower()] = name
            found += [(shard, key, members) for key, members in grouped.items()]
        return found

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Entry:
        shard, key, members = self.samples[index]
        return row_entry(shard, _row(shard, key, members), f"{shard.path}, sample {key}")


def _members(path: Path) -> dict[str, Member]:
    try:
        with tarfile.open(path, "r:") as shard:
            return {one.name: Member(one.offset_data, one.size) for one in shard if one.isfile()}
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{path}: cannot be read as an uncompressed tar file ({error}); unpack it with gunzip or pack it again"
        ) from error


def _row(shard: Shard, key: str, members: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if "json" in members:
        try:
            row = json.loads(shard.read(members["json"]))
        except ValueError as error:
            raise DataError(f"{shard.path}, {members['json']}: no JSON ({error}); pack the shard again") from error
    if "txt" in members:
        row["text"] = shard.read(members["txt"]).decode("utf-8", "replace").strip()
    targets = [extension for extension in members if "." not in extension and extension not in WORDS]
    if len(targets) != 1:
        raise DataError(f"{shard.path}, sample {key}: has {len(targets)} targets among {', '.join(members)}; give one")
    references = sorted(
        (int(match[1] or 0), name) for extension, name in members.items() if (match := REFERENCE.fullmatch(extension))
    )
    source = next((name for extension, name in members.items() if extension.startswith("source.")), None)
    return row | {"target": members[targets[0]], "source": source, "references": [name for _, name in references]}
