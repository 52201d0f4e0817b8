"""``loomvideo bench``: what requests cost in time, work and memory, each against another way in the same process."""

import argparse
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loomvideo.cli.options import DTYPES, UsageError, add_model_options, given, whole_number

if TYPE_CHECKING:
    import torch

    from loomvideo.evaluation.speed import Timing
    from loomvideo.models.wan import LoomVideoTransformer3DModel
    from loomvideo.sampling.caches import Shortcuts

EPILOG = """\
benchmarks:
  edit      a whole edit request of a mid-size random network, against the same weights run the published way
  source    what a source costs: scaled and added, against tokens beside the target's, by length
  speed     each approximation and each --speed on a model: time, memory, and PSNR to the exact result

examples:
  loomvideo bench edit --repeats 5
  loomvideo bench source --lengths 500,1000,2000
  loomvideo bench speed --model builtin --output results/speed.md
"""
HEAD_DIM, CONTEXT_DIM, CHANNELS, SIDE = 128, 1024, 48, 20  # SIDE tokens along rows and columns of a frame
NOISE_LEVELS = (900.0, 700.0, 500.0, 300.0, 100.0)


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("bench", epilog=EPILOG, help="measure time, work and memory")
    parser.add_argument("benchmark", choices=("edit", "source", "speed"), help="what to measure")
    parser.add_argument("--repeats", type=whole_number, default=3, metavar="N", help="measured runs (default: 3)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep what is printed")
    network = parser.add_argument_group("edit and source: the network")
    network.add_argument(
        "--width", type=whole_number, default=768, metavar="N", help="a multiple of 128 (default: 768)"
    )
    network.add_argument("--layers", type=whole_number, default=2, metavar="N", help="(default: 2)")
    network.add_argument("--tokens", type=whole_number, default=2000, metavar="N", help="of the video (default: 2000)")
    network.add_argument("--context", type=whole_number, default=300, metavar="N", help="of the prompt (default: 300)")
    network.add_argument("--lengths", default="400,800,1600", metavar="N,N", help="tokens of the video, for source")
    network.add_argument("--steps", type=whole_number, default=2, metavar="N", help="for edit, 1 to 5 (default: 2)")
    network.add_argument("--precisions", default="float32,bfloat16", metavar="A,B", help="for edit")
    model = parser.add_argument_group("speed: the requests")
    model.add_argument("--num-frames", type=whole_number, default=17, metavar="N")
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    for name in ("repeats", "width", "layers", "tokens", "context", "steps"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name} {getattr(arguments, name)}: must be 1 or more")
    if arguments.width % HEAD_DIM:
        raise UsageError(f"--width {arguments.width}: must be a multiple of {HEAD_DIM}, the width of a head")
    benchmark: Callable[[argparse.Namespace], str] = {"edit": edit, "source": source, "speed": speed}[
        arguments.benchmark
    ]
    if arguments.steps > len(NOISE_LEVELS):
        raise UsageError(f"--steps {arguments.steps}: must be from 1 to {len(NOISE_LEVELS)}")
    report = f"{machine()}\n\n{benchmark(arguments)}\n"
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(report)
    print(report, end="")
    return 0


def machine() -> str:
    """Processor, memory's share of threads, and versions."""
    import diffusers
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return f"{name}{gpu}, {threads}{load}; torch {torch.__version__}, diffusers {diffusers.__version__}"


# --- a request against the published way


def edit(arguments: argparse.Namespace) -> str:
    """Three guidance branches at every step, as an edit with its two scales has them."""
    import torch

    from loomvideo.evaluation import speed as measure

    rows, exact = [], None
    for name in precisions_of(arguments.precisions):
        denoiser, dtype = network(arguments), getattr(torch, name)
        cast(denoiser, dtype)
        ours, published = edit_request(denoiser, arguments, dtype)
        most = [measure.count_bytes(way) for way in (published, ours)]
        if arguments.compile:
            denoiser.compile_repeated_blocks(dynamic=True)
        timings, results = measure.side_by_side({"published": published, "here": ours}, arguments.repeats)
        exact = results["here"].double() if exact is None else exact
        rows.append(
            [
                name,
                *(f"{timings[way].seconds:.2f}" for way in timings),
                *ratios(timings["published"], timings["here"]),
                f"{float((results['here'] - results['published']).abs().max()):.1e}",
                f"{measure.relative_distance(results['here'], exact):.1e}",
                *(f"{size / 2**20:.0f}" for size in most),
            ]
        )
    head = ["precision", "published s", "here s", "ratio", "by processor time", "largest difference"]
    head += ["norm to the first", "published MiB", "here MiB"]
    told = (
        f"{arguments.tokens} tokens, {arguments.context} of context, width {arguments.width}, {arguments.layers} layers"
    )
    told += ", compiled here" if arguments.compile else ""
    return f"An edit, 3 branches, {arguments.steps} steps, {told}:\n\n{measure.table(head, rows)}"


def ratios(slow: "Timing", fast: "Timing") -> list[str]:
    return [f"{slow.seconds / fast.seconds:.2f}", f"{slow.processor_seconds / fast.processor_seconds:.2f}"]


def edit_request(
    denoiser: "LoomVideoTransformer3DModel", arguments: argparse.Namespace, dtype: "torch.dtype"
) -> tuple[Any, Any]:
    """Velocities of all branches and steps, here and the published way, both with all that a request computes."""
    import torch

    from loomvideo.evaluation.published_way import PublishedWay

    source = latents_of(arguments.tokens)
    layers = [
        [torch.randn(1, arguments.context, CONTEXT_DIM).to(dtype) for _ in range(arguments.layers)] for _ in range(3)
    ]
    noisy = torch.randn_like(source).to(dtype)
    sources = [None, source.to(dtype), source.to(dtype)]
    levels = [torch.tensor([level]) for level in NOISE_LEVELS[: arguments.steps]]
    network_there = PublishedWay(denoiser)

    def here() -> Any:
        told = [
            denoiser.prepare(own, latent_shape=noisy.shape, source=given)
            for own, given in zip(layers, sources, strict=True)
        ]
        return torch.stack([denoiser(noisy, level, conditions) for level in levels for conditions in told])

    def published() -> Any:
        branches = list(zip(layers, sources, strict=True))
        return torch.stack([network_there(noisy, level, own, given) for level in levels for own, given in branches])

    return here, published


def network(arguments: argparse.Namespace) -> "LoomVideoTransformer3DModel":
    """Random weights, the same for every precision, none at zero."""
    import torch

    from loomvideo.models.wan import LoomVideoTransformer3DModel

    torch.manual_seed(0)
    denoiser = LoomVideoTransformer3DModel(
        num_attention_heads=arguments.width // HEAD_DIM,
        attention_head_dim=HEAD_DIM,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        ffn_dim=arguments.width * 14 // 3,  # as at full size
        num_layers=arguments.layers,
        mllm_dim=CONTEXT_DIM,
        text_dim=8,
    )
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return denoiser.eval()


def cast(denoiser: "LoomVideoTransformer3DModel", dtype: "torch.dtype") -> None:
    """What loading at a precision does: some parts stay in float32."""
    kept = set(denoiser._keep_in_fp32_modules)
    for name, parameter in denoiser.named_parameters():
        if not kept & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def latents_of(tokens: int) -> "torch.Tensor":
    """Latents (1, c, f, y, x) of so many tokens, in whole frames of up to SIDE x SIDE."""
    import torch

    side = next(side for side in range(min(SIDE, tokens), 0, -1) if tokens % (side * SIDE) == 0 or side == 1)
    rows = SIDE if tokens % (side * SIDE) == 0 else 1
    return torch.randn(1, CHANNELS, tokens // (side * rows), 2 * rows, 2 * side)


# --- a source that is added, and one that stands beside the target


def source(arguments: argparse.Namespace) -> str:
    from loomvideo.evaluation import speed as measure

    denoiser = network(arguments)
    lengths = lengths_of(arguments.lengths)
    rows, by_time = [], []
    for tokens in lengths:
        ways = source_steps(denoiser, arguments, tokens)
        timings, _ = measure.side_by_side(ways, arguments.repeats)
        flops = {name: measure.count_flops(way) for name, way in ways.items()}
        most = {name: measure.count_bytes(way) for name, way in ways.items()}
        by_time.append(timings["beside"].processor_seconds / timings["added"].processor_seconds)
        rows.append(
            [
                f"{tokens:,}",
                f"{timings['added'].seconds:.2f}",
                f"{timings['beside'].seconds:.2f}",
                *ratios(timings["beside"], timings["added"]),
                f"{flops['beside'] / flops['added']:.2f}",
                *(f"{most[name] / 2**20:.0f}" for name in ("added", "beside")),
                f"{most['beside'] / most['added']:.2f}",
            ]
        )
    head = [
        "tokens",
        "added s",
        "beside s",
        "ratio",
        "by processor time",
        "by FLOPs",
        "added MiB",
        "beside MiB",
        "ratio",
    ]
    plot = measure.bars([row[0] for row in rows], by_time)
    return f"One step of one branch:\n\n{measure.table(head, rows)}\n\nratio of processor time, by tokens:\n\n```\n{plot}\n```"


def lengths_of(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) for word in words):
        raise UsageError(f"--lengths {text}: must be whole numbers of tokens, by commas")
    return [int(word) for word in words]


def source_steps(denoiser: "LoomVideoTransformer3DModel", arguments: argparse.Namespace, tokens: int) -> dict[str, Any]:
    import torch

    clip = latents_of(tokens)
    layers = [torch.randn(1, arguments.context, CONTEXT_DIM)] * arguments.layers
    noisy, level = torch.randn_like(clip), torch.tensor([500.0])
    with torch.no_grad():
        added = denoiser.prepare(layers, latent_shape=clip.shape, source=clip)
        beside = denoiser.prepare(layers, latent_shape=clip.shape, references=[clip])
    return {"added": lambda: denoiser(noisy, level, added), "beside": lambda: denoiser(noisy, level, beside)}


# --- approximations


def speed(arguments: argparse.Namespace) -> str:
    """Time up to the latents, and PSNR of the decoded frames to the exact ones, over a few requests."""
    from dataclasses import replace

    import torch

    from loomvideo.cli.options import MODEL_OPTIONS
    from loomvideo.cli.progress import Silence
    from loomvideo.cli.session import Session
    from loomvideo.evaluation import speed as measure
    from loomvideo.systems.plan import plan
    from loomvideo.systems.request import SPEEDS

    session = Session(given(arguments, MODEL_OPTIONS), Silence())
    session.load()
    asked = requests(arguments, session)
    ways = approximations()
    seconds: dict[str, list[Timing]] = {name: [] for name in ways}
    distances: dict[str, list[float]] = {name: [] for name in ways}
    passes, most = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0)
    at_work: list[int] = []  # branches that were computed in the run at work, pass by pass
    for denoiser in session.pipeline.denoisers_at_work:
        denoiser.register_forward_hook(lambda _, given, __: at_work.append(len(given[0])))
    steps = []
    for request in asked:
        plans = {name: plan(replace(request, speed=name), session.limits) for name in SPEEDS}
        told = session.think(plans["exact"]).prompt  # once and before: the language model's time is not measured here
        plans = {name: replace(one, prompt=told, think=False) for name, one in plans.items()}
        decided = plans["exact"]
        steps.append(decided.num_inference_steps)
        runs = {name: sampler(session, plans[own], shortcuts) for name, (own, shortcuts) in ways.items()}
        for name, run in runs.items():
            at_work.clear()
            most[name] = max(most[name], measure.count_bytes(run))
            passes[name] += sum(at_work)
        timings, latents = measure.side_by_side(runs, arguments.repeats)
        with torch.no_grad():
            frames = {
                name: torch.as_tensor(session.pipeline.decode(given, decided, "np")) for name, given in latents.items()
            }
        for name in ways:
            seconds[name].append(timings[name])
            distances[name].append(measure.psnr(frames[name], frames["exact"]))
    exact = [timing.processor_seconds for timing in seconds["exact"]]
    rows = []
    for name, timings in seconds.items():
        ratio = sum(exact) / sum(timing.processor_seconds for timing in timings)
        told = [f"{value:.1f}" for value in (sum(distances[name]) / len(asked), min(distances[name]))]
        told.append(f"{most[name] / 2**20:.0f}")
        rows.append(
            [name, str(passes[name]), f"{sum(timing.seconds for timing in timings):.2f}", f"{ratio:.2f}", *told]
        )
    head = ["shortcut", "passes", "s", "times as fast", "PSNR dB, mean", "least", "MiB"]
    told_steps = f"{', '.join(map(str, steps))} steps"
    return (
        f"{session.options['model']}: {len(asked)} requests, {told_steps}, decoding left out:\n\n"
        f"{measure.table(head, rows)}"
    )


def approximations() -> "dict[str, tuple[str, Shortcuts]]":
    """What is compared, by name: the speed of a plan, and shortcuts of its steps."""
    from loomvideo.sampling.caches import EXACT, Shortcuts
    from loomvideo.systems.request import SPEEDS

    speeds = {f"--speed {name}" if part > 1 else name: (name, EXACT) for name, part in SPEEDS.items()}
    shortcuts = {
        "guided at levels 0.2 to 1": Shortcuts(guided_levels=(0.2, 1.0)),
        "guided at levels 0.5 to 1": Shortcuts(guided_levels=(0.5, 1.0)),
        "guidance at every 2nd step": Shortcuts(guidance_every=2),
        "guidance at every 3rd step": Shortcuts(guidance_every=3),
        "forecast every 2nd step": Shortcuts(forecast_every=2),
        "forecast 2 of 3 steps": Shortcuts(forecast_every=3),
        "forecast 3 of 4 steps": Shortcuts(forecast_every=4),
        "first block, 0.05": Shortcuts(first_block=0.05),
        "first block, 0.1": Shortcuts(first_block=0.1),
        "first block, 0.2": Shortcuts(first_block=0.2),
    }
    return speeds | {name: ("exact", way) for name, way in shortcuts.items()}


def requests(arguments: argparse.Namespace, session: Any) -> list[Any]:
    """A clip from words and two edits of a clip, of the little world."""
    from loomvideo.data.world.render import render
    from loomvideo.data.world.scene import Background, Object, Scene
    from loomvideo.media.clip import Clip
    from loomvideo.systems.request import Request

    circle = Object(shape="circle", colour="red", motion="moves right", x=0.25, travel=0.5)
    frames = render(Scene(objects=(circle,), background=Background(colours=("blue",))))
    clip = Clip(frames, session.limits.fps)
    return [
        Request(prompt="a red circle moves right on a blue background", num_frames=arguments.num_frames),
        Request(prompt="turn the circle into a green star", source=clip, num_frames=arguments.num_frames),
        Request(prompt="make the background yellow", source=clip, num_frames=arguments.num_frames),
    ]


def sampler(session: Any, decided: Any, shortcuts: "Shortcuts") -> Any:
    """What makes the latents of a plan."""
    return lambda: session.pipeline.generate(decided, output_type="latent", shortcuts=shortcuts).frames


def precisions_of(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not set(words) <= set(DTYPES):
        raise UsageError(f"--precisions {text}: must be some of {', '.join(DTYPES)}, by commas")
    return words
