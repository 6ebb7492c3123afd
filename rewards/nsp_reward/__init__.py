"""The paper's reward: is a clip causally consistent with the preceding scene?"""

from rewards.nsp_reward.reward import NSPReward

__all__ = ["NSPReward"]
