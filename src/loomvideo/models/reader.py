"""The multimodal language model as Omni-Video uses one: it answers, routes a request and gives hidden states (fact sheet 2).

m tokens   dm width of the language model
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextIteratorStreamer

from loomvideo.models.chat import END_OF_TURN, Chat, tokenise
from loomvideo.models.offload import fetch, working_device
from loomvideo.models.qwen import model_arguments

Kind = Literal["image", "video"]

# Tokens by which an answer asks for generation: the released task markers, and the paper's opening tokens (2.1).
MARKERS: Mapping[Kind, tuple[str, ...]] = {"image": ("[GEN_IMG]", "<BOI>"), "video": ("[GEN_VID]", "<BOV>")}
NEW_TOKENS = ("<BOI>", "<EOI>", "<BOV>", "<EOV>")


@dataclass(frozen=True)
class Decoding:
    """How an answer is drawn; a temperature of 0 takes the likeliest token each time."""

    temperature: float = 0.2
    top_p: float = 0.6
    max_new_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise ValueError(
                f"{self}: the temperature is at least 0, top_p above 0 and at most 1, and one token is made"
            )


class Answer(Protocol):
    """An answer while it is made: its text piece by piece, and the ids so far, special ones included."""

    ids: list[int]

    def __iter__(self) -> Iterator[str]: ...


class Reader(Protocol):
    """What Omni-Video asks of a language model."""

    def hidden_states(self, chat: Chat) -> Tensor:
        """The last layer's states (1, m, dm) of all positions, after the final norm."""
        ...

    def answer(self, chat: Chat, decoding: Decoding) -> Answer:
        """Text that follows the chat."""
        ...

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text; of a special token its one id."""
        ...

    def embeddings(self, text: str) -> Tensor:
        """Rows (m, dm) of a text, before any layer: what a denoiser without a text encoder reads of its prompt."""
        ...


class QwenReader:
    """A Reader on a Qwen3VLForConditionalGeneration."""

    def __init__(self, mllm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.mllm = mllm
        self.tokenizer = tokenizer

    @torch.no_grad()
    def hidden_states(self, chat: Chat) -> Tensor:
        """The last layer's states (1, m, dm) of all positions, after the final norm."""
        mllm: Any = self.mllm
        fetch(mllm)
        return mllm.base_model(**self._arguments(chat), use_cache=False).last_hidden_state

    def answer(self, chat: Chat, decoding: Decoding) -> "StreamedAnswer":
        """Text that follows the chat, drawn while it is read."""
        options: dict[str, Any] = {"max_new_tokens": decoding.max_new_tokens, "do_sample": decoding.temperature > 0}
        if decoding.temperature > 0:
            options |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        return StreamedAnswer(self.mllm, self.tokenizer, {**self._arguments(chat), **options}, decoding.seed)

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text; of a special token its one id."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def embeddings(self, text: str) -> Tensor:
        """Token embeddings (m, dm) of a text and of the end of a turn, so that an empty one has a row, too."""
        embedding: Any = self.mllm.get_input_embeddings()
        fetch(self.mllm)
        return embedding(torch.tensor(self.token_ids(text + END_OF_TURN), device=working_device(self.mllm)))

    def _arguments(self, chat: Chat) -> dict[str, Tensor]:
        return model_arguments(self.mllm, tokenise(self.tokenizer, [chat]).to(working_device(self.mllm)))


class StreamedAnswer(TextIteratorStreamer):
    """An answer that a thread makes; what fails there is raised where the answer is read."""

    def __init__(
        self, mllm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any], seed: int
    ) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.ids: list[int] = []
        self._failure: BaseException | None = None
        self._stopped = Event()
        self._thread = Thread(target=self._make, args=(mllm, arguments, seed), daemon=True)
        self._thread.start()

    def put(self, value: Tensor) -> None:
        """Take the prompt's ids, then one id after the other; transformers calls this."""
        if not self.next_tokens_are_prompt:
            self.ids += value.flatten().tolist()
        super().put(value)

    def stop(self) -> None:
        """Make no further token."""
        self._stopped.set()

    def __next__(self) -> str:
        try:
            return super().__next__()
        except StopIteration:
            self._thread.join()
            if self._failure is not None:
                raise RuntimeError(f"the language model failed to answer: {self._failure}") from self._failure
            raise

    def _make(self, mllm: Any, arguments: dict[str, Any], seed: int) -> None:
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                mllm.generate(**arguments, streamer=self, stopping_criteria=[self._is_stopped])
        except Exception as error:
            self._failure = error
            self.on_finalized_text("", stream_end=True)

    def _is_stopped(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full(ids.shape[:1], self._stopped.is_set(), device=ids.device)


def route(ids: Collection[int], markers: Mapping[Kind, Collection[int]], source: Kind | None = None) -> str | None:
    """Which task an answer's ids ask for, t2v, t2i, i2i or v2v; None: the answer itself is what was wanted (2.6).

    `markers` are the ids of each kind, as `marker_ids` finds them.
    """
    asked = [kind for kind in ("video", "image") if any(marker in ids for marker in markers[kind])]
    if not asked:
        return None
    if source is not None:
        return "i2i" if source == "image" else "v2v"
    return "t2v" if asked[0] == "video" else "t2i"


def marker_ids(tokenizer: PreTrainedTokenizerBase) -> dict[Kind, list[int]]:
    """Ids of the markers that a tokenizer has."""
    vocabulary = tokenizer.get_vocab()
    return {kind: [vocabulary[name] for name in names if name in vocabulary] for kind, names in MARKERS.items()}


def marker(tokenizer: PreTrainedTokenizerBase, kind: Kind) -> str:
    """The token of a kind that a tokenizer has, the released one first; nothing where it has none."""
    vocabulary = tokenizer.get_vocab()
    return next((name for name in MARKERS[kind] if name in vocabulary), "")


def add_markers(tokenizer: PreTrainedTokenizerBase, mllm: PreTrainedModel) -> None:
    """Give tokenizer and model the paper's four tokens and the released two; rows that are new are random."""
    released = tuple(names[0] for names in MARKERS.values())
    tokenizer.add_special_tokens({"additional_special_tokens": [*NEW_TOKENS, *released]}, False)
    embedding: Any = mllm.get_input_embeddings()
    if len(tokenizer) > len(embedding.weight):
        mllm.resize_token_embeddings(len(tokenizer))
