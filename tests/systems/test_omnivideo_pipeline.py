"""Omni-Video's pipeline on tiny random weights: what a person who calls it can rely on, in both releases."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from loomvideo.models.context_rows import FixedRows, StateProjection
from loomvideo.models.omnivideo_chat import CAPTION, FORESEE
from loomvideo.models.reader import QwenReader, add_markers, marker
from loomvideo.models.umt5 import encode_texts
from loomvideo.sampling.guidance import standard_scale
from loomvideo.systems.omnivideo import OmniVideoPipeline
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request, RequestError
from omnivideo_parts import LIMITS, TEXT_DIM, filled, first_release, second_release, tiny_queries

CLIP = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
PICTURE = Image.fromarray(CLIP[0])
BOTH = {
    "t2v": {},
    "t2i": {"num_frames": 1},
    "edit_video": {"source": CLIP},
    "edit_image": {"source": PICTURE},
}
REQUESTS = {
    "first": BOTH | {"mi2v": {"references": [PICTURE]}, "i2v": {"references": [PICTURE], "task": "i2v"}},
    "without_text_encoder": BOTH,
    "second": BOTH,
    "one_expert": BOTH,
}
EACH = [(model, name) for model, requests in REQUESTS.items() for name in requests]


@pytest.fixture(scope="module")
def made(tiny_model):
    return {
        "first": first_release(tiny_model),
        "without_text_encoder": first_release(tiny_model, text_encoder=False),
        "second": second_release(tiny_model),
        "one_expert": second_release(tiny_model, experts=1),
    }


@pytest.fixture(autouse=True)
def _quiet(made, monkeypatch):
    """A language model with random weights says nonsense at length; here it says what it was asked in part."""
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
    genuine = OmniVideoPipeline.say
    monkeypatch.setattr(OmniVideoPipeline, "say", lambda self, chat: f"{len(chat.text)} letters")
    monkeypatch.setattr(OmniVideoPipeline, "genuine_say", genuine, raising=False)


@pytest.fixture
def first(made):
    return made["first"]


@pytest.fixture
def second(made):
    return made["second"]


def latents(pipe, prompt="a star", **request):
    return pipe(prompt, **request, output_type="latent").frames


@pytest.mark.parametrize(("model", "request_name"), EACH)
def test_every_task_gives_the_frames_that_its_plan_says(made, model, request_name):
    output = made[model]("a star", **REQUESTS[model][request_name])
    size = (output.plan.output_frames, output.plan.output_height, output.plan.output_width, 3)
    assert output.frames.shape == size
    assert 0 <= output.frames.min() < output.frames.max() <= 1
    assert output.fps == LIMITS["fps"]


@pytest.mark.parametrize(("model", "request_name"), EACH)
def test_branches_in_one_batch_give_the_same_as_in_turn(made, model, request_name):
    request = {**REQUESTS[model][request_name], "guidance_scale_visual": 1.5}
    together = latents(made[model], **request)
    torch.testing.assert_close(together, latents(made[model], **request, batch_branches=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", REQUESTS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(made, model):
    one, same, other = (latents(made[model], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("model", REQUESTS)
def test_a_saved_pipeline_is_loaded_whole(made, model, tmp_path):
    pipe = made[model]
    pipe.save_pretrained(tmp_path / "model")
    loaded = OmniVideoPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert {name: part is None for name, part in loaded.components.items()} == {
        name: part is None for name, part in pipe.components.items()
    }
    assert loaded.limits == pipe.limits
    request = {"source": CLIP}
    torch.testing.assert_close(latents(loaded, **request), latents(pipe, **request), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", REQUESTS)
def test_every_part_of_a_request_shows_in_what_is_made(made, model):
    variants = [
        {},
        {"prompt": "a ring"},
        {"negative_prompt": "dark"},
        {"source": CLIP},
        {"source": CLIP[::-1].copy()},
        {"guidance_scale": 2.0},
        {"source": CLIP, "guidance_scale_visual": 2.0},
    ]
    results = [latents(made[model], **variant) for variant in variants]
    assert all(not torch.equal(one, other) for i, one in enumerate(results) for other in results[:i])


def test_a_reference_shows_and_only_one_is_taken(first):
    assert not torch.equal(latents(first), latents(first, references=[PICTURE]))
    with pytest.raises(RequestError, match="at most 1"):
        first("a star", references=[PICTURE, PICTURE])


# --- what is computed, and how often


def watched(pipe, **more):
    """Counts of forward passes while a block runs."""
    counts = {}

    def count(name):
        counts[name] = 0
        return lambda *_: counts.__setitem__(name, counts[name] + 1)

    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    parts |= {"mllm": pipe.mllm.model.language_model, **more}
    handles = [part.register_forward_hook(count(name)) for name, part in parts.items()]
    return counts, handles


@pytest.mark.parametrize("model", ["first", "second"])
def test_what_no_step_changes_is_computed_once_however_many_steps(made, model):
    pipe = made[model]
    seen = []
    for steps in (2, 6):
        counts, handles = watched(pipe, keys=pipe.transformer.condition_embedder.text_embedder)
        latents(pipe, source=CLIP, num_inference_steps=steps)
        for handle in handles:
            handle.remove()
        steps_taken = counts.pop("transformer") + counts.pop("transformer_2", 0)
        assert steps_taken == steps
        seen.append(counts)
    assert seen[0] == seen[1]
    expected = {"vision_head": 2, "adapter": 2, "mllm": 2} if model == "first" else {"state_projection": 2, "mllm": 1}
    assert {name: seen[0][name] for name in expected} == expected  # both branches; a dropped request has null states
    assert (seen[0]["source_tokenizer"], seen[0]["keys"]) == (2, 1)


def test_two_experts_share_the_steps_at_the_boundary(second):
    counts, handles = watched(second)
    latents(second, num_inference_steps=8)
    for handle in handles:
        handle.remove()
    second.scheduler.set_timesteps(8)
    above = int((second.scheduler.timesteps >= 875).sum())
    assert 0 < above < 8
    assert (counts["transformer"], counts["transformer_2"]) == (above, 8 - above)


# --- guidance


def batch_sizes(pipe, **request):
    runs = []
    handle = pipe.transformer.register_forward_pre_hook(lambda _, given: runs.append(len(given[0])))
    latents(pipe, **request)
    handle.remove()
    return set(runs)


def test_guidance_off_runs_the_request_alone_and_a_visual_scale_adds_a_branch(first):
    assert batch_sizes(first, guidance_scale=1.0) == {1}
    assert batch_sizes(first) == {2}
    assert batch_sizes(first, guidance_scale_visual=2.0) == {2}  # nothing is shown that it could weigh
    assert batch_sizes(first, source=CLIP, guidance_scale_visual=2.0) == {3}
    assert batch_sizes(first, source=CLIP, guidance_scale=1.0, guidance_scale_visual=2.0) == {3}


def test_the_released_form_with_a_scale_is_the_standard_one_with_one_more(made):
    settings = {name: made["first"].config[name] for name in ("limits", "frame_rule", "pixel_budgets")}
    released = OmniVideoPipeline(**made["first"].components, **settings, guidance="released")
    released.set_progress_bar_config(disable=True)
    standard = latents(made["first"], guidance_scale=standard_scale(3.0))
    torch.testing.assert_close(latents(released, guidance_scale=3.0), standard)


def test_source_and_reference_stay_where_the_request_is_dropped(first):
    decided = plan(Request(prompt="a star", source=CLIP), first.limits)
    [nothing, full], scales = first.guidance_branches(decided)
    assert scales == [decided.guidance_scale]
    assert torch.equal(nothing.source, full.source)
    assert not torch.equal(nothing.text, full.text)


# --- what is read


def test_an_empty_negative_prompt_means_the_stored_rows_where_there_are_some(made):
    pipe = made["first"]
    state_dim = pipe.mllm.config.get_text_config().hidden_size
    stored = filled(FixedRows(text_dim=TEXT_DIM, null_text_rows=3, state_dim=state_dim, null_states=5))
    settings = {name: pipe.config[name] for name in ("limits", "frame_rule", "pixel_budgets")}
    published = OmniVideoPipeline(**{**pipe.components, "fixed_rows": stored}, **settings)
    for negative, text in (("", stored.uncond_context), ("dark", published.encode_text("dark"))):
        decided = plan(Request(prompt="a star", negative_prompt=negative), published.limits)
        [nothing, _], _ = published.guidance_branches(decided)
        torch.testing.assert_close(nothing.text, text)
        torch.testing.assert_close(nothing.states, stored.uncond_ar_vision)


@torch.no_grad()
def test_a_prompt_is_read_without_the_words_that_tell_the_task_to_the_language_model(first):
    decided = plan(Request(prompt="a star"), first.limits)
    [_, full], _ = first.guidance_branches(decided)
    [rows] = encode_texts(first.text_encoder, first.text_tokenizer, ["a star"])
    torch.testing.assert_close(full.text, rows)
    chat = first.generation_chat(decided, [], decided.prompt)
    assert chat.text.count("Generate a video about:\na star") == 1


def test_without_a_text_encoder_the_rows_are_token_embeddings(made):
    pipe = made["without_text_encoder"]
    ids = pipe.reader.token_ids("a star<|im_end|>")
    expected = pipe.mllm.get_input_embeddings().weight[ids]
    assert torch.equal(pipe.encode_text("a star"), expected)
    assert len(pipe.encode_text("")) == 1


def test_all_frames_of_a_source_reach_the_language_model_not_only_the_first(first):
    decided = plan(Request(prompt="x", source=CLIP), first.limits)
    other = plan(Request(prompt="x", source=np.concatenate([CLIP[:1], CLIP[:0:-1]])), first.limits)
    assert not torch.equal(first.states(decided), first.states(other))


def test_a_language_model_that_has_markers_is_given_its_own_answer(tiny_model):
    pipe = first_release(tiny_model)
    add_markers(pipe.tokenizer, pipe.mllm)
    for num_frames, name in ((1, "[GEN_IMG]"), (5, "[GEN_VID]")):
        decided = plan(Request(prompt="a star", num_frames=num_frames), pipe.limits)
        chat = pipe.generation_chat(decided, [], decided.prompt)
        assert chat.text.endswith(f"<|im_start|>assistant\n{name}<|im_end|>")
        assert len(pipe.reader.token_ids(marker(pipe.tokenizer, "image"))) == 1


def test_the_second_release_foresees_a_caption_and_reads_it_before_the_instruction(second, monkeypatch):
    asked = []

    def say(pipe, chat):
        asked.append(chat)
        return "a blue star" if CAPTION in chat.text else "a green star"

    monkeypatch.setattr(OmniVideoPipeline, "say", say)
    rows = second.text_rows(plan(Request(prompt="make it green", source=CLIP), second.limits))
    assert "a blue star" in asked[1].text
    assert "make it green" in asked[1].text
    assert [len(chat.visuals) for chat in asked] == [1, 0]
    expected = torch.cat([second.encode_text("a green star"), second.encode_text("make it green")])
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(
        second.text_rows(plan(Request(prompt="green"), second.limits)), second.encode_text("a green star")
    )


@torch.no_grad()
def test_the_second_release_leaves_its_system_turn_out_of_the_states(second, monkeypatch):
    seen = []
    genuine = QwenReader.hidden_states
    monkeypatch.setattr(QwenReader, "hidden_states", lambda self, chat: seen.append(chat) or genuine(self, chat))
    states = second.states(plan(Request(prompt="a star"), second.limits))
    [chat] = seen
    system, user = chat.text.split("<|im_start|>user")
    assert FORESEE in system
    assert states.shape[1] == len(second.reader.token_ids("<|im_start|>user" + user))


def test_what_the_language_model_says_is_its_likeliest_answer_and_the_same_each_time(second):
    decided = plan(Request(prompt="a star", source=CLIP), second.limits)
    visual = second.visuals(decided)[-1]
    from loomvideo.models.chat import chat

    answers = {OmniVideoPipeline.genuine_say(second, chat([visual, "what?"])) for _ in range(2)}
    assert len(answers) == 1


# --- contexts that are too long


def test_a_source_with_too_many_rows_is_cut_with_a_warning_and_the_words_stay(first, monkeypatch):
    decided = plan(Request(prompt="a star", source=CLIP, height=96, width=96), first.limits)
    [_, full], _ = first.guidance_branches(decided)
    [expert] = first.experts(still=False)
    whole = expert.context(full)
    first.transformer.register_to_config(max_context_len=len(whole) - 3)
    try:
        [expert] = first.experts(still=False)
        with pytest.warns(UserWarning, match=re.escape("room for")):
            cut = expert.context(full)
        with pytest.warns(UserWarning, match="source rows"):
            latents(first, source=CLIP, height=96, width=96)
    finally:
        first.transformer.register_to_config(max_context_len=2000)
    source_rows = first.source_tokenizer.num_rows(full.source.shape)
    assert len(whole) - len(cut) == 3 <= source_rows
    words = len(whole) - source_rows - 1  # behind the first boundary and the source
    torch.testing.assert_close(cut[-words:], whole[-words:])


# --- words


def test_thinking_conditions_on_the_rewritten_prompt_as_if_it_had_been_asked_for(first, monkeypatch):
    monkeypatch.setattr(QwenReader, "answer", lambda self, chat, decoding: iter(["a green ", "star"]))
    output = first("star", think=True, output_type="latent")
    assert output.plan.prompt == "a green star"
    torch.testing.assert_close(output.frames, latents(first, "a green star"))


@pytest.mark.parametrize("model", ["first", "second"])
def test_the_language_model_alone_answers_questions(made, model, tmp_path):
    made[model].save_pretrained(tmp_path)
    parts = {
        name: None
        for name, part in made[model].components.items()
        if isinstance(part, torch.nn.Module) and name != "mllm"
    }
    alone = OmniVideoPipeline.from_pretrained(tmp_path, **parts)
    from loomvideo.models.reader import Decoding

    decoding = Decoding(temperature=0, max_new_tokens=4)
    said = "".join(alone.describe(CLIP, "how many stars?", decoding=decoding))
    assert said == "".join(made[model].describe(CLIP, "how many stars?", decoding=decoding))


# --- parts that do not belong together


def with_parts(pipe, **parts):
    settings = {name: pipe.config[name] for name in ("limits", "frame_rule", "pixel_budgets")}
    options = {name: parts.pop(name) for name in ("order", "guidance", "truncation", "boundary_ratio") if name in parts}
    return OmniVideoPipeline(**{**pipe.components, **parts}, **settings, **options)


@pytest.mark.parametrize(
    ("model", "parts", "message"),
    [
        ("first", {"adapter": None}, "parts of no release"),
        ("first", {"vision_head": None, "adapter": None}, "parts of no release"),
        ("first", {"state_projection": StateProjection(32, TEXT_DIM)}, "parts of no release"),
        ("second", {"source_tokenizer_2": None}, "parts of no release"),
        ("first", {"vision_head": tiny_queries(40, 16, 4)}, "in_dim 40 and the language model a width of 32"),
        ("first", {"adapter": tiny_queries(8, TEXT_DIM, 3)}, "in_dim 8 and the vision head"),
        ("first", {"fixed_rows": FixedRows(text_dim=8)}, "text_dim 8 and the denoiser"),
        ("first", {"text_encoder": None}, "token embeddings are 32 wide"),
        ("first", {"guidance": "usual"}, "use one of standard, released"),
        ("first", {"order": "text"}, "use one of released, paper"),
        ("second", {"boundary_ratio": 875}, "from 0 to 1"),
    ],
)
def test_what_does_not_fit_together_is_named(made, model, parts, message):
    with pytest.raises(ValueError, match=message):
        with_parts(made[model], **dict(parts))


def test_the_paper_s_order_changes_nothing_but_what_is_cut(made):
    paper = with_parts(made["first"], order="paper")
    paper.set_progress_bar_config(disable=True)
    torch.testing.assert_close(latents(paper, source=CLIP), latents(made["first"], source=CLIP), rtol=1e-4, atol=1e-4)


def test_in_bfloat16_it_stays_near_float32(made, tmp_path):
    made["first"].save_pretrained(tmp_path)
    half = OmniVideoPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    request = {"source": CLIP, "guidance_scale": 1.0}
    exact, rough = (latents(one, **request) for one in (made["first"], half))
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()
