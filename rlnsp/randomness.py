"""Named random generators, all derived from one seed."""

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Randomness:
    """Every stream of random numbers that one iteration may draw from.

    A stream depends on nothing but its name, so a resumed run draws what a straight one does.  It is of all
    scenes and samples together: of several processes each draws all of it and keeps what belongs to its own,
    so that no number depends on how many they are.
    """

    seed: int
    iteration: int = 0

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh CPU generator; the same for the same (seed, iteration, purpose)."""
        return torch.Generator().manual_seed(self.number(purpose))

    def number(self, purpose: str) -> int:
        """What seeds that generator: an integer below 2**63."""
        key = f"rlnsp/{self.seed}/0/{self.iteration}/{purpose}"  # the 0: published runs have it
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
