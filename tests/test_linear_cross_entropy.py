"""The chunked loss is plain cross-entropy: in value, in gradients, and without the logits as a whole."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modules.linear_cross_entropy import chunked_linear_cross_entropy, linear_cross_entropy

TOKENS, WIDTH, VOCABULARY = 41, 12, 30  # 41 tokens in chunks of 8: the last chunk is short
Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="none")


def ours(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
    return chunked_linear_cross_entropy(hidden, weight, labels, bias, chunk=8)


def of_this_torch(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
    return linear_cross_entropy(hidden, weight, labels, bias, chunk=8)


def problem(
    tokens: int = TOKENS, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype)
    bias = torch.randn(VOCABULARY, generator=generator).to(dtype)
    labels = torch.randint(VOCABULARY, (tokens,), generator=generator)
    labels[::3] = -100
    return hidden, weight, labels, bias


def loss_and_gradients(loss: Loss, dtype: torch.dtype, with_bias: bool, tokens: int = TOKENS) -> list[Tensor]:
    hidden, weight, labels, bias = problem(tokens, dtype)
    inputs = [hidden, weight, bias] if with_bias else [hidden, weight]
    for tensor in inputs:
        tensor.requires_grad_()
    losses = loss(hidden, weight, labels, bias if with_bias else None)
    # tokens of unequal weight: a backward that ignores the incoming gradient is found
    weights = torch.linspace(0.5, 2, tokens, dtype=torch.float64)
    (losses.double() * weights).sum().backward()
    return [losses.detach(), *(tensor.grad for tensor in inputs)]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("loss", [ours, of_this_torch])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_the_loss_and_its_gradients_are_those_of_plain_cross_entropy(loss, dtype, tolerance, with_bias):
    expected = loss_and_gradients(plain, torch.float64, with_bias)
    for computed, right in zip(loss_and_gradients(loss, dtype, with_bias), expected, strict=True):
        assert computed.dtype == dtype
        torch.testing.assert_close(computed.double(), right, rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize("loss", [ours, of_this_torch])
def test_ignored_tokens_give_no_loss_and_no_gradient(loss):
    losses, grad_hidden, *_ = loss_and_gradients(loss, torch.float64, with_bias=True)
    assert not losses[::3].any()
    assert not grad_hidden[::3].any()
    assert losses[1::3].all()


@pytest.mark.parametrize("loss", [ours, of_this_torch])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_loss_is_near_that_in_fp64_of_the_same_numbers(loss, dtype):
    hidden, weight, labels, bias = problem(dtype=dtype)
    right = plain(hidden.double(), weight.double(), labels, bias.double())
    losses = loss(hidden, weight, labels, bias)
    # a logit of up to 16 is rounded to a multiple of 2⁻⁴ in bf16, and so may a loss be
    torch.testing.assert_close(losses.double(), right, rtol=0, atol=2**-4)


@pytest.mark.parametrize("loss", [ours, of_this_torch])
def test_half_precision_gradients_come_in_the_inputs_dtype(loss):
    right = loss_and_gradients(plain, torch.float64, with_bias=True)[1:]
    gradients = loss_and_gradients(loss, torch.bfloat16, with_bias=True)[1:]
    for computed, exact in zip(gradients, right, strict=True):
        assert computed.dtype == torch.bfloat16
        # bf16 has 8 bits; sums of 41 tokens
        torch.testing.assert_close(computed.double(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize("loss", [ours, of_this_torch])
def test_autocast_does_not_change_the_dtype_that_the_caller_chose(loss):
    right = loss_and_gradients(loss, torch.float32, with_bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = loss_and_gradients(loss, torch.float32, with_bias=True)
    for computed, exact in zip(under_autocast, right, strict=True):
        assert torch.equal(computed, exact)


@pytest.mark.parametrize("loss", [ours, of_this_torch])
def test_no_tokens_give_no_losses_and_zero_gradients(loss):
    losses, *gradients = loss_and_gradients(loss, torch.float64, with_bias=True, tokens=0)
    assert losses.shape == (0,)
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("loss", [ours, of_this_torch])
def test_without_gradients_the_losses_are_the_same(loss):
    hidden, weight, labels, bias = problem()
    with torch.no_grad():
        losses = loss(hidden, weight, labels, bias)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, plain(hidden, weight, labels, bias))


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, labels, bias = problem()
    hidden.requires_grad_()
    ours(hidden, weight, labels, bias).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert bias.grad is None


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest result of any operation."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.size = max(self.size, result.numel())
        return result


def test_the_logits_never_exist_as_a_whole():
    hidden, weight, labels, bias = problem()
    with LargestTensor() as largest:
        ours(hidden.requires_grad_(), weight.requires_grad_(), labels, bias).sum().backward()
    # 8 tokens' logits, the weight's gradient or the hidden states', whichever is largest; all logits: 1230
    assert largest.size == max(8 * VOCABULARY, VOCABULARY * WIDTH, TOKENS * WIDTH)
    assert largest.size < TOKENS * VOCABULARY
