"""What a run remarks on while it works, a line each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlnsp.distributed import Ranks
from rlnsp.evaluate import DATA_LOSS, Evaluation
from rlnsp.protocols import Policy
from rlnsp.settings import RunConfig
from rlnsp.types import Scores


def beginning(
    config: RunConfig, policy: Policy, num_heldout: int, folder: Path, on_policy: bool, ranks: Ranks
) -> list[str]:
    """How large the run is; ``on_policy``: the weights that sample are those that are trained."""
    trainer, count = config.trainer, sum(p.numel() for _, p in policy.named_trainable())
    lines = [
        f"{count:,} trained parameters in {trainer.precision}; an iteration is "
        f"{trainer.scenes_per_iteration} scenes x {trainer.group_size} samples; "
        f"held out: {num_heldout} scenes; run folder: {folder}"
    ]
    if ranks.count > 1:
        lines.append(
            f"{ranks.count} processes share the scenes of each iteration"
            + (", and hold the frozen weights together" if ranks.frozen_spread else "")
            + (f"; each {ranks.team_size} in a row, a clip's tokens" if ranks.team_size > 1 else "")
        )
    if trainer.updates_per_rollout * trainer.minibatches == 1 and on_policy:
        lines.append(
            "one update a rollout: the ratio is 1 throughout and the clip cannot act, as it should be"
        )
    return lines


def unscored(scores: Scores) -> list[str]:
    """Of each reward that had an error in an iteration."""
    lines = []
    for name, error in scores.errors.items():
        missing = scores.raw[name].isnan()
        lines.append(f"{name} could not score {int(missing.sum())} of {len(missing)} samples: {error}")
    return lines


def alarms(evaluation: Evaluation, before: Mapping[str, Any] | None, most: float) -> list[str]:
    """That the policy left the data: its loss is above that of ``before`` by more than ``most``, a share."""
    if DATA_LOSS not in evaluation.scores or before is None:
        return []
    risen = evaluation.interval(DATA_LOSS).mean / Evaluation(**before).interval(DATA_LOSS).mean - 1
    if risen <= most:
        return []
    return [
        f"alarm: the held-out diffusion loss is {risen:.0%} above that before RL: the policy leaves "
        "the data, as it does when it hacks a reward. Look at the clips; train less, lower the "
        "learning rate, or raise data_loss.coefficient"
    ]
