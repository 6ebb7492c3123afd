"""Wan2.1, text to video: UMT5 reads the prompt, the transformer and VAE draw."""

from policies.wan.policy import Wan

__all__ = ["Wan"]
