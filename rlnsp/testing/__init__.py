"""For authors of plug-ins: a policy that runs in milliseconds, and a conformance test for each seam."""

from rlnsp.testing.conformance import check_algorithm, check_policy, check_reward
from rlnsp.testing.toy import ToyPolicy

__all__ = ["ToyPolicy", "check_algorithm", "check_policy", "check_reward"]
