import torch

from rlnsp.randomness import Randomness


def test_a_stream_is_the_same_for_the_same_name():
    one, other = (Randomness(seed=3, iteration=7).generator("steps") for _ in range(2))
    assert torch.equal(torch.randn(5, generator=one), torch.randn(5, generator=other))


def test_every_part_of_the_name_makes_another_stream():
    names = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 11, "a")]
    numbers = {Randomness(seed=s, iteration=i).number(p) for s, i, p in names}
    assert len(numbers) == len(names)


def test_streams_are_those_of_the_runs_that_were_published():
    assert Randomness(seed=3, iteration=7).number("steps") == 501736354737955474


def test_a_stream_does_not_depend_on_what_was_drawn_elsewhere():
    randomness = Randomness(seed=0)
    first = torch.randn(3, generator=randomness.generator("noise"))
    torch.randn(100, generator=randomness.generator("steps"))
    assert torch.equal(first, torch.randn(3, generator=randomness.generator("noise")))
