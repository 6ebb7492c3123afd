"""A captioner, writer and checker behind a test server, which go by colours."""

import re
from collections.abc import Callable, Sequence

import numpy as np

NAMES = ("red", "green", "blue")


def colour_of(images: Sequence[np.ndarray]) -> str:
    """The colour of most of the picture."""
    return NAMES[int(np.stack(images).mean((0, 1, 2)).argmax())]


def speaker(write: Callable[[str, int], str]) -> Callable[[str, list[np.ndarray]], str]:
    """Says what a model would; ``write(colour, refused)`` is the preceding scene of a colour.

    A scene with 'elsewhere' in it is inconsistent, one with 'tells' restates, one with 'mumble' gets none.
    """

    def speak(text: str, images: list[np.ndarray]) -> str:
        if images:
            return f"A white bar\n moves over a {colour_of(images)} ground."
        colours = re.findall(r"(red|green|blue) ground", text)
        if "directly before it" in text:
            return write(colours[0], text.count("Refused:"))
        context = text.splitlines()[0]
        if "Pass or Fail" in text:
            if "mumble" in context:
                return "I cannot say."
            return "It is another place.\nFail" if "elsewhere" in context else "It fits.\nPass"
        assert "Yes or No" in text, text
        return "It says how it ends.\nYes" if "tells" in context else "It stops before.\nNo"

    return speak
