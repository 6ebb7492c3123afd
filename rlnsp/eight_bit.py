"""AdamW whose state has 8 bits a number (Dettmers et al., arXiv:2110.02861), by bitsandbytes.

Two bytes a trained parameter in the place of eight: each block of 256 numbers has a scale of its own, and
within it 256 levels, which are closer to each other near zero.  Tensors of fewer than 4,096 stay fp32.
"""

from typing import Any

from rlnsp.settings import ConfigError


def adamw_8bit(setting: str) -> Any:
    """bitsandbytes' class, which takes what ``torch.optim.AdamW`` does.

    Args:
        setting: that asks for it, by its key.

    Raises:
        ConfigError: bitsandbytes is not installed, or does not load.
    """
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError) as error:  # the last two: of its own binaries
        raise ConfigError(
            f"{setting}: adamw_8bit needs bitsandbytes, which cannot be imported ({error}); run: "
            f"python -m pip install 'rlnsp[eight-bit]', or set {setting}=adamw"
        ) from error
    return AdamW8bit
