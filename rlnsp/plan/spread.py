"""What each of several devices holds of a model whose weights they hold together, and what it gathers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Spread = Literal["none", "gradients", "weights"]
"""What is spread over the devices, and how it is started.

``none``: each has all weights (configs/accelerate/ddp.yaml).  ``gradients``: gradients, optimiser states and
averages of what is trained; each has the weights whole while it computes (fsdp2_zero2.yaml; as ZeRO-2,
arXiv:1910.02054).  ``weights``: they, too, but for the block that computes (fsdp2.yaml; ZeRO-3).
"""
SPREADS: tuple[Spread, ...] = get_args(Spread)


@dataclass(frozen=True, kw_only=True)
class Spreadable:
    """A model that is gathered block by block."""

    bytes: float
    """Of its weights."""
    block: float
    """Of its largest block's."""
    outside: float
    """Of the weights outside of blocks, which are whole throughout a forward and its backward."""

    def own(self, spread: Spread, devices: int) -> float:
        """Bytes that a device has throughout."""
        return self.bytes if spread == "none" else self.bytes / devices

    def gathered(self, spread: Spread, *, trained: bool) -> float:
        """Bytes beside them, at the most, while it computes; by FSDP2, as the profiler sees it.

        A block comes in one buffer, from which its weights are copied; the next one's buffer is there before
        this one's is let go of.  On the way back a trained block's gradient is whole, too, then copied into a
        buffer that goes around, while the one before is still on its way.
        """
        if spread == "none":
            return 0.0
        if spread == "gradients":
            return self.bytes + (3 if trained else 2) * self.block
        blocks = 6 if trained else 3
        return self.outside + max(blocks * self.block, self.outside + 2 * self.block)
