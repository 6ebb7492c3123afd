"""What an iteration says of itself: its rewards, and where its time went."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlnsp.maths.statistics import standard_error
from rlnsp.types import Scores


class Clock:
    """Seconds by phase."""

    def __init__(self, ended: Callable[[str], None] | None = None) -> None:
        """``ended``: told the name of each phase as it ends."""
        self.seconds: dict[str, float] = {}
        self.ended = ended
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """The time since the last lap was ``phase``."""
        if self.ended:
            self.ended(phase)
        now = time.perf_counter()
        self.seconds[phase], self._last = round(now - self._last, 4), now


def reward_metrics(scores: Scores, group: Tensor) -> dict[str, Any]:
    """Each reward's mean as it came, and the weighted sum that is optimised, with its error over scenes."""
    means = {name: float(values.nanmean()) for name, values in scores.raw.items()}
    spreads = {
        name: float((values - means[name]).square().nanmean().sqrt()) for name, values in scores.raw.items()
    }
    optimised = [name for name, weight in scores.weights.items() if weight]
    total = sum(scores.weights[name] * means[name] for name in optimised)
    each = torch.stack([scores.weights[name] * scores.raw[name] for name in optimised]).sum(0)
    return {
        "reward": total,
        "reward_error": standard_error(each, group),
        **{f"reward/{name}": mean for name, mean in means.items()},
        **{f"reward_std/{name}": spread for name, spread in spreads.items()},
        **{f"reward_seconds/{name}": round(value, 4) for name, value in scores.seconds.items()},
        **{f"unscored/{name}": float(values.isnan().float().mean()) for name, values in scores.raw.items()},
        "dropped": 1 - float(scores.scored.float().mean()),
    }
