"""The unified policy keeps to the protocol, as any plug-in's author would check it."""

import pytest

from rlnsp.testing import check_policy
from rlnsp.types import Scene

SCENES = [Scene(id="a", context="a ball rolls"), Scene(id="b", context="the lamp by the door is lit")]


@pytest.mark.parametrize("which", ["policy", "trained_policy"])
def test_the_unified_policy_keeps_to_the_protocol(which, request):
    check_policy(request.getfixturevalue(which), SCENES)
