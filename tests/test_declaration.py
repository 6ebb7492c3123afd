import numpy as np
import pytest

from rlnsp.declaration import Declaration, declared, declares


@declares(needs=("latents",), range=(0, 1), tells=("noisy",))
class Declared:
    """Of latents."""

    def __call__(self, samples):
        return [0.5 for _ in samples]


def test_what_is_declared_is_read_from_a_class_and_from_what_is_built_of_it():
    said = Declaration(needs=("latents",), range=(0, 1), tells=("noisy",))
    assert declared(Declared) == declared(Declared()) == said


def test_nothing_declared_is_nothing_stated():
    assert declared(lambda samples: [0.0]) == Declaration(needs=None, range=None, tells=())


def trl(prompts, completions, **columns):
    return np.zeros(len(prompts))


def of_latents(latents):
    return [0.0 for _ in latents]


@declares(range=(0, 2))
def of_both(completions, futures):
    return [0.0 for _ in completions]


@declares(needs=("frames",))
def of_frames_whatever_it_names(completions, latents=None):
    return [0.0 for _ in completions]


@pytest.mark.parametrize(
    ("function", "needs"),
    [
        (trl, ("frames",)),
        (of_latents, ("latents",)),
        (of_both, ("frames", "futures")),
        (of_frames_whatever_it_names, ("frames",)),
    ],
)
def test_a_function_needs_what_its_parameters_name_unless_it_says_so(function, needs):
    assert declared(function).needs == needs


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"needs": ("frame",)}, "needs may hold frames, latents, context_clip, futures; got 'frame'"),
        ({"needs": ()}, "needs must name at least one of"),
        ({"tells": ("still",)}, "tells may hold shuffled, static, noisy; got 'still'"),
        ({"range": (1, 0)}, r"range must be the least and the greatest score; got \(1, 0\)"),
    ],
)
def test_a_word_that_is_not_known_and_an_empty_range_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        declares(**wrong)
