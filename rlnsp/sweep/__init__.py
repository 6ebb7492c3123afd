"""Ablation sweeps: many runs of ``rlnsp train``, shared among workers, and one table of what they say."""
