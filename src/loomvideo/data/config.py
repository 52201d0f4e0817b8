"""Which data sets there are and how often each is drawn: the published YAML, our own entries in it, or a folder alone."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from loomvideo.data.batching import flatten_weights
from loomvideo.data.folders import METADATA, JsonEntries, MetadataEntries, processor
from loomvideo.data.reading import PICTURE_SIZES, Reading
from loomvideo.data.samples import DataError
from loomvideo.data.sets import DataSet, FileSet, WorldSet
from loomvideo.data.tars import TarEntries
from loomvideo.data.world.tasks import TASKS

SECTIONS = ("train", "val", "eval")
READING = tuple(one.name for one in fields(Reading))
# What an entry may say, by the key that tells its format
FORMATS = {
    "process_func_name": ("data_root", "data_json_dir", "num_samples", "metrics"),
    "folder": (),
    "shards": (),
    "world": ("height", "width", "num_frames", "num_samples", "seed"),
}
WORLD = "world"  # in place of a path: the little world alone
WORLD_SHARES = {
    "t2i": 3.0,
    "edit_image": 3.0,
    "style_image": 1.0,
    "guided_edit": 1.0,
    "mi2v": 1.0,
    "t2v": 3.0,
    "edit_video": 3.0,
    "style_video": 1.0,
}
WORLD_TASKS = tuple(task for task in TASKS if task not in ("caption", "question", "rewrite"))


@dataclass(frozen=True)
class NamedSet:
    name: str
    weight: float  # relative to the others of its section
    data: DataSet


def load_sets(path: Path, *, section: str = "train", reading: Reading | None = None) -> list[NamedSet]:
    """The data sets of a YAML's section, of a folder with metadata or tar shards, or "world", the little world.

    ``reading`` stands in for what the YAML says of rate, length and sizes. A training configuration leads to its
    ``data.source``. Names of files are relative to the YAML, or else to the working directory. Raises DataError.
    """
    if str(path) == WORLD and not path.exists():
        return [NamedSet(WORLD, 1.0, _world({"world": WORLD_SHARES}, reading or Reading(), WORLD))]
    if path.is_dir():
        return [NamedSet(path.name or "data", 1.0, _folder_set(path, reading or Reading()))]
    config = read_yaml(path)
    reading = reading or Reading(**_reading(config, path))
    if (source := source_of(config, path)) is not None:
        return load_sets(source, section=section, reading=reading)
    entries = section_of(config, section)
    if not isinstance(entries, Mapping) or not entries:
        has = ", ".join(map(str, config)) or "nothing"
        raise DataError(f"{path}: has {has} and no data sets under {section}; name them there, as docs/data.md shows")
    weights = flatten_weights({name: _weighted(f"{path}, {name}", entry) for name, entry in entries.items()})
    if not any(weights.values()) or min(weights.values()) < 0:
        raise DataError(f"{path}: weights {weights}: none may be negative, and not all may be 0")
    found = _flat(entries)
    return [
        NamedSet(name, weight, _entry_set(found[name], reading, f"{path}, {name}", path.parent))
        for name, weight in weights.items()
    ]


def source_of(config: Mapping[str, Any], path: Path) -> Path | None:
    """What a training configuration names as its data."""
    data = config.get("data")
    if not isinstance(data, Mapping) or not isinstance(data.get("source"), str):
        return None
    beside = path.parent / data["source"]
    return beside if beside.exists() else Path(data["source"])


def section_of(config: Mapping[str, Any], section: str) -> Any:
    """The entries of a section, which stands at the top or, in a published configuration, under ``dataset``."""
    nested = config.get("dataset")
    return nested.get(section) if isinstance(nested, Mapping) else config.get(section)


def read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); name a YAML or a folder of data") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no YAML ({error}); mend it there") from error
    if not isinstance(config, Mapping):
        raise DataError(
            f"{path}: holds a {type(config).__name__}; a configuration has names with values, such as train:"
        )
    return config


def _reading(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What is said of rate, length and sizes: at the top, or under the ``data`` of a training configuration."""
    data = config.get("data")
    own = not isinstance(data, Mapping)
    if own and (unknown := [name for name in config if name not in (*READING, *SECTIONS)]):
        raise DataError(_unknown(f"{path}", str(unknown[0]), (*READING, *SECTIONS)))
    places = [config] if own else [data, data.get("train")]  # type: ignore[union-attr]
    said = {key: place[key] for place in places if isinstance(place, Mapping) for key in READING if key in place}
    if isinstance(said.get("resolution_buckets"), str | int):
        said["resolution_buckets"] = (said["resolution_buckets"],)
    try:
        Reading(**said)
    except TypeError as error:
        raise DataError(f"{path}: {said} cannot be read ({error}); fps and num_frames are numbers") from error
    return said


def _weighted(name: str, entry: Any) -> dict[str, Any]:
    """An entry with its weights as numbers; 1 where it says nothing."""
    if not isinstance(entry, Mapping):
        raise DataError(f"{name}: holds {entry!r}; an entry names a format ({', '.join(FORMATS)}) or has datasets")
    key = "task_weight" if "datasets" in entry else "sample_weight"
    weight = entry.get(key, 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise DataError(f"{name}: {key}={weight!r} is no number; give one such as 1.0")
    weighted = {**entry, key: float(weight)}
    if "datasets" in entry:
        if not isinstance(entry["datasets"], Mapping) or not entry["datasets"]:
            raise DataError(f"{name}: datasets={entry['datasets']!r}: name each data set of the group, with its entry")
        children = {child: _weighted(f"{name}/{child}", one) for child, one in entry["datasets"].items()}
        if not sum(child["sample_weight"] for child in children.values()) > 0:
            raise DataError(
                f"{name}: the sample_weight of every data set is 0; give one that is above, or leave the group out"
            )
        weighted["datasets"] = children
    return weighted


def _flat(entries: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    flat: dict[str, Mapping[str, Any]] = {}
    for name, entry in entries.items():
        children = entry.get("datasets")
        flat |= {name: entry} if children is None else {f"{name}/{child}": one for child, one in children.items()}
    return flat


def _entry_set(entry: Mapping[str, Any], reading: Reading, name: str, folder: Path) -> DataSet:
    formats = [key for key in FORMATS if key in entry]
    if len(formats) != 1:
        raise DataError(f"{name}: names {' and '.join(formats) or 'no format'}; give one of {', '.join(FORMATS)}")
    known = (formats[0], "sample_weight", *FORMATS[formats[0]])
    for key in entry:
        if key not in known:
            raise DataError(_unknown(name, str(key), known))
    match formats[0]:
        case "folder":
            return FileSet(_metadata(_found(entry["folder"], folder, name)), reading)
        case "shards":
            return FileSet(_tars(str(entry["shards"]), folder, name), reading)
        case "world":
            return _world(entry, reading, name)
        case _:
            return FileSet(_published(entry, name, folder), reading)


def _published(entry: Mapping[str, Any], name: str, folder: Path) -> JsonEntries:
    for key in ("data_root", "data_json_dir"):
        if key not in entry:
            raise DataError(f"{name}: {key} is missing; records are {{data_json_dir}}/0.json …, files below data_root")
    directory = _found(entry["data_json_dir"], folder, name)
    return JsonEntries(
        data_root=_found(entry["data_root"], folder, name),
        data_json_dir=directory,
        process=processor(str(entry["process_func_name"]), folder),
        num_samples=_count(entry, name) or _not_empty(len(list(directory.glob("*.json"))), f"{directory}"),
    )


def _world(entry: Mapping[str, Any], reading: Reading, name: str) -> WorldSet:
    shares = entry["world"]
    shares = {shares: 1.0} if isinstance(shares, str) else shares
    shares = dict.fromkeys(shares, 1.0) if isinstance(shares, list) else shares
    if not isinstance(shares, Mapping) or not shares or not set(shares) <= set(WORLD_TASKS):
        raise DataError(
            f"{name}: world={entry['world']!r}: name tasks, with shares if they differ: {', '.join(WORLD_TASKS)}"
        )
    if min(shares.values()) < 0 or not sum(shares.values()) > 0:
        raise DataError(f"{name}: world={entry['world']!r}: shares are 0 or more, and not all 0")
    height, width = PICTURE_SIZES[reading.resolution_buckets[0]][0]
    sizes = {"height": height, "width": width, "num_frames": reading.num_frames} | {
        key: entry[key] for key in ("height", "width", "num_frames", "seed") if key in entry
    }
    if any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in sizes.values()):
        raise DataError(f"{name}: {sizes}: sizes and seeds are whole numbers")
    if sizes["height"] % 32 or sizes["width"] % 32 or (sizes["num_frames"] - 1) % 4 or not sizes["num_frames"]:
        raise DataError(f"{name}: {sizes}: sides are multiples of 32, and frames 1 + 4n")
    if "i2v" in shares and sizes["num_frames"] == 1:
        raise DataError(f"{name}: task i2v goes on from its first frame: give num_frames: 5 or more")
    return WorldSet(tasks=shares, size=_count(entry, name), **sizes)


def _count(entry: Mapping[str, Any], name: str) -> int | None:
    count = entry.get("num_samples")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise DataError(f"{name}: num_samples={count!r}: give a whole number above 0, or leave it out")
    return count


def _folder_set(folder: Path, reading: Reading) -> DataSet:
    if any((folder / name).is_file() for name in METADATA):
        return FileSet(_metadata(folder), reading)
    if any(folder.glob("*.tar")):
        return FileSet(_tars("*.tar", folder, str(folder)), reading)
    raise DataError(
        f"{folder}: holds neither {' nor '.join(METADATA)} nor tar shards; write metadata.csv with file_name and text, or "
        "name the folder of JSON records in a YAML with their process_func_name"
    )


def _metadata(folder: Path) -> MetadataEntries:
    entries = MetadataEntries(folder)
    _not_empty(len(entries), f"{folder}")
    return entries


def _tars(pattern: str, folder: Path, name: str) -> TarEntries:
    place = Path(pattern)
    paths = sorted(place.parent.glob(place.name)) if place.is_absolute() else sorted(folder.glob(pattern))
    paths = paths or ([] if place.is_absolute() else sorted(Path().glob(pattern)))
    if not paths:
        raise DataError(f"{name}: no file matches shards={pattern!r}; give a pattern such as shards/*.tar")
    entries = TarEntries(paths)
    _not_empty(len(entries), name)
    return entries


def _not_empty(count: int, name: str) -> int:
    if not count:
        raise DataError(f"{name}: there is no sample in it; add some, or leave it out")
    return count


def _found(given: Any, folder: Path, name: str) -> Path:
    """A folder as named from the YAML's own or from the working directory."""
    for place in (folder / str(given), Path(str(given))):
        if place.is_dir():
            return place
    raise DataError(f"{name}: there is no folder {given}; name one relative to the configuration or to where you are")


def _unknown(name: str, key: str, known: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"use some of {', '.join(known)}"
    return f"{name}: {key} is unknown here; {hint}"
