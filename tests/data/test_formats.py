"""Every format says the same of the same samples, and what it cannot say is an error with a way out."""

import json
import tarfile

import numpy as np
import pytest
import yaml

from data_parts import ROWS, TASKS, write_csv, write_jsonl, write_media, write_records, write_tar
from loomvideo.data.config import load_sets
from loomvideo.data.folders import JsonEntries, MetadataEntries, entry_of, processor
from loomvideo.data.reading import Reading
from loomvideo.data.samples import AS_WRITTEN, DataError
from loomvideo.data.segments import PROCESSORS, MediaKind, MediaSegment, TextSegment, segments
from loomvideo.data.tars import TarEntries

RECORD = {
    "caption": "a red square",
    "text": "a red square moves",
    "path": "target.mp4",
    "image_path": "a.png",
    "instruction": "make it darker",
    "reference_image_paths": ["a.png", "b.png"],
    "target_image_path": "b.png",
    "target_video_path": "target.mp4",
    "source_image_path": "a.png",
    "source_video_path": "source.mp4",
    "save_path": "out.mp4",
    "_data_index": 0,
}
LEARNT_FROM = [name for name in PROCESSORS if any(getattr(s, "is_target", False) for s in segments(name, RECORD))]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_media(folder)
    return folder


def start():
    return np.random.default_rng(0)


def write_yaml(folder, **config):
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


# --- the formats agree


@pytest.mark.parametrize("write", [write_jsonl, write_csv], ids=["jsonl", "csv"])
def test_metadata_gives_its_rows_samples(write, media):
    (found,) = load_sets(write(media))
    (media / ("metadata.csv" if write is write_csv else "metadata.jsonl")).unlink()
    samples = [found.data.read(index, start()) for index in range(found.data.size)]
    assert [one.task for one in samples] == list(TASKS)
    assert [one.prompt for one in samples] == [
        next(row[k] for k in ("text", "caption", "prompt") if k in row) for row in ROWS
    ]
    assert [one.source is not None for one in samples] == ["source" in row for row in ROWS]
    assert [len(one.references) for one in samples] == [len(row.get("references", ())) for row in ROWS]


def test_tar_shards_give_the_samples_of_their_files(media, tmp_path):
    (tars,) = load_sets(write_tar(tmp_path / "tars", media))
    (rows,) = load_sets(write_jsonl(media))
    (media / "metadata.jsonl").unlink()
    for index in range(len(ROWS)):
        mine, theirs = tars.data.read(index, start()), rows.data.read(index, start())
        assert (mine.task, mine.prompt) == (theirs.task, theirs.prompt)
        for one, other in zip(
            (mine.target, mine.source, *mine.references),
            (theirs.target, theirs.source, *theirs.references),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", LEARNT_FROM)
def test_every_published_processor_gives_a_sample_with_the_words_a_system_says(name, media, tmp_path):
    """The system's own prefix and the prompt together are the record's text; other text stands for itself."""
    from loomvideo.systems.loomvideo import PREFIXES
    from loomvideo.training.loomvideo import TASKS as SYSTEM_TASKS

    records = write_records(tmp_path / "records", [RECORD])
    path = write_yaml(
        tmp_path, train={"one": {"process_func_name": name, "data_root": str(media), "data_json_dir": str(records)}}
    )
    ((one,), words) = load_sets(path), "".join(s.content for s in segments(name, RECORD) if isinstance(s, TextSegment))
    sample = one.data.read(0, start())
    prefix = "" if sample.task == AS_WRITTEN else PREFIXES[SYSTEM_TASKS[sample.task]][sample.num_frames > 1]
    assert prefix + sample.prompt == words
    kinds = [s.kind for s in segments(name, RECORD) if isinstance(s, MediaSegment) and not s.is_target]
    assert (sample.source is not None) == any(kind.startswith("source") for kind in kinds)
    assert len(sample.references) == kinds.count(MediaKind.IMAGE)


def test_layouts_that_headers_promise_are_those_that_are_read(media):
    (found,) = load_sets(write_jsonl(media))
    (media / "metadata.jsonl").unlink()
    for index in range(found.data.size):
        task, shape, has_source, references = found.data.layout(index).kind
        sample = found.data.read(index, start())
        assert (task, shape) == (sample.task, sample.target.shape[:3])
        assert has_source == (sample.source is not None)
        assert references == tuple(picture.shape[:2] for picture in sample.references)


def test_layouts_of_the_world_are_those_that_are_drawn(tmp_path):
    path = write_yaml(tmp_path, train={"w": {"world": {"mi2v": 1, "edit_image": 1, "t2v": 1}}}, num_frames=5)
    (found,) = load_sets(path)
    assert found.data.size is None
    for index in range(12):
        task, shape, has_source, references = found.data.layout(index).kind
        sample = found.data.read(index, start())
        assert (task, shape) == (sample.task, sample.target_frames().shape[:3])
        assert has_source == (sample.source_frames() is not None)
        assert references == tuple(picture.shape[:2] for picture in sample.reference_pictures())
        assert sample.seed % 2 == 0  # never of the held-out split


def test_a_process_function_of_one_s_own_is_called_with_the_record(media, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from loomvideo.data.segments import MediaKind, MediaSegment, TextSegment\n"
        "def clips(record):\n"
        "    path = f'{record[\"name\"]}.mp4'\n"
        "    return [TextSegment(record['words']), MediaSegment(MediaKind.VIDEO, path, is_target=True)]\n"
    )
    records = write_records(tmp_path / "records", [{"name": "target", "words": "Generate a video: a square"}])
    entry = {"process_func_name": "mine.py:clips", "data_root": str(media), "data_json_dir": str(records)}
    ((one,),) = (load_sets(write_yaml(tmp_path, train={"own": entry})),)
    sample = one.data.read(0, start())
    assert (sample.task, sample.prompt) == ("t2v", "a square")


# --- the configuration


def test_weights_and_reading_are_the_yaml_s(media, tmp_path):
    write_jsonl(tmp_path / "rows", ROWS[:2])
    path = write_yaml(
        tmp_path,
        fps=4,
        num_frames=5,
        resolution_buckets=["256"],
        train={
            "group": {
                "task_weight": 3.0,
                "datasets": {"a": {"folder": "rows", "sample_weight": 2}, "b": {"world": "t2i"}},
            },
            "alone": {"world": ["t2v"], "sample_weight": 0.5},
        },
    )
    sets = load_sets(path)
    assert {one.name: one.weight for one in sets} == {"group/a": 2.0, "group/b": 1.0, "alone": 0.5}
    assert sets[0].data.reading == Reading(fps=4, num_frames=5, resolution_buckets=("256",))
    assert (sets[2].data.height, sets[2].data.num_frames) == (256, 5)


def test_a_training_configuration_leads_to_its_data(media, tmp_path):
    write_jsonl(tmp_path / "rows", ROWS[:2])
    path = write_yaml(tmp_path, run_dir="run", data={"source": "rows", "num_frames": 9, "fps": 8.0, "tokens": 64})
    (one,) = load_sets(path)
    assert one.data.size == 2
    assert one.data.reading.num_frames == 9


def test_published_configurations_say_their_reading_under_data_train(tmp_path, media):
    records = write_records(tmp_path / "records", [RECORD] * 3)
    entry = {
        "process_func_name": "process_t2v_data",
        "data_root": str(media),
        "data_json_dir": str(records),
        "num_samples": 2,
        "sample_weight": 1,
    }
    path = write_yaml(
        tmp_path,
        data={"train": {"fps": 24, "num_frames": 33, "resolution_buckets": ["256"]}},
        dataset={"train": {"videos": {"task_weight": 1, "datasets": {"x": entry}}}},
    )
    (one,) = load_sets(path)
    assert (one.name, one.data.size) == ("videos/x", 2)
    assert one.data.reading == Reading(fps=24, num_frames=33, resolution_buckets=("256",))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train": {}}, "no data sets under train"),
        ({"tran": {"a": {"world": "t2i"}}}, "tran is unknown here; did you mean train"),
        ({"train": {"a": {"world": "t2i"}}, "num_frames": 6}, "use 5 or 9"),
        ({"train": {"a": {"world": "t2i"}}, "fps": "fast"}, "fps"),
        ({"train": {"a": {"world": "t2i"}}, "resolution_buckets": ["300"]}, "name one or more of 128, 256"),
        ({"train": {"a": {"world": "question"}}}, "name tasks"),
        ({"train": {"a": {"world": "i2v"}}, "num_frames": 1}, "num_frames: 5 or more"),
        ({"train": {"a": {"world": "t2i", "heigth": 64}}}, "did you mean height"),
        ({"train": {"a": {"world": "t2i", "height": 50}}}, "multiples of 32"),
        ({"train": {"a": {"world": "t2i", "num_samples": 0}}}, "whole number above 0"),
        ({"train": {"a": {"world": "t2i", "sample_weight": "much"}}}, "is no number"),
        ({"train": {"a": {"world": "t2i", "sample_weight": 0}}}, "not all may be 0"),
        ({"train": {"a": {"task_weight": 1, "datasets": {}}}}, "name each data set"),
        ({"train": {"a": {"folder": "x", "shards": "y"}}}, "give one of"),
        ({"train": {"a": {}}}, "no format"),
        ({"train": {"a": {"folder": "nowhere"}}}, "there is no folder nowhere"),
        ({"train": {"a": {"shards": "*.tar"}}}, "no file matches"),
        ({"train": {"a": {"process_func_name": "process_t2v_data"}}}, "data_root is missing"),
        ({"train": {"a": {"process_func_name": "what", "data_root": ".", "data_json_dir": "."}}}, "FILE.py:FUNCTION"),
        ({"train": {"a": {"process_func_name": "no.py:f", "data_root": ".", "data_json_dir": "."}}}, "no Python file"),
        (
            {"train": {"a": {"process_func_name": "process_t2v_data", "data_root": ".", "data_json_dir": "."}}},
            "no sample",
        ),
    ],
)
def test_a_configuration_that_means_nothing_is_told_in_one_line(config, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_sets(write_yaml(tmp_path, **config))


def test_a_folder_without_data_is_told_what_it_may_hold(tmp_path):
    with pytest.raises(DataError, match=r"metadata\.csv"):
        load_sets(tmp_path)
    with pytest.raises(DataError, match="cannot be opened"):
        load_sets(tmp_path / "nothing.yaml")


# --- records that cannot be used


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds a list"),
        ("{}", "has no 'text'"),
        ('{"text": 3, "path": "x"}', "cannot be processed"),
    ],
)
def test_a_record_that_cannot_be_used_names_its_file(text, message, tmp_path):
    (tmp_path / "0.json").write_text(text)
    entries = JsonEntries(
        data_root=tmp_path, data_json_dir=tmp_path, process=processor("process_t2v_data", tmp_path), num_samples=2
    )
    with pytest.raises(DataError, match=rf"0\.json: .*{message}"):
        entries[0]
    with pytest.raises(DataError, match=r"1\.json"):
        entries[1]


def test_a_benchmark_s_record_is_nothing_to_learn_from():
    with pytest.raises(DataError, match="one target"):
        entry_of(None, segments("process_only_text_data", RECORD))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "file_name"),
        ({"file_name": "a.png", "text": "a", "task": "paint"}, "task 'paint'"),
        ({"file_name": "a.mp4", "text": "a", "task": "i2v"}, "one picture"),
        ({"file_name": "a.png", "text": "a", "references": 5}, "list of file names"),
        (["a.png"], "holds a list"),
    ],
)
def test_a_row_that_cannot_be_used_names_its_number(row, message, tmp_path):
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "x", "text": "y"}) + "\n" + json.dumps(row) + "\n"
    )
    with pytest.raises(DataError, match=f"row 2: .*{message}"):
        MetadataEntries(tmp_path)[1]


def test_a_tar_that_cannot_be_used_says_why(tmp_path, media):
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        shard.add(media / "a.png", "one.png")
        shard.add(media / "a.png", "one.jpg")
    with pytest.raises(DataError, match="sample one: has 2 targets"):
        TarEntries([tmp_path / "0.tar"])[0]
    with tarfile.open(tmp_path / "1.tar", "w:gz") as shard:
        shard.add(media / "a.png", "one.png")
    with pytest.raises(DataError, match="uncompressed"):
        len(TarEntries([tmp_path / "1.tar"]))
