"""``loomvideo lora merge``: LoRAs into a denoiser's own weights, as a model folder."""

import argparse
import tempfile
from pathlib import Path

from loomvideo.cli.options import DTYPES, SYSTEMS
from loomvideo.models.lora import LoraError, merge_loras, parse_lora

EXAMPLES = """\
Files may be in diffusers', PEFT's, kohya's or ComfyUI's layout:
  loomvideo lora merge --lora style.safetensors --output models/style
  loomvideo lora merge --lora style.safetensors:0.7 --lora person.safetensors:0.5 --output models/both
  loomvideo generate --model models/both --prompt "a red circle" --output out.png
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "lora", help="merge LoRAs into a model", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["merge"], help="add LoRAs to a denoiser's weights")
    parser.add_argument("--model", default="builtin", help='a model folder, "builtin" or a Hub id')
    parser.add_argument("--system", choices=SYSTEMS, help="of the built-in models, which one")
    parser.add_argument(
        "--lora", action="append", required=True, metavar="FILE[:WEIGHT]", help="a LoRA; may be repeated"
    )
    parser.add_argument("--output", type=Path, required=True, help="the new model folder")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the merged denoiser as it is stored")


def run(arguments: argparse.Namespace) -> int:
    import torch

    from loomvideo.checkpoint import check_model, component_folder, components, resolve_model
    from loomvideo.training.results import write_model

    loras = [parse_lora(text) for text in arguments.lora]
    if arguments.output.exists():
        raise LoraError(f"{arguments.output} is there already: name another folder, or remove it first")
    folder = resolve_model(arguments.model, system=arguments.system)
    check_model(folder)
    denoiser = components(folder)["transformer"].from_pretrained(component_folder(folder, "transformer")).float()
    merge_loras(denoiser, loras)
    with tempfile.TemporaryDirectory() as own:
        denoiser.to(getattr(torch, arguments.dtype)).save_pretrained(Path(own) / "transformer")
        write_model(folder, arguments.output, Path(own))
    print(arguments.output)
    return 0
