import json

import numpy as np

from rlnsp.benchmark.vbench import LONGEST_NAME, PROMPTS, VBenchFolder
from rlnsp.manifest import read_clip
from rlnsp.types import Sample, Scene


def sample(context, id="one", brightness=100):
    clip = np.full((3, 16, 16, 3), brightness, np.uint8)
    return Sample(scene=Scene(id=id, context=context), frames=clip, fps=8.0)


def test_clips_are_called_by_their_prompt_and_number(tmp_path):
    folder = VBenchFolder(tmp_path / "model")
    folder.add([sample("A dog, running.")], 0)
    folder.add([sample("A dog, running.", brightness=200)], 1)
    assert {path.name for path in folder.folder.glob("*.mp4")} == {
        "A dog, running.-0.mp4",
        "A dog, running.-1.mp4",
    }
    frames, _ = read_clip(folder.folder / "A dog, running.-1.mp4")
    assert abs(frames.mean() - 200) < 3


def test_what_no_file_can_be_called_has_its_prompt_in_the_list(tmp_path):
    folder = VBenchFolder(tmp_path / "model")
    long = "ä" * LONGEST_NAME
    asked = {"a/1": "either/or", "b": long, "c": "twice", "d": "twice"}
    folder.add([sample(context, id=id) for id, context in asked.items()], 0)
    prompts = json.loads((folder.folder / PROMPTS).read_text())
    assert prompts == {"a_1-0.mp4": "either/or", "b-0.mp4": long, "twice-0.mp4": "twice", "d-0.mp4": "twice"}
    assert {path.name for path in folder.folder.glob("*.mp4")} == set(prompts)
