"""The precision that a policy's network runs in; everything around it stays fp32."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from rlnsp.protocols import Policy
from rlnsp.types import Condition, Scene, Video


def in_precision(policy: Policy, precision: Literal["fp32", "bf16"]) -> Policy:
    """The policy, with its conditions and velocities computed in ``precision`` and handed out in fp32."""
    return policy if precision == "fp32" else Bf16(policy)


class Bf16:
    """A policy under bf16 autocast; weights, latents and decoding stay as they are.

    Each call opens autocast anew: it caches low-precision copies of the weights for as long as it is open, so
    that a context round a whole update would go on with the weights from before the optimiser's step.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.device_type = next(policy.named_trainable())[1].device.type

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device_type, dtype=torch.bfloat16)

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """In bf16."""
        with self._autocast():
            return self.policy.encode(scenes)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float = 1.0) -> Tensor:
        """Computed in bf16, returned in fp32."""
        with self._autocast():
            return self.policy.velocity(x, sigma, condition, guidance_scale).float()

    def sigmas(self, num_steps: int) -> Tensor:
        """The policy's."""
        return self.policy.sigmas(num_steps)

    def noise(self, n: int, generator: Generator) -> Tensor:
        """The policy's."""
        return self.policy.noise(n, generator)

    def decode(self, x: Tensor, generator: Generator) -> Video:
        """The policy's: a reward reads pixels, which bf16 would band."""
        return self.policy.decode(x, generator)

    def reference(self) -> AbstractContextManager[None]:
        """The policy's."""
        return self.policy.reference()

    def named_trainable(self) -> Iterator[tuple[str, Parameter]]:
        """The policy's."""
        return self.policy.named_trainable()

    def encodes_with_trained_parts(self) -> bool:
        """As the policy says."""
        return self.policy.encodes_with_trained_parts()

    def save_adapter(self, folder: Path) -> None:
        """As the policy does."""
        self.policy.save_adapter(folder)

    def load_adapter(self, folder: Path) -> None:
        """As the policy does."""
        self.policy.load_adapter(folder)
