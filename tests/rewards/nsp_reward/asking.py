"""A judge behind a scripted server, and clips for it to judge."""

import numpy as np

from rewards.nsp_reward.judging import Mode
from rewards.nsp_reward.reward import NSPReward
from rlnsp.chat import ChatConfig
from rlnsp.types import Sample, Scene

FPS = 8.0


def sample(level, scene="a", frames=9):
    """A clip of one brightness."""
    clip = np.full((frames, 4, 4, 3), level, np.uint8)
    return Sample(scene=Scene(id=scene, context=f"after {scene}"), frames=clip, fps=FPS)


def reward(server, mode: Mode = "binary", **settings):
    """The reward, whose judge is the server."""
    chat = ChatConfig(base_urls=[server.url], retry_wait_s=0.01, retries=1)
    return NSPReward(NSPReward.Config(judge="openai", mode=mode, openai=chat, **settings))
