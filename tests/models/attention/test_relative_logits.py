"""Relative position embeddings: the paper's own algorithm gives the same, and they learn."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from aaserve.models.attention import AttentionAugmentedConv2d


def rel_to_abs(x: Tensor) -> Tensor:
    """(B, L, 2L - 1) relative --> (B, L, L) absolute, by padding and reshaping as in the paper's appendix."""
    batch, length, _ = x.shape
    x = F.pad(x, (0, 1)).flatten(1)  # (B, 2L * L)
    x = F.pad(x, (0, length - 1)).reshape(batch, length + 1, 2 * length - 1)  # (B, L + 1, 2L - 1)
    return x[:, :length, length - 1 :]  # (B, L, L)


def relative_logits_1d(q: Tensor, table: Tensor) -> Tensor:
    """(B, Nh, H, W, d) queries --> (B, Nh, H, W, H, W), each key column's logit repeated for the key rows."""
    batch, heads, height, width, _ = q.shape
    logits = torch.einsum("bhxyd,md->bhxym", q, table).flatten(0, 2)  # (B * Nh * H, W, 2W - 1)
    logits = rel_to_abs(logits).reshape(batch, heads, height, width, 1, width)
    return logits.expand(-1, -1, -1, -1, height, -1)


def papers_map(layer: AttentionAugmentedConv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Attention weights (B, Nh, N, N) with whole matrices of relative logits, and values (B, Nh, N, e)."""
    heads = layer.num_heads
    q, k, v = layer.qkv(x).split([layer.key_channels, layer.key_channels, layer.value_channels], dim=1)
    q, k, v = (part.unflatten(1, (heads, -1)).permute(0, 1, 3, 4, 2) for part in (q, k, v))  # (B, Nh, H, W, d)
    q = q * q.shape[-1] ** -0.5
    of_width = relative_logits_1d(q, layer.key_rel_w)  # (B, Nh, H, W, H, W)
    of_height = relative_logits_1d(q.transpose(2, 3), layer.key_rel_h).permute(0, 1, 3, 2, 5, 4)  # (B, Nh, H, W, H, W)
    logits = torch.einsum("bhxyd,bhuvd->bhxyuv", q, k) + of_height + of_width
    return logits.flatten(2, 3).flatten(3, 4).softmax(dim=-1), v.flatten(2, 3)


def papers_attention(layer: AttentionAugmentedConv2d, x: Tensor) -> Tensor:
    """The attention branch."""
    batch, _, height, width = x.shape
    weights, v = papers_map(layer, x)
    attended = weights @ v  # (B, Nh, N, e)
    return layer.proj(attended.transpose(2, 3).reshape(batch, -1, height, width))


@pytest.mark.parametrize("size", [(4, 4), (3, 7), (7, 2), (1, 5)])
def test_the_papers_padding_and_reshaping_gives_the_same_attention(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = AttentionAugmentedConv2d(
        6, 10, 3, key_channels=12, value_channels=6, num_heads=3, feature_size=size
    ).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[:, 4:], papers_attention(layer, x), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(layer.attention_map(x), papers_map(layer, x)[0], atol=1e-12, rtol=1e-10)


def test_gradients_of_the_relative_tables_match_finite_differences() -> None:
    torch.manual_seed(0)
    layer = AttentionAugmentedConv2d(
        4, 6, 3, key_channels=4, value_channels=4, num_heads=2, feature_size=(2, 3)
    ).double()
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64)

    def output(key_rel_h: Tensor, key_rel_w: Tensor) -> Tensor:
        return functional_call(layer, {"key_rel_h": key_rel_h, "key_rel_w": key_rel_w}, (x,))

    tables = [table.detach().clone().requires_grad_() for table in (layer.key_rel_h, layer.key_rel_w)]
    assert torch.autograd.gradcheck(output, tables)


def test_each_row_of_the_relative_tables_receives_a_gradient() -> None:
    torch.manual_seed(0)
    layer = AttentionAugmentedConv2d(4, 6, 3, key_channels=4, value_channels=4, num_heads=2, feature_size=(3, 4))
    layer(torch.randn(2, 4, 3, 4)).square().sum().backward()
    assert layer.key_rel_h.grad.abs().amax(dim=1).min() > 0
    assert layer.key_rel_w.grad.abs().amax(dim=1).min() > 0
