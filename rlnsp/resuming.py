"""From where a run folder goes on, and with which other settings than it had."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rlnsp import checkpoint, config
from rlnsp.settings import ConfigError, RunConfig, require

MAY_DIFFER = (
    "trainer.num_iterations",
    "trainer.save_every",
    "trainer.keep_last",
    "trainer.keep_best",
    "trainer.trackers",
    "trainer.report",
    "trainer.max_drop_share",
    "trainer.micro_batch_size",
    "trainer.rollout_batch_size",
    "trainer.context_parallel",
    "trainer.compare_ranks",
    "trainer.rank_timeout_s",
    "evaluation.every",
    "evaluation.bootstrap",
    "evaluation.keep_clips",
    "data.limits.*",
    "data_loss.alarm",
    "rewards.*.on_failure",
    "rewards.*.concurrency",
    "rewards.*.timeout_s",
    "rewards.*.retries",
    "rewards.*.retry_wait_s",
)
"""Settings that decide neither what is optimised nor on what it is measured: patterns of dotted keys."""
ROUNDS = ("trainer.micro_batch_size", "trainer.rollout_batch_size", "trainer.context_parallel")
"""Of those, the ones that change the order in which numbers are added up."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins."""

    checkpoint: Path | None = None
    """None: with the first iteration."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of it, a line each."""


def find_start(run: Path, new: RunConfig) -> Start:
    """The newest intact checkpoint of a run folder; the beginning, where none was ever written.

    Args:
        run: the run folder.
        new: the settings to go on with.

    Raises:
        ConfigError: every checkpoint is damaged, or a setting differs that may not.
    """
    folder = run / "checkpoints"
    found = checkpoint.checkpoints(folder)
    if not found:
        notes = _differences(run / "config.yaml", new)
        return Start(notes=[f"{run}: has no checkpoint yet; it begins with the first iteration", *notes])
    notes = []
    for path in reversed(found):
        if (fault := checkpoint.fault(path)) is None:
            iteration = checkpoint.iteration_of(path)
            require(
                new.trainer.num_iterations >= iteration,
                f"trainer.num_iterations is {new.trainer.num_iterations}, but {iteration} are finished; give "
                "as many or more",
            )
            if notes:
                notes.append(f"going on from {path.name}, the newest that is intact")
            return Start(checkpoint=path, notes=[*notes, *_differences(path / checkpoint.CONFIG, new)])
        notes.append(f"{path} is damaged: {fault}")
    raise ConfigError(
        f"--resume {run}: has no intact checkpoint ({'; '.join(notes)}); copy one back from elsewhere, "
        "or start the run anew in another folder"
    )


def _differences(saved: Path, new: RunConfig) -> list[str]:
    """What differs from the settings in the file ``saved``, a line each.

    Raises:
        ConfigError: something that may not.
    """
    # Through the schema: a file from before a setting existed has that setting's default.
    before, after = config.by_key(config.load(saved)), config.by_key(config.resolved(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    said = {key: f"{key} is {_said(after, key)}, was {_said(before, key)}" for key in keys}
    refused = [key for key in keys if not any(fnmatchcase(key, pattern) for pattern in MAY_DIFFER)]
    if refused:
        raise ConfigError(
            f"a run goes on with the settings it has, but {'; '.join(said[key] for key in refused)}. Leave "
            f"that out, or start another run. What may differ: {', '.join(MAY_DIFFER)}"
        )
    notes = list(said.values())
    if any(key in ROUNDS for key in keys):
        notes.append("sums are rounded in another order than before: the numbers agree, not to the last bit")
    return notes


def _said(settings: dict[str, Any], key: str) -> str:
    return str(settings[key]) if key in settings else "not there"
