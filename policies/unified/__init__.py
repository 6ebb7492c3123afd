"""The paper's unified model: a frozen Qwen2.5-VL, latent queries, a connector and LTX-Video's DiT and VAE."""

from policies.unified.policy import Unified

__all__ = ["Unified"]
