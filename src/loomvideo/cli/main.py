"""``loomvideo COMMAND``: finds the command, and turns what went wrong into one line and an exit status."""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from loomvideo import __version__
from loomvideo.cli.options import Parser, UsageError, is_first_process, is_message

DESCRIPTION = """\
Make and edit video with a multimodal language model.

  loomvideo generate --prompt "a red circle moves right on a blue background" --output out.mp4
  loomvideo generate --source in.mp4 --prompt "turn the circle into a green star" --output out.mp4
  loomvideo COMMAND --help shows a command's options and examples
"""

# A command's module has add_parser(commands) and run(arguments) -> exit status. It is imported when it is called for.
COMMANDS = {
    "generate": ("loomvideo.cli.generate", "make or edit a clip or picture, or many of them"),
    "describe": ("loomvideo.cli.describe", "say what a clip or picture shows, or answer a question about it"),
    "show": ("loomvideo.cli.show", "print how a file was made"),
    "demo": ("loomvideo.cli.demo", "make one example of every task, and a page that shows them"),
    "models": ("loomvideo.cli.models", "list the models at hand"),
    "import": ("loomvideo.cli.import_", "turn published weights into one folder"),
    "evaluate": ("loomvideo.cli.evaluate", "measure a model"),
    "bench": ("loomvideo.cli.bench", "measure time, work and memory"),
    "data": ("loomvideo.cli.data", "check a data set, or prepare it for training"),
    "train": ("loomvideo.cli.train", "train a model"),
    "lora": ("loomvideo.cli.lora", "merge LoRAs into a model"),
}

DONE, USAGE, INTERRUPTED = 0, 2, 130
# Where torchao is installed, to import it is to be told what kernels of other machines are missing.
TALKATIVE = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's own) and returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with told_in_one_line():
            return _dispatch(words)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if not is_message(error):
            raise
        if is_first_process():  # what a person can change is wrong in all of them
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """While it lasts, warnings that this package defines are told to the person; all others stay as they are."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if is_message(message) and is_first_process():
                print(f"warning: {message}", file=sys.stderr)
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _dispatch(words: list[str]) -> int:
    parser = Parser(prog="loomvideo", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"loomvideo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    called = words[0] if words and words[0] in COMMANDS else None
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        raise UsageError(f"{words[0]}: the command is missing before it, as in loomvideo generate {words[0]} ...")
    for name, (_, summary) in COMMANDS.items():
        if name != called:
            commands.add_parser(name, help=summary)
    if called is None:
        parser.parse_args(words)
        return DONE
    module = importlib.import_module(COMMANDS[called][0])
    module.add_parser(commands)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        commands.choices[called].reject(unknown)
    return module.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
