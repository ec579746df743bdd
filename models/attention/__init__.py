"""Attention-augmented convolution."""

from aaserve.models.attention.layer import AttentionAugmentedConv2d

__all__ = ["AttentionAugmentedConv2d"]
