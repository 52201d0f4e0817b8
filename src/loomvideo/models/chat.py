"""The chat that the language model reads: text and ids of the guidance branches (fact sheet 3.5 and 7.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loomvideo.models.qwen import ChatInputs, Visual, gather_visuals

SYSTEM_TURN = "<|im_start|>system\n{}<|im_end|>\n"
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
END_OF_TURN = "<|im_end|>"
PLACEHOLDER = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
UNCONDITIONAL_PREFIX = "generate an image: "  # for every task: the published weights were sampled with it


@dataclass(frozen=True)
class Chat:
    """One user turn: the whole text, placeholders included, and the pixels behind the placeholders, in order."""

    text: str
    visuals: tuple[Visual, ...] = ()


def full_chat(visuals: Sequence[Visual], text: str) -> Chat:
    """The user's chat: references, then the source, then prefix and prompt."""
    return chat([*visuals, text])


def visual_chat(visuals: Sequence[Visual]) -> Chat:
    """The visual spans alone: all text between them is gone, timestamps included."""
    return Chat(TURN.format("".join(span for visual in visuals for span in _spans(visual))), tuple(visuals))


def unconditional_chat(negative_prompt: str) -> Chat:
    return chat([UNCONDITIONAL_PREFIX + negative_prompt])


def chat(parts: Sequence[Visual | str]) -> Chat:
    """One user turn of texts, pictures and videos in any order."""
    content = "".join(part if isinstance(part, str) else _timed_spans(part) for part in parts)
    return Chat(TURN.format(content), tuple(part for part in parts if isinstance(part, Visual)))


def read_tokens(tokenizer: PreTrainedTokenizerBase, ids: Tensor, item_end: str | None) -> Tensor:
    """Positions (n,) of a chat's tokens, ids (m,), that a denoiser reads: all of them.

    With ``item_end``, of a plan the tokens that end its items; where there is no plan, the words of the turn.
    """
    if item_end is None:
        return torch.arange(len(ids), device=ids.device)
    ends = plan_ends(tokenizer, ids, item_end)
    return ends if len(ends) else _words(tokenizer, ids)


def plan_ends(tokenizer: PreTrainedTokenizerBase, ids: Tensor, item_end: str) -> Tensor:
    """Positions (n,) in a chat's ids (m,) of the tokens that end a plan's items, where a causal language model has read all of one."""
    words = _words(tokenizer, ids)
    return words[ids[words] == tokenizer.convert_tokens_to_ids(item_end)]


def _words(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Tensor:
    head, tail = (len(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in TURN.split("{}"))
    return torch.arange(head, len(ids) - tail, device=ids.device)


def tokenise(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat]) -> ChatInputs:
    """Ids and pixels of one chat, or of several, padded on the right to the longest and masked."""
    ids = [tokenizer(one.text, add_special_tokens=False)["input_ids"] for one in chats]
    lengths = torch.tensor([len(row) for row in ids])
    longest = int(lengths.max())
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0  # masked: any id will do
    padded = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in ids])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return ChatInputs(
        input_ids=padded,
        attention_mask=None if mask.all() else mask,
        **gather_visuals([visual for one in chats for visual in one.visuals]),
    )


def _spans(visual: Visual) -> list[str]:
    """A vision span for each temporal patch; a video is so many single pictures."""
    pads = PLACEHOLDER[visual.kind] * visual.tokens_per_frame
    return [f"<|vision_start|>{pads}<|vision_end|>"] * visual.grid[0]


def _timed_spans(visual: Visual) -> str:
    stamps = visual.timestamps or ("",) * visual.grid[0]
    return "".join(stamp + span for stamp, span in zip(stamps, _spans(visual), strict=True))
