"""In what precision a forward runs."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """To be open round one forward, and nowhere else; nothing for fp32."""
    if dtype == torch.float32:
        return nullcontext()
    # No cache: it would outlive an optimiser step taken while someone else's autocast is open.
    return torch.autocast(device.type, dtype, cache_enabled=False)  # pyright: ignore[reportReturnType]
