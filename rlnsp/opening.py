"""Open the policy that a command line names: a run folder with what RL trained, or a policy folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlnsp import config, plugins
from rlnsp.protocols import ChecksScenes, Policy
from rlnsp.settings import ConfigError, RunConfig, Slot

if TYPE_CHECKING:
    from rlnsp.types import Scene

EXPORTED = "rlnsp-policy.yaml"
"""In a folder that ``rlnsp export`` made: the plug-in that opens it, and its settings."""


def is_run(where: str | Path) -> bool:
    """Whether ``where`` is a folder that ``rlnsp train`` made."""
    return (Path(where) / "config.yaml").is_file()


def open_policy(slot: Slot, where: str | None = None) -> Policy:
    """A policy with its weights.

    Args:
        slot: The plug-in and its settings; of a run folder, the run's own hold instead.
        where: A run folder or a checkpoint of one, whose adapter is loaded; a folder that was exported; a
            policy folder, which replaces the slot's ``folder``; the YAML of another slot (``use`` and
            ``config``); or None, for the policy as ``slot`` has it.

    Raises:
        ConfigError: There is no such folder, it lacks something, or the settings are wrong.
    """
    adapter = None
    if where is not None and is_run(where):
        adapter = Path(where) / "adapter"
        if not adapter.is_dir():
            raise ConfigError(
                f"{where}: this run has no adapter yet; let it reach its first save, or name another"
            )
        slot = config.load_typed(RunConfig, Path(where) / "config.yaml").policy
    elif where is not None and Path(where).suffix in {".yaml", ".yml"}:
        slot = config.load_typed(Slot, where)
    elif where is not None:
        if (exported := Path(where) / EXPORTED).is_file():
            slot = config.load_typed(Slot, exported)
        slot = replace(slot, config={**slot.config, "folder": str(where)})
    settings = config.plugin_settings("policies", slot, "policy")
    policy: Policy = plugins.find("policies", slot.use)(settings)
    if adapter is not None:
        policy.load_adapter(adapter)
    return policy


def check_can_make(policy: Policy, scenes: Sequence[Scene]) -> None:
    """Ask a policy that can tell whether it will be able to make clips of these scenes.

    Raises:
        ConfigError: it cannot.
    """
    if isinstance(policy, ChecksScenes):
        try:
            policy.check_scenes(scenes)
        except ValueError as error:
            raise ConfigError(f"policy: {error}") from error
