"""The one seam that calls attention kernels, and how a kernel is chosen."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

from loomvideo.evaluation.speed import count_bytes
from loomvideo.models import attention as seam
from loomvideo.models.attention import Kernel, attention, by_products, choose_kernel, unsupported

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BATCH, QUERIES, KEYS, HEADS, WIDTH = 2, 5, 7, 3, 8
MASKS = {
    "none": None,
    "bool": torch.arange(KEYS) < torch.tensor([[[[KEYS]]], [[[4]]]]),
    "bias": torch.randn(BATCH, 1, 1, KEYS),
    "of each query": torch.arange(KEYS) <= torch.arange(QUERIES)[:, None].expand(1, 1, QUERIES, 1),
}


def tensors(dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(BATCH, n, HEADS, WIDTH, dtype=dtype) for n in (QUERIES, KEYS, KEYS)]


def by_hand(q, k, v, mask):
    logits = torch.einsum("bnhk,bmhk->bhnm", q, k) / WIDTH**0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return torch.einsum("bhnm,bmhk->bnhk", logits.softmax(-1), v)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_attention_is_the_softmax_of_products(mask):
    torch.testing.assert_close(attention(*tensors(), mask), by_hand(*tensors(), mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_default_kernel_is_torchs_own_bit_for_bit(mask):
    q, k, v = tensors()
    own = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    assert torch.equal(attention(q, k, v, mask), own.transpose(1, 2))


@pytest.mark.parametrize("scores_at_once", [1, 2 * BATCH * HEADS * KEYS, 2**22])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_in_bfloat16_on_a_cpu_it_is_by_products_for_any_number_of_queries_at_a_time(mask, scores_at_once, monkeypatch):
    monkeypatch.setattr(seam, "SCORES_AT_ONCE", scores_at_once)
    rounded = tensors(torch.bfloat16)
    exact = by_hand(*(one.double() for one in rounded), mask)
    found = attention(*rounded, mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2e-2, atol=2e-2)
    assert torch.equal(found, by_products(*rounded, mask))


def test_by_products_gradients_are_those_of_the_sum(monkeypatch):
    monkeypatch.setattr(seam, "SCORES_AT_ONCE", 1)
    given = [one.double().requires_grad_() for one in tensors()]
    assert torch.autograd.gradcheck(lambda *qkv: by_products(*qkv, MASKS["bool"]), given)


def test_by_products_memory_does_not_grow_with_the_queries(monkeypatch):
    monkeypatch.setattr(seam, "SCORES_AT_ONCE", HEADS * KEYS)

    def most(queries):
        q, (_, k, v) = torch.randn(1, queries, HEADS, WIDTH), (one[:1] for one in tensors())
        return (
            count_bytes(lambda: by_products(q, k, v, None)) - 3 * q.nbytes
        )  # the scaled queries, the parts, the whole

    assert most(400) <= most(4)


def test_a_kernel_that_takes_no_mask_is_given_none(monkeypatch):
    """Some of diffusers' kernels pass over a mask in silence; here one that does so answers zeros."""
    flash = AttentionBackendName.FLASH

    def maskless(query, key, value):
        return torch.zeros_like(query)

    monkeypatch.setitem(attention_dispatch._AttentionBackendRegistry._backends, flash, maskless)
    monkeypatch.setitem(
        attention_dispatch._AttentionBackendRegistry._supported_arg_names, flash, {"query", "key", "value"}
    )
    monkeypatch.setattr(attention_dispatch, "_check_attention_backend_requirements", lambda backend: None)
    with attention_backend("flash"):
        assert not attention(*tensors()).any()
        masked = attention(*tensors(), MASKS["bool"])
    torch.testing.assert_close(masked, by_hand(*tensors(), MASKS["bool"]), rtol=1e-5, atol=1e-5)


def test_on_a_cpu_torchs_own_is_chosen_and_the_reason_is_said(caplog):
    kernel = choose_kernel(CPU, torch.bfloat16)
    assert kernel.name == "native"
    assert str(kernel) == (
        "attention: native (passed over: _flash_3, _native_cudnn, flash: needs an NVIDIA GPU, this is cpu)"
    )
    with caplog.at_level("INFO", logger="loomvideo"):
        kernel.use()
    assert caplog.messages == [str(kernel)]
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend()[0] is AttentionBackendName.NATIVE


@pytest.mark.parametrize(
    ("capability", "installed", "dtype", "chosen"),
    [
        ((9, 0), {"flash_attn_interface", "flash_attn"}, torch.bfloat16, "_flash_3"),
        ((9, 0), {"flash_attn"}, torch.bfloat16, "_native_cudnn"),
        ((8, 0), {"flash_attn_interface", "flash_attn"}, torch.float16, "flash"),
        ((8, 0), set(), torch.bfloat16, "native"),
        ((9, 0), {"flash_attn_interface", "flash_attn"}, torch.float32, "native"),
    ],
)
def test_on_a_gpu_the_fastest_that_runs_there_is_chosen(monkeypatch, capability, installed, dtype, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(seam, "find_spec", lambda name: name if name in installed else None)
    kernel = choose_kernel(GPU, dtype)
    assert kernel.name == chosen
    assert list(kernel.passed_over) == list(seam.CANDIDATES[: seam.CANDIDATES.index(chosen)])


def test_the_environment_goes_first_and_its_name_is_checked(monkeypatch):
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "_native_math")
    assert choose_kernel(CPU, torch.float32) == Kernel("_native_math", {})
    with pytest.raises(ValueError, match="no_such_kernel"):
        Kernel("no_such_kernel", {}).use()


@pytest.mark.gpu
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", seam.CANDIDATES)
def test_every_kernel_agrees_with_torchs_own(name, mask):
    if reason := unsupported(name, GPU, torch.bfloat16):
        pytest.skip(reason)
    q, k, v = (tensor.to(GPU).repeat_interleave(8, dim=3) for tensor in tensors(torch.bfloat16))
    mask = None if mask is None else mask.to(GPU) if mask.dtype == torch.bool else mask.to(GPU, torch.bfloat16)
    expected = attention(q, k, v, mask)
    with attention_backend(name):
        torch.testing.assert_close(attention(q, k, v, mask), expected, rtol=2e-2, atol=2e-2)
