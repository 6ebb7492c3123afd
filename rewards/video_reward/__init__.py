"""VideoAlign's reward model: the reward, and what makes its folder out of the published checkpoint."""

from rewards.video_reward.reward import VideoReward

__all__ = ["VideoReward"]
