"""``loomvideo demo``: one example of every task, and a page that shows inputs beside outputs."""

import argparse
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from loomvideo.cli.options import MODEL_OPTIONS, add_model_options, given
from loomvideo.cli.progress import show_progress
from loomvideo.cli.session import Made, Session, make
from loomvideo.data.world.render import render
from loomvideo.data.world.scene import Background, Object, Scene
from loomvideo.media.clip import Clip, check_output, write_clip, write_picture
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request

FPS = 8


def plain(colour: str) -> Background:
    return Background(kind="plain", colours=(colour,))


MOVING_CIRCLE = Scene(
    objects=(Object(shape="circle", colour="red", size="large", motion="moves right", x=0.25, travel=0.5),),
    background=plain("blue"),
)
DOTTED_HEART = Scene(
    objects=(Object(shape="heart", colour="yellow", size="large", x=0.4, pattern="dots", pattern_colour="purple"),),
    background=plain("white"),
)
GREEN_STAR = Scene(objects=(Object(shape="star", colour="green", size="large", y=0.6),), background=plain("white"))
STRIPED_GROUND = Scene(objects=(), background=Background(kind="stripes", colours=("orange", "brown")))

INPUTS = {
    "circle.mp4": MOVING_CIRCLE,
    "heart.png": DOTTED_HEART,
    "star.png": GREEN_STAR,
    "ground.png": STRIPED_GROUND,
}


@dataclass(frozen=True)
class Example:
    """One request; ``source`` and ``references`` are names among INPUTS."""

    title: str
    output: str
    prompt: str
    source: str | None = None
    references: tuple[str, ...] = ()
    num_frames: int | None = None


EXAMPLES = (
    Example("Text to video", "text_to_video.mp4", "a yellow circle moves up on a purple background"),
    Example("Edit of a clip", "edit.mp4", "turn the circle into a green star", source="circle.mp4"),
    Example(
        "Guided edit",
        "guided_edit.mp4",
        "replace the circle with the object in Image 1",
        source="circle.mp4",
        references=("heart.png",),
    ),
    Example(
        "Multi-image video",
        "multi_image.mp4",
        "the object in @Image 1 moves left in front of @Image 2",
        references=("star.png", "ground.png"),
    ),
    Example("Text to image", "picture.png", "a pink heart on a white background", num_frames=1),
)


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("demo", help="make one example of every task, and a page that shows them")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs", "demo"), metavar="DIR")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.output_dir
    check_output(folder / "inputs" / "circle.mp4")
    write_inputs(folder / "inputs")
    cards = []
    with show_progress(quiet=arguments.quiet) as progress:
        options = given(arguments, MODEL_OPTIONS)
        session = Session(options, progress)
        for example in EXAMPLES:
            made = carry_out(example, session, folder)
            cards.append(card(example, made, command_line(example, options, folder)))
            if not arguments.quiet:
                print(made, flush=True)
    page = write_page(folder / "index.html", cards)
    if not arguments.quiet:
        print(f"open {page.resolve().as_uri()}")
    return 0


def write_inputs(folder: Path) -> None:
    for name, scene in INPUTS.items():
        if name.endswith(".mp4"):
            write_clip(folder / name, Clip(render(scene), FPS))
        else:
            write_picture(folder / name, render(scene, num_frames=1)[0])


def carry_out(example: Example, session: Session, folder: Path) -> Made:
    request = Request(
        prompt=example.prompt,
        source=None if example.source is None else folder / "inputs" / example.source,
        references=[folder / "inputs" / name for name in example.references],
        num_frames=example.num_frames,
    )
    return make(session, request, plan(request, session.limits), folder / example.output)


def command_line(example: Example, options: Mapping[str, Any], folder: Path) -> str:
    """What makes this example again."""
    words = ["loomvideo", "generate"]
    if example.source is not None:
        words += ["--source", str(folder / "inputs" / example.source)]
    for name in example.references:
        words += ["--reference", str(folder / "inputs" / name)]
    words += ["--prompt", example.prompt]
    if example.num_frames is not None:
        words += ["--num-frames", str(example.num_frames)]
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name}", str(each)]
    return shlex.join([*words, "--output", str(folder / example.output)])


# --- the page

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid #8886; padding: 1rem 0 1.5rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: end; }
figure { margin: 0; }
figcaption { font-size: .85rem; opacity: .75; }
video, img { display: block; width: 12rem; border-radius: .4rem; background: #8883; image-rendering: auto; }
.arrow { font-size: 2rem; align-self: center; opacity: .5; }
pre { overflow-x: auto; padding: .7rem 1rem; border-radius: .4rem; background: #8882; font-size: .85rem; }
"""


def card(example: Example, made: Made, command: str) -> str:
    inputs = [figure(f"inputs/{example.source}", "source")] if example.source else []
    inputs += [figure(f"inputs/{name}", f"Image {i}") for i, name in enumerate(example.references, start=1)]
    arrow = ['<div class="arrow">&rarr;</div>'] if inputs else []
    shown = "\n".join([*inputs, *arrow, figure(example.output, f"output, seed {made.plan.seed}, {made.seconds:.1f} s")])
    return f"""<section>
<h2>{escape(example.title)}</h2>
<p>&ldquo;{escape(example.prompt)}&rdquo;</p>
<div class="row">
{shown}
</div>
<pre>{escape(command)}</pre>
</section>"""


def figure(path: str, caption: str) -> str:
    if path.endswith(".mp4"):
        medium = f'<video src="{escape(path)}" autoplay loop muted playsinline controls></video>'
    else:
        medium = f'<img src="{escape(path)}" alt="{escape(caption)}">'
    return f"<figure>{medium}<figcaption>{escape(caption)}</figcaption></figure>"


def write_page(path: Path, cards: list[str]) -> Path:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>loomvideo</title><style>{STYLE}</style>'
    intro = "<h1>loomvideo</h1><p>One example of every task, each with the command that makes it again.</p>"
    page = f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{intro}\n' + "\n".join(cards)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(f"{page}\n</body>\n</html>\n", encoding="utf-8")
    os.replace(partial, path)
    return path
