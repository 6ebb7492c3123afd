from pathlib import Path

import numpy as np
import pytest

from pretrain import judge_clips
from pretrain.judge_clips import FAULTS, faulty, generated_clips, recoloured, true_clips
from pretrain.judge_turns import NAMES, SAME, form, shown
from pretrain.recognition import recognise
from rlnsp.settings import SamplerConfig, WindowConfig
from rlnsp.testing.toy import ToyPolicy
from rlnsp.world import Tracker, language
from rlnsp.world.events import split_of


def passes(events, frames) -> list[bool]:
    contexts = [language.describe(event, np.random.default_rng(0)) for event in events]
    return [verdict.passed for verdict in Tracker().judge(contexts, np.stack(frames))]


def test_true_clips_are_true_blurred_or_not() -> None:
    events, clips = true_clips("train", 35, np.random.default_rng(0))
    assert np.mean(passes(events, list(clips))) > 0.95  # the blur may take a thing to the edge of a check
    greys = [len(np.unique(clip[0, :4, 24:40])) for clip in clips]
    assert min(greys) < 5 < max(greys)  # a wall that wavers has many greys, one as drawn few


def test_a_form_of_a_true_clip_is_a_true_clip_of_the_form_of_its_scene() -> None:
    rng = np.random.default_rng(1)
    events, clips = true_clips("train", 28, rng)
    forms = [form(one, rng) for one in shown(clips, events) for _ in range(2)]
    frames = [one.of(clips) for one in forms]
    assert np.mean(passes([one.asked for one in forms], frames)) > 0.9
    # What a form shows was never looked up, but turned with it.
    again = recognise(np.stack(frames), [one.asked for one in forms])
    assert np.mean([one.seen.caption == seen.caption for one, seen in zip(forms, again, strict=True)]) > 0.9
    assert all(split_of(one.asked) == "train" for one in forms)
    assert {one.mirrored for one in forms} == {True, False}
    assert len({tuple(one.colours) for one in forms}) > 20


def test_recolouring_with_the_same_colours_changes_nothing_to_speak_of() -> None:
    _, clips = true_clips("train", 4, np.random.default_rng(2))
    assert np.abs(recoloured(clips[0], SAME).astype(int) - clips[0]).max() == 0


def test_recolouring_leaves_grey_alone_and_exchanges_pure_colours() -> None:
    palette = judge_clips.PALETTE.astype(np.uint8)
    clip = np.stack([palette, np.full_like(palette, 128)])[None]
    turned = recoloured(clip, [1, 2, 3, 4, 5, 0])
    assert np.array_equal(turned[0, 0], palette[[1, 2, 3, 4, 5, 0]])
    assert np.array_equal(turned[0, 1], clip[0, 1])
    assert len(NAMES) == 6


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_leaves_few_clips_true_and_all_of_their_shape(name: str, monkeypatch) -> None:
    rng = np.random.default_rng(3)
    events, clips = true_clips("train", 21, rng)
    monkeypatch.setattr(judge_clips, "FAULTS", {name: FAULTS[name]})
    made = faulty(clips, rng)
    assert (made.shape, made.dtype) == (clips.shape, np.uint8)
    assert np.mean(passes(events, list(made))) <= (0.7 if name in ("noisy", "patched") else 0.15)


def test_generated_clips_are_made_once_and_a_part_at_a_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(judge_clips, "PART", 3)
    policy, sampler = (
        ToyPolicy(ToyPolicy.Config()),
        SamplerConfig(num_steps=2, rule="ode", window=WindowConfig(size=1)),
    )
    events, clips = generated_clips(policy, sampler, 2, 5, tmp_path)
    assert (len(events), len(clips)) == (6, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "generated-5.safetensors",
        "generated-6.safetensors",
    ]
    monkeypatch.setattr(judge_clips, "sample", None)  # called again, it would fail
    same_events, same = generated_clips(policy, sampler, 2, 5, tmp_path)
    assert np.array_equal(same, clips)
    assert same_events == events
    (tmp_path / "generated-6.safetensors").unlink()
    with pytest.raises(TypeError):
        generated_clips(policy, sampler, 2, 5, tmp_path)
