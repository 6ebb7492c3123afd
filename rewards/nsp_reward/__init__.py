"""The paper's reward: is a clip causally consistent with the preceding scene?

Nothing is imported here: ``rlnsp judge`` lives in this folder too, and ``rlnsp --help`` loads it.
"""
