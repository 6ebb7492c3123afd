"""What a policy's class says of itself, that it may be planned with: its parts without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rlnsp.types import Condition

Velocity = Callable[["Tensor", "Tensor", "Condition", float], "Tensor"]
"""As ``Policy.velocity``."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One model of a policy."""

    parameters: int
    bytes: int
    """Of its weights, in the precision that they are held in."""
    phase: str = ""
    """The one phase in which it is on the device, 'reading' or 'decoding'; empty: it is there throughout."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A policy's sizes, and its denoiser and decoder on the meta device."""

    parts: Mapping[str, Part]
    """The frozen ones, at full size."""
    spread: str = "transformer"
    """Which of them several devices may hold together, where the policy's class has ``shards()``."""
    trained: int
    """Parameters that RL trains, in fp32."""
    blocks: int
    """Of the denoiser."""
    denoiser: Callable[[int], tuple[nn.Module, Velocity]]
    """With that many blocks and its adapter, as it is trained; what is counted of one and two blocks tells
    what any number takes."""
    decoder: Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor]]]
    """The decoder, and what makes pixels (B, 3, F, H, W) of latents (B, N, C)."""
    latent: tuple[int, int]
    """N and C."""
    condition: tuple[int, int]
    """L and D."""
    condition_bytes: int = 4
    """Of a number in it: 2 in bf16."""
    first: int = 0
    """Tokens whose latents are given; each token then has a timestep of its own."""
    decode_batch_size: int
    read_parameters: int
    """Of the text model, those that every token passes through."""
    read_tokens: int
    """A scene's, at the most."""
    reader: Callable[[int], tuple[nn.Module, Callable[[int], object]]] | None = None
    """The text model with that many layers, and what reads so many scenes; None: what that takes beside the
    weights is not counted."""
    read_layers: int = 0
    """Of the text model."""


@runtime_checkable
class Outlines(Protocol):
    """What a policy's class adds that ``rlnsp plan`` can plan with."""

    @classmethod
    def outline(cls, config: Any) -> Outline:
        """Of these settings.  Reads no weights.

        Raises:
            ConfigError: settings that cannot be met, or a part whose own are not known.
        """
        ...
