import math
from dataclasses import replace

import numpy as np
import pytest

from rlnsp import evaluations
from rlnsp.evaluate import Evaluation
from rlnsp.manifest import read_clip
from rlnsp.types import Explanation, Sample, Scene

SCENES = [Scene(id=name, context=f"after {name}") for name in ("a/b", "a_b", "x" * 4000, "δ" * 300)]
SAID = Explanation(
    verdict="consistent", passed=True, caption="A ball.", checks={"contact": True, "speed": False}
)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "samples").mkdir()
    return tmp_path


def evaluation(brightness=100):
    clip = np.full((3, 16, 16, 3), brightness, np.uint8)
    return Evaluation(
        scene_ids=[scene.id for scene in SCENES],
        scores={"mine": [0.0, math.nan, 0.5, 1.0]},
        how={"sampler": "ode", "seeds": [0]},
        bootstrap=100,
        samples=[Sample(scene=scene, frames=clip, fps=8.0) for scene in SCENES],
        explanations=[{"mine": SAID}, {}, {}, {}],
    )


def test_an_evaluation_is_read_as_it_was_written(run):
    written = evaluations.write(run, "before", 0, SCENES, evaluation())
    (read,) = evaluations.read(run)
    assert read.clips == written.clips
    assert read.contexts == [scene.context for scene in SCENES]
    assert read.clips[0].explanations == {"mine": SAID}
    found = read.evaluation
    np.testing.assert_array_equal(found.scores["mine"], evaluation().scores["mine"])
    assert replace(found, scores={}) == replace(evaluation(), scores={}, samples=[], explanations=[])
    assert "NaN" not in (run / "evaluations" / "before.json").read_text()


def test_every_scene_has_a_clip_of_its_own_whatever_it_is_called(run):
    kept = evaluations.write(run, "before", 0, SCENES, evaluation(brightness=200))
    files = {clip.file for clip in kept.clips}
    assert len(files) == len(SCENES)
    assert {str(path.relative_to(run)) for path in (run / "samples").iterdir()} == files
    frames, fps = read_clip(run / kept.clips[0].file)
    assert fps == 8
    assert frames.mean() == pytest.approx(200, abs=3)


def test_the_newest_evaluation_is_the_last(run):
    for when, iteration in (("after", 20), ("step-10", 10), ("before", 0), ("step-9", 9), ("step-20", 20)):
        evaluations.write(run, when, iteration, SCENES, evaluation())
    assert [kept.when for kept in evaluations.read(run)] == [
        "before",
        "step-9",
        "step-10",
        "step-20",
        "after",
    ]


def test_what_came_after_a_checkpoint_is_forgotten_with_its_clips(run):
    for when, iteration in (("before", 0), ("step-2", 2), ("step-4", 4)):
        evaluations.write(run, when, iteration, SCENES, evaluation())
    evaluations.forget_after(run, 2, last=4)
    assert [kept.when for kept in evaluations.read(run)] == ["before", "step-2"]
    assert {path.stem.rsplit("-", 1)[1] for path in (run / "samples").iterdir()} == {"before", "2"}


def test_a_run_without_evaluations_has_none(run):
    assert evaluations.read(run) == []
