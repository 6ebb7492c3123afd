"""rlnsp: reinforcement-learning fine-tuning of video generators for next-scene prediction."""

__version__ = "0.1.0"
