"""From what ``rlnsp plan --stage`` is told to the plans of stage 1's text-to-video stages, and of stage 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from policies.unified.files import policy_folder
from pretrain.diffusion import DiffusionConfig
from pretrain.plan import outline
from pretrain.plan.counting import Counts
from pretrain.plan.estimate import StageRun, estimate
from pretrain.plan.remedies import remedies
from pretrain.settings import PretrainConfig, SFTConfig
from pretrain.work import DataConfig
from rlnsp import config
from rlnsp.plan.stages import Asked, Devices, StagePlan
from rlnsp.settings import ConfigError, require


def of_pretrain(asked: Asked, devices: Devices) -> list[StagePlan]:
    """Of each text-to-video stage, in order; what comes before them, of small models alone, is left out.

    Raises:
        ConfigError: as ``PlansStages.plan``.
    """
    require(not asked.policy, "--policy is of sft: pretrain makes one, from the parts of its config")
    settings = config.load_typed(PretrainConfig, asked.config, asked.overrides, folder="pretrain")
    require(bool(settings.text_to_video), f"--config {asked.config}: it has no text_to_video stage to plan")
    counts = Counts(outline.of_pretrain(settings))
    return [*_plans("text_to_video.", settings.text_to_video, settings.data, counts, asked, devices)]


def of_sft(asked: Asked, devices: Devices) -> list[StagePlan]:
    """Of the one stage.

    Raises:
        ConfigError: as ``PlansStages.plan``.
    """
    settings = config.load_typed(SFTConfig, asked.config, asked.overrides, folder="sft")
    if asked.policy:
        parts = outline.of_folder(policy_folder(asked.policy))
    else:
        name = Path(asked.config).name
        if name not in config.shipped("pretrain") or name != asked.config:
            raise ConfigError(
                f"--policy: give the folder that sft is to start from; there is no config of pretrain called "
                f"{asked.config} that would say what it makes"
            )
        parts = outline.of_pretrain(config.load_typed(PretrainConfig, name, [], folder="pretrain"))
    counts = Counts(outline.with_added_queries(parts, settings.added_queries))
    return [*_plans("", {"sft": settings.sft}, settings.data, counts, asked, devices)]


def _plans(
    above: str,
    stages: Mapping[str, DiffusionConfig],
    data: DataConfig,
    counts: Counts,
    asked: Asked,
    devices: Devices,
) -> Iterator[StagePlan]:
    _check_names(asked.pictures, [*stages])
    for name, stage in stages.items():
        run = StageRun(
            name=name,
            config=stage,
            data=data,
            optimizer=stage.loop.optimizer,
            devices=devices,
            pictures=name in asked.pictures,
        )
        plan = estimate(run, counts)
        if not plan.fits:
            found = remedies(run, lambda one: estimate(one, counts), above + name)
            plan = replace(plan, remedies=found)
        yield plan


def _check_names(given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        require(name in known, f"--pictures {name}: there is no such stage; stages: {', '.join(known)}")
