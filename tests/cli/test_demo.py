"""The demonstration: one example of every task and a page that shows them."""

import shlex
from html.parser import HTMLParser

import pytest

from loomvideo.media.clip import probe, read_metadata

TASKS = {"t2v", "edit", "ref_edit", "mi2v", "t2i"}


class Page(HTMLParser):
    """The files that a page shows and the commands that it prints."""

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.commands: list[str] = []
        self.in_command = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.in_command = tag == "pre"
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        if self.in_command:
            self.commands.append(data)
            self.in_command = False


@pytest.fixture(scope="module")
def demo(tiny_model, tmp_path_factory):
    from loomvideo.cli.main import main

    folder = tmp_path_factory.mktemp("demo") / "outputs"
    assert main(["demo", "--model", str(tiny_model), "--output-dir", str(folder), "--quiet"]) == 0
    return folder


def test_there_is_an_example_of_every_task(demo):
    assert {read_metadata(path)["task"] for path in demo.iterdir() if path.suffix in (".mp4", ".png")} == TASKS


def test_the_page_shows_every_input_and_output_and_works_offline(demo):
    page = Page((demo / "index.html").read_text())
    for source in page.sources:
        assert probe(demo / source).width > 0
    shown = {demo / source for source in page.sources}
    assert shown == {path for path in demo.rglob("*") if path.suffix in (".mp4", ".png")}


def test_every_printed_command_makes_its_example_again(demo, loomvideo):
    commands = Page((demo / "index.html").read_text()).commands
    assert len(commands) == len(TASKS)
    for command in commands:
        program, *words = shlex.split(command)
        output = demo / words[words.index("--output") + 1]
        before = output.read_bytes()
        assert program == "loomvideo"
        assert loomvideo(*words).status == 0
        assert output.read_bytes() == before
