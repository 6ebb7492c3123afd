"""Still images as clips of one frame: what the first sub-stage of pre-training sees.

Shapes: H, W pixels of the clip; h, w of the picture.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rlnsp.dataset import hub_format
from rlnsp.dataset.frames import nearest_shape
from rlnsp.dataset.rows import PICTURES
from rlnsp.dataset.safety import Limits
from rlnsp.dataset.video import UnusableVideo, place_of

FORMATS = ("PNG", "JPEG", "WEBP")
"""What is decoded, whatever a file is called."""
PAPER = (255, 255, 255)
"""What is seen through a transparent pixel."""


def is_picture(path: Path) -> bool:
    """Its name says so."""
    return path.suffix.lower() in PICTURES or hub_format.is_picture(path)


def sample_picture(path: Path, sizes: Sequence[tuple[int, int]], limits: Limits) -> NDArray[np.uint8]:
    """A picture as a clip, (1, H, W, 3): nearest size, scaled to cover, cropped around the middle.

    Args:
        path: as a manifest names it.
        sizes: (H, W) to choose from.
        limits: on the file and its pixels.

    Raises:
        UnusableVideo: broken, no picture, or more than the limits.
    """
    source = place_of(path, limits)
    try:
        with Image.open(source, formats=FORMATS) as image:
            # Known from the header: nothing is decoded of a picture that is too large.
            if image.width * image.height > limits.max_pixels:
                raise UnusableVideo(
                    "too large",
                    f"has {image.height}x{image.width} pixels, more than max_pixels {limits.max_pixels}",
                )
            upright = _opaque(ImageOps.exif_transpose(image))
            height, width = nearest_shape(upright.height, upright.width, sizes)
            fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    except UnusableVideo:
        raise
    # Pillow's decoders answer damage with any of these.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnusableVideo("broken", f"cannot be decoded ({error})") from error
    return np.array(fitted, np.uint8)[None]


def _opaque(image: Image.Image) -> Image.Image:
    """In RGB, transparent pixels as on white paper."""
    if image.mode.startswith(("I", "F")):
        raise UnusableVideo("broken", f"has pixels of mode {image.mode}, not of 8 bits a channel")
    if not image.has_transparency_data:
        return image.convert("RGB")
    behind = Image.new("RGBA", image.size, (*PAPER, 255))
    return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
