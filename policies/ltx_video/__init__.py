"""LTX-Video as its authors ship it: T5 reads the prompt, the DiT and VAE draw."""

from policies.ltx_video.policy import LTXVideo

__all__ = ["LTXVideo"]
