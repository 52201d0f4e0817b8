"""The prompt as Omni-Video's denoiser reads it: rows of an umT5 encoder, without padding (fact sheet 7).

m tokens   dt width of the encoder
"""

import warnings
from collections.abc import Sequence

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from loomvideo.conditioning.context import CutWarning
from loomvideo.models.offload import working_device

MAX_TOKENS = 512


@torch.no_grad()
def encode_texts(
    encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_tokens: int = MAX_TOKENS
) -> list[Tensor]:
    """Rows (m, dt) of each text, its end-of-sequence token included.

    Texts are cleaned as published, and cut to `max_tokens` with a warning.
    """
    ids = [list(tokenizer(prompt_clean(text))["input_ids"]) for text in texts]
    for text, row in zip(texts, ids, strict=True):
        if len(row) > max_tokens:
            warnings.warn(
                f"a text of {len(row)} tokens is cut to {max_tokens}: {text[:40]!r}... is longer than the text encoder reads",
                CutWarning,
                stacklevel=2,
            )
            row[max_tokens - 1 :] = row[-1:]  # the end of sequence stays
    lengths = [len(row) for row in ids]
    device = working_device(encoder)
    padded = torch.tensor([[*row, *[0] * (max(lengths) - len(row))] for row in ids], device=device)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long().to(device)
    states = encoder(input_ids=padded, attention_mask=mask).last_hidden_state
    return [state[:length] for state, length in zip(states, lengths, strict=True)]
