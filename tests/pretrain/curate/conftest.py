"""A folder of raw videos, good and bad, made once."""

from pathlib import Path

import numpy as np
import pytest

from tests.videos import BLUE, GREEN, RED, audio_only, cut_together, encode, moving, truncated


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    encode(folder / "three.mp4", cut_together(RED, GREEN, BLUE))
    encode(folder / "short-middle.mp4", np.concatenate([moving(RED, 20), moving(GREEN, 9), moving(BLUE, 20)]))
    encode(folder / "sub" / "odd.mp4", moving(GREEN, 24, height=75, width=131))
    (folder / "sub" / "odd.json").write_text('{"split": "heldout"}')
    rates = np.cumsum([0, *[0.02, 0.11, 0.05] * 10])
    encode(folder / "varies.mp4", moving(BLUE, 31), times=rates.tolist())
    (folder / "varies.txt").write_text("A bar crosses a blue ground.")
    encode(folder / "short.mp4", moving(RED, 5))
    truncated(folder / "truncated.mp4", moving(RED, 30))
    audio_only(folder / "sound.mp4")
    (folder / "empty.mp4").touch()
    (folder / "notes.md").write_text("nothing to see")
    return folder
