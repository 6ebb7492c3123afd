"""A suite: which scenes, and what is measured on them; a YAML of ``configs/benchmarks``, or one of yours."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

from rlnsp import config
from rlnsp.data import WORLD, heldout_scenes
from rlnsp.settings import RewardSlot, RunConfig, require
from rlnsp.types import Scene

FOLDER = "benchmarks"
FOR_MANIFESTS = "nsp"
"""The suite whose measures a manifest is measured by."""
OWN = "measures."
"""What overrides of a suite begin with; all others are the run's."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Scenes and measures."""

    prompts: str
    """'world', the embedded world's held-out scenes, or a manifest; its place is told from the suite's."""
    measures: dict[str, RewardSlot]
    """By the name that the table has; the distance to the true next scene, seconds and memory are always
    measured."""
    by: str = "category"
    """The manifest's column that scenes are told apart by, where there is one."""

    def __post_init__(self) -> None:
        require(bool(self.measures), "measures must name at least one, such as motion: {use: motion}")


def load(prompts: str, overrides: Sequence[str] = ()) -> Suite:
    """The suite that ``--prompts`` names.

    Args:
        prompts: a shipped suite, such as 'world' or 'nsp'; a suite's YAML; or a manifest, to be measured as
            'nsp' is.
        overrides: 'measures.NAME.config.key=value' each.

    Raises:
        ConfigError: there is none, or it is not valid.
    """
    is_manifest = Path(prompts).suffix == ".jsonl"
    path = config.find_config(FOR_MANIFESTS if is_manifest else prompts, FOLDER, "--prompts")
    suite = config.load_typed(Suite, path, overrides)
    if is_manifest:
        return replace(suite, prompts=prompts)
    beside = path.parent / suite.prompts
    return suite if suite.prompts == WORLD else replace(suite, prompts=str(beside))


def measured_by(run: RunConfig, suite: Suite) -> RunConfig:
    """The run with the suite's scenes and measures in the place of its own.

    Raises:
        ConfigError: a measure's settings are wrong.
    """
    data = replace(run.data, heldout=suite.prompts)
    return config.checked(replace(run, data=data, rewards=suite.measures))


def scenes_of(run: RunConfig, by: str) -> list[Scene]:
    """The scenes that a run is evaluated on, ``evaluation.num_scenes`` at the most.

    Where a manifest has more, as many of each value of its column ``by`` as can be, the first ones, in the
    manifest's order; without ``by`` the first ones of all.
    """
    own = run.evaluation
    if run.data.heldout == WORLD or not by:
        return heldout_scenes(run.data, own.num_scenes, own.seed)
    pool = heldout_scenes(run.data, sys.maxsize, own.seed)
    places: dict[str, list[int]] = defaultdict(list)
    for place, scene in enumerate(pool):
        places[str(scene.columns.get(by, ""))].append(place)
    in_turns = [place for place in chain(*zip_longest(*places.values())) if place is not None]
    return [pool[place] for place in sorted(in_turns[: own.num_scenes])]
