"""One command for a GPU: LoomVideo at full size with random weights, 480x832x97, 50 steps, bfloat16.

    python benchmarks/h200.py --output docs/h200

It writes results.json and log.txt into the folder: the rate of matrix products in the same run, the denoiser's share of it,
whole samplings (exact and at each --speed), diffusers' own Wan pipeline beside, the VAE's decoding, and the peak of an edit within
--memory-limit 24GB. It needs torch, diffusers and transformers, neither PyAV nor weights. `--small` rehearses it on any
machine. Each part is written when it is done, so that a run that is cut short keeps what it has.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from loomvideo.checkpoint import BUILTIN
from loomvideo.cli.import_loomvideo import PUBLISHED_LIMITS
from loomvideo.cli.import_steps import PUBLISHED_BUDGETS
from loomvideo.evaluation.speed import count_flops
from loomvideo.media.clip import Clip
from loomvideo.models.attention import choose_kernel
from loomvideo.models.qwen import FrameRule
from loomvideo.models.vae import decode
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.sampling.sampler import Branch, sample
from loomvideo.systems.loomvideo import LoomVideoPipeline
from loomvideo.systems.memory import apply, arrange, parse_limit
from loomvideo.systems.plan import plan
from loomvideo.systems.request import SPEEDS, Request, steps_at

FULL = {
    "tokens": 512,
    "grid": (25, 30, 52),
    "steps": 50,
    "network": {},
    "wide": (9750, 3072, 14336),
    "text": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "vocab_size": 151_936},
    "heads": (32, 8, 128, [24, 20, 20]),
    "vision": {"out_hidden_size": 4096},
}
SMALL = {
    "tokens": 8,
    "grid": (2, 4, 4),
    "steps": 6,
    "network": {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 2, "mllm_dim": 16},
    "wide": (32, 32, 32),
    "text": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 1024},
    "heads": (2, 1, 12, [2, 2, 2]),
    "vision": {
        "out_hidden_size": 16,
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    },
}
LIMIT = "24GB"
WAN_FIELDS = ("num_attention_heads", "attention_head_dim", "ffn_dim", "num_layers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--small", action="store_true", help="a rehearsal with tiny networks, on any device")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(SMALL if arguments.small else FULL, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    results: dict[str, Any] = {}
    for part in (
        bench.machine,
        bench.matmul,
        bench.denoiser,
        bench.samplings,
        bench.wan_pipeline,
        bench.decoding,
        bench.limited,
    ):
        began = time.perf_counter()
        results[part.__name__] = part()
        with (arguments.output / "log.txt").open("a") as log:
            log.write(f"{part.__name__} {time.perf_counter() - began:.1f} s {json.dumps(results[part.__name__])}\n")
        (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


class Bench:
    """The parts of the benchmark; each gives what it measured."""

    def __init__(self, size: dict[str, Any], device: torch.device) -> None:
        self.size, self.device = size, device
        self.dtype = torch.bfloat16
        choose_kernel(device, self.dtype).use()

    def machine(self) -> dict[str, str]:
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        kernel = str(choose_kernel(self.device, self.dtype))
        return {"device": name, "torch": torch.__version__, "cuda": str(torch.version.cuda), "kernel": kernel}

    def matmul(self) -> dict[str, float]:
        """FLOP/s of the feed-forward's own product: what the denoiser is held against."""
        n, width, wide = self.size["wide"]
        a, b = (torch.randn(shape, device=self.device, dtype=self.dtype) for shape in ((n, width), (width, wide)))
        seconds = self.median(lambda: a @ b, repeats=50)
        return {"flops_per_second": 2 * n * width * wide / seconds}

    def denoiser(self) -> dict[str, float]:
        """One velocity of one branch: eager, compiled, and its share of the matrix rate."""
        with torch.device("meta"):
            shape = LoomVideoTransformer3DModel(**self.size["network"])
            conditions = self.conditions(shape, torch.device("meta"))
            noisy, level = self.latents(torch.device("meta")), torch.empty(1)
            flops = count_flops(lambda: shape.to(self.dtype)(noisy, level, conditions))
        model = self.network()
        told, noisy, level = self.conditions(model, self.device), self.latents(), self.level(500.0)
        eager = self.median(lambda: model(noisy, level, told), repeats=5)
        self.compile(model)
        compiled = self.median(lambda: model(noisy, level, told), repeats=10)
        share = flops / compiled / self.matmul()["flops_per_second"]
        return {"flops": flops, "eager_s": eager, "compiled_s": compiled, "share_of_matrix_rate": share}

    def samplings(self) -> dict[str, float]:
        """Seconds of whole samplings, branches prepared beforehand, by task and speed."""
        model = self.network()
        self.compile(model)
        seconds = {}
        for task, branches in (("text-to-video", 2), ("edit", 3)):
            for speed in SPEEDS:
                run = self.sampling(model, branches, steps_at(speed, self.size["steps"]))
                run()  # the first compiles
                seconds[f"{task}, {speed}"] = self.median(run, repeats=1)
        return seconds

    def wan_pipeline(self) -> dict[str, float]:
        """diffusers' own text-to-video pipeline with a denoiser of the same size, latents out."""
        fields = {name: value for name, value in self.network().config.items() if name in WAN_FIELDS}
        model = WanTransformer3DModel(**fields, patch_size=(1, 2, 2), in_channels=48, out_channels=48, text_dim=4096)
        pipe = WanPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=self.vae(),
            transformer=model.to(self.device, self.dtype).eval(),
            scheduler=scheduler(),
            expand_timesteps=True,
        )
        pipe.set_progress_bar_config(disable=True)
        frames, rows, columns = self.size["grid"]
        rows_of_text = torch.randn(1, self.size["tokens"], 4096, device=self.device, dtype=self.dtype)

        def run() -> Tensor:
            return pipe(
                prompt_embeds=rows_of_text,
                negative_prompt_embeds=rows_of_text,
                height=16 * rows,
                width=16 * columns,
                num_frames=4 * (frames - 1) + 1,
                num_inference_steps=self.size["steps"],
                output_type="latent",
            ).frames

        return {"text-to-video": self.median(run, repeats=1)}

    def decoding(self) -> dict[str, float]:
        vae, latents = self.vae(), self.latents()
        return {"seconds": self.median(lambda: decode(vae, latents), repeats=3), **self.peak()}

    def limited(self) -> dict[str, Any]:
        """A whole edit, read, denoised in two steps and decoded, as --memory-limit arranges it; last, since the cap stays."""
        type(self).network.cache_clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        pipeline = self.pipeline()
        arrangement = arrange(pipeline, parse_limit(LIMIT), self.device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        apply(pipeline, arrangement, self.device)
        frames, rows, columns = self.size["grid"]
        source = np.random.default_rng(0).integers(0, 256, (4 * frames - 3, 16 * rows, 16 * columns, 3), np.uint8)
        height, width = source.shape[1:3]
        clip = Clip(source, pipeline.limits.fps)
        request = Request(prompt="make it snow", source=clip, height=height, width=width, num_inference_steps=2)
        began = time.perf_counter()
        pipeline.generate(plan(request, pipeline.limits))
        return {"arrangement": str(arrangement), "seconds": time.perf_counter() - began, **self.peak()}

    # --- what the parts share

    def pipeline(self) -> LoomVideoPipeline:
        """All of LoomVideo on the CPU, random, with the built-in model's tokenizer."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(BUILTIN / "mllm")
        ids = tokenizer.get_vocab()
        heads, kv_heads, head_dim, section = self.size["heads"]
        rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": section, "mrope_interleaved": True}
        config = Qwen3VLConfig(
            text_config={
                **self.size["text"],
                "num_attention_heads": heads,
                "num_key_value_heads": kv_heads,
                "head_dim": head_dim,
                "rope_parameters": rope,
                "pad_token_id": None,
            },
            vision_config=self.size["vision"],
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
        )
        with self.device:  # where random numbers are drawn fast
            mllm = Qwen3VLForConditionalGeneration._from_config(config, dtype=self.dtype)
        pipeline = LoomVideoPipeline(
            transformer=self.network().cpu(),
            mllm=mllm.eval().cpu(),
            tokenizer=tokenizer,
            vae=self.vae().cpu(),
            scheduler=scheduler(),
            limits=asdict(PUBLISHED_LIMITS),
            frame_rule=asdict(FrameRule()),
            pixel_budgets={kind: asdict(budget) for kind, budget in PUBLISHED_BUDGETS.items()},
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @cache  # noqa: B019  one bench a process
    def network(self) -> LoomVideoTransformer3DModel:
        torch.manual_seed(0)
        with self.device:
            model = LoomVideoTransformer3DModel(**self.size["network"])
        kept = set(model._keep_in_fp32_modules)
        for name, parameter in model.named_parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
            if not kept & set(name.split(".")):
                parameter.data = parameter.data.to(self.dtype)
        return model.eval()

    def compile(self, model: LoomVideoTransformer3DModel) -> None:
        if self.size is FULL:
            model.compile_repeated_blocks(dynamic=True)

    def vae(self) -> AutoencoderKLWan:
        """Wan2.2's; --small keeps its strides."""
        widths = {} if self.size is FULL else {"base_dim": 4, "decoder_base_dim": 4, "num_res_blocks": 1}
        full = {"base_dim": 160, "decoder_base_dim": 256, "num_res_blocks": 2}
        with self.device:
            vae = AutoencoderKLWan(
                **{**full, **widths},
                z_dim=48,
                dim_mult=[1, 2, 4, 4],
                temperal_downsample=[False, True, True],
                is_residual=True,
                in_channels=12,
                out_channels=12,
                patch_size=2,
                scale_factor_spatial=16,
                scale_factor_temporal=4,
                latents_mean=[0.0] * 48,
                latents_std=[1.0] * 48,
            )
        return vae.to(self.dtype).eval()

    def latents(self, device: torch.device | None = None) -> Tensor:
        return torch.randn(1, 48, *self.size["grid"], device=device or self.device, dtype=self.dtype)

    def level(self, timestep: float) -> Tensor:
        return torch.tensor([timestep], device=self.device)

    def conditions(self, model: LoomVideoTransformer3DModel, device: torch.device) -> Any:
        rows = torch.randn(1, self.size["tokens"], model.config["mllm_dim"], device=device, dtype=self.dtype)
        source = self.latents(device)
        with torch.no_grad():
            return model.to(self.dtype if device.type == "meta" else None).prepare(
                [rows] * model.config["num_layers"], latent_shape=source.shape, source=source
            )

    def sampling(self, model: LoomVideoTransformer3DModel, num_branches: int, steps: int) -> Callable[[], Tensor]:
        told = [self.conditions(model, self.device) for _ in range(num_branches)]

        def branch(conditions: Any) -> Branch:
            def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
                return model(latents.to(self.dtype), timestep.expand(1), conditions).float()[None]

            return velocity

        def run() -> Tensor:
            noise = self.latents().float()
            branches, scales = [branch(one) for one in told], [2.0] * (num_branches - 1)
            return sample(branches, scales, scheduler=scheduler(), noise=noise, num_inference_steps=steps)

        return run

    def median(self, run: Callable[[], Any], repeats: int) -> float:
        """Seconds of a run, behind one that is not measured."""
        seconds = []
        with torch.no_grad():
            for number in range(repeats + 1):
                self.wait()
                began = time.perf_counter()
                run()
                self.wait()
                seconds += [time.perf_counter() - began] if number else []
        return sorted(seconds)[len(seconds) // 2]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> dict[str, int]:
        return {"peak_bytes": torch.cuda.max_memory_allocated()} if self.device.type == "cuda" else {}


def scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)


if __name__ == "__main__":
    main()
