import numpy as np
import pytest
from PIL import Image

from benchmarks.picture import Pair, compare, counted, draw, main, pick, said, strip
from rlnsp import config
from rlnsp.settings import ConfigError
from rlnsp.testing import ToyPolicy
from rlnsp.types import Scene, Video
from rlnsp.world import FRAMES, SIZE, Verdict


def pair(number, kind, before, after):
    scene = Scene(id=f"scene-{number}", context="A red ball rolls slowly right.", columns={"kind": kind})
    clip = np.full((FRAMES, SIZE, SIZE, 3), number, np.uint8)
    checks = [{"contact": passed, "speed": True} for passed in (before, after)]
    first, last = (Verdict(caption="", checks=one) for one in checks)
    return Pair(scene=scene, clips=(clip, clip), verdicts=(first, last))


PAIRS = [
    pair(0, "push", True, True),
    pair(1, "push", False, True),
    pair(2, "push", True, False),  # its kind has been shown
    pair(3, "fall", True, False),
    pair(4, "melt", False, False),
    pair(5, "melt", False, True),
    pair(6, "rise", False, True),
    pair(7, "light", False, True),  # the fifth kind
    pair(8, "push", True, True),
]


def test_scenes_are_picked_by_the_rule():
    assert [one.scene.id for one in pick(PAIRS)] == [f"scene-{i}" for i in (1, 3, 5, 6, 4, 0)]


def test_a_run_that_changed_nothing_shows_what_stayed():
    assert [one.scene.id for one in pick([PAIRS[0], PAIRS[4], PAIRS[8]])] == ["scene-4", "scene-0"]
    assert pick([]) == []


def test_the_caption_counts_every_way():
    assert counted(PAIRS) == (
        "of 9 held-out scenes, 4 went from fail to pass, 2 from pass to fail; "
        "2 passed and 1 failed both times"
    )


def test_a_failure_is_named_by_its_checks():
    assert said(Verdict(caption="", checks={"contact": True}))[0] == "pass"
    assert said(Verdict(caption="", checks={"contact": False, "speed": True}))[0] == "fail: contact"
    many = Verdict(caption="", checks={name: False for name in "abcde"})
    assert said(many)[0] == "fail: a, b, c, and 2 more"


def test_a_strip_has_frames_in_order_with_white_between():
    clip = np.stack([np.full((SIZE, SIZE, 3), 10 * i, np.uint8) for i in range(FRAMES)])
    row = strip(clip)[0, :, 0]
    assert row.shape == (5 * SIZE + 4 * 2,)
    assert row[:: SIZE + 2].tolist() == [0, 20, 40, 60, 80]
    assert row[SIZE : SIZE + 2].tolist() == [255, 255]


def test_the_picture_is_twice_the_readmes_width_and_light(tmp_path):
    draw(pick(PAIRS), counted(PAIRS), tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width == 1800
        assert picture.convert("RGB").getpixel((3, 3)) == (255, 255, 255)


def decode(x, generator):
    """Toy latents, shown as clips of the world's size."""
    shades = (x.mean((1, 2)) * 1000).long().numpy() % 200
    frames = np.stack([np.full((FRAMES, SIZE, SIZE, 3), shade, np.uint8) for shade in shades])
    return Video(frames=frames, fps=8.0)


def test_before_is_the_policy_without_its_adapter_from_the_same_noise(monkeypatch):
    policy = ToyPolicy(ToyPolicy.Config())
    monkeypatch.setattr(policy, "decode", decode)
    run = config.load("world", ["trainer.micro_batch_size=2"])
    fresh = compare(policy, run, 3)
    assert [one.scene.split for one in fresh] == ["heldout"] * 3
    assert all((one.clips[0] == one.clips[1]).all() for one in fresh)
    for _, parameter in policy.named_trainable():
        parameter.data.add_(1.0)
    trained = compare(policy, run, 3)
    assert all((a.clips[0] == b.clips[0]).all() for a, b in zip(fresh, trained, strict=True))
    assert any((one.clips[0] != one.clips[1]).any() for one in trained)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a run folder"):
        main([str(tmp_path)])
