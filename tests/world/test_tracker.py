import numpy as np
import pytest

from rlnsp.world import Tracker, UnknownContext, Verdict

CLIP = np.full((1, 9, 64, 64, 3), 200, np.uint8)
CONTEXT = "A red ball rolls slowly right toward a blue box."


def test_soft_is_the_share_of_checks_and_passed_means_all():
    verdict = Verdict(caption="", checks={"a": True, "b": False, "c": True, "d": True})
    assert verdict.soft == 0.75
    assert not verdict.passed
    assert verdict.failed == ["b"]
    assert Verdict(caption="", checks={"a": True}).passed


def test_a_verdict_does_not_depend_on_the_clips_beside_it(true_clips):
    together = Tracker().judge(true_clips.contexts[:10], true_clips.frames[:10])
    alone = [Tracker().judge([true_clips.contexts[i]], true_clips.frames[i : i + 1])[0] for i in range(10)]
    assert together == alone


def test_judging_changes_no_pixel(true_clips):
    frames = true_clips.frames[:7].copy()
    Tracker().judge(true_clips.contexts[:7], frames)
    np.testing.assert_array_equal(frames, true_clips.frames[:7])


def test_a_verdicts_caption_is_the_trackers(true_clips):
    captions = Tracker().caption(true_clips.frames[:20])
    assert captions == [
        verdict.caption for verdict in Tracker().judge(true_clips.contexts[:20], true_clips.frames[:20])
    ]


def test_checks_are_plain_truth_values_also_of_an_empty_picture():
    for frames in (CLIP, np.zeros_like(CLIP), 255 - CLIP):
        verdict = Tracker().judge([CONTEXT], frames)[0]
        assert {type(value) for value in verdict.checks.values()} == {bool}
        assert 0 <= verdict.soft < 1


def test_an_unknown_context_is_refused():
    with pytest.raises(UnknownContext, match="A frozen river"):
        Tracker().judge([CONTEXT, "A frozen river begins to crack."], np.repeat(CLIP, 2, axis=0))


def test_contexts_and_clips_must_be_as_many():
    with pytest.raises(ValueError, match="2 contexts for 1 clips"):
        Tracker().judge([CONTEXT, CONTEXT], CLIP)


@pytest.mark.parametrize("frames", [CLIP[:, :5], CLIP[:, :, :32], CLIP.astype(np.float32), CLIP[0]])
def test_clips_of_another_size_or_type_are_refused(frames):
    with pytest.raises(ValueError, match="clips must be uint8 of shape"):
        Tracker().caption(frames)


def test_no_clips_have_no_verdicts():
    assert Tracker().judge([], CLIP[:0]) == []
