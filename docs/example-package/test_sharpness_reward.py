from sharpness_reward import Sharpness

from rlnsp.testing import check_reward


def test_sharpness_keeps_to_the_contract():
    check_reward(Sharpness(Sharpness.Config()))
