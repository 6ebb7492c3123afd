"""``rlnsp check``: what a run relies on, proved on its own config and policy before it is started.

It goes down the same path as training: the run's rollout, scoring, credit, loss and optimiser, on the first
scenes of its first iteration.
"""
