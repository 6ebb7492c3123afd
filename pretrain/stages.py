"""Stages 1 and 2, from data to a policy folder: ``rlnsp pretrain`` and ``rlnsp sft``.

Each stage writes what it made into ``OUTPUT/policy`` and its curves into ``OUTPUT/STAGE``; a stage whose mark
is there is done, so the same command again goes on where it was stopped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

from policies.files import check_part
from policies.settings import Source
from policies.unified import files, weights
from policies.unified.policy import Unified
from pretrain.diffusion import DiffusionConfig, prepare, train_diffusion
from pretrain.loop import check_spread
from pretrain.parts import connector_with, make_comprehension, make_initial, make_vae
from pretrain.settings import BEFORE, PretrainConfig, SFTConfig
from pretrain.work import CONSOLE, DataConfig, Work
from rlnsp.distributed import Ranks
from rlnsp.pretrained import device_of
from rlnsp.settings import ConfigError

__all__ = ["CONSOLE", "DataConfig", "PretrainConfig", "SFTConfig", "check_start", "pretrain", "sft"]


def pretrain(config: PretrainConfig, output: Path, ranks: Ranks | None = None) -> Path:
    """Run every stage that is not done yet; returns the policy folder.

    Args:
        config: checked.
        output: the folder; of several processes all see it.
        ranks: the processes that do it together.

    Raises:
        ConfigError: unusable clips, or a stage that was done or begun with other settings.
        Interrupted: stopped; the same call goes on.
        RankEnded: another process was stopped, or failed.
    """
    _prepare(config.threads)
    _check_loops(config.text_to_video, "text_to_video.", ranks)
    reads_context = any(stage.text == "context" for stage in config.text_to_video.values())
    manifests = _manifests(config.text_to_video.values(), config.data)
    if config.parts.comprehension.path is None or config.parts.vae.path is None:
        manifests.append(config.data.manifest)
    work = Work(
        output, config.data, config.geometry, need_context=reads_context, manifests=manifests, ranks=ranks
    )
    work.check_order([*BEFORE, *config.text_to_video], independent=2)
    asked = {"data": config.data.identity(), "geometry": asdict(config.geometry)}
    comprehension = {"comprehension": _asked(config.comprehension, config.parts.comprehension)}
    vae = {"vae": _asked(config.vae, config.parts.vae)}
    if not work.done("comprehension", asked | comprehension):
        with work.stage("comprehension", asked | comprehension) as folder:
            make_comprehension(config, work, folder)
    if not work.done("vae", asked | vae):
        with work.stage("vae", asked | vae) as folder:
            make_vae(config, work, folder)
    # The connector is made here, whatever comes ready.
    connector = {"num_queries": config.transformer.num_queries, "seed": config.transformer.seed}
    transformer = _asked(config.transformer, config.parts.transformer) | connector
    asked |= comprehension | vae | {"transformer": transformer}
    if config.parts.scheduler.path is not None:
        asked["scheduler"] = asdict(config.parts.scheduler)
    if not work.done("initial", asked):
        with work.stage("initial", asked):
            if work.ranks.main:
                make_initial(config, work)
    _diffusion(config.text_to_video, work, asked, config.device)
    return work.policy


def sft(config: SFTConfig, start: Path, output: Path, ranks: Ranks | None = None) -> Path:
    """Fine-tune the policy at ``start`` on next-scene pairs; returns the new policy folder.

    Args:
        config: checked.
        start: a policy folder.
        output: as ``pretrain``; and so is ``ranks``.
        ranks: the processes that do it together.

    Raises:
        ConfigError: as ``pretrain``; or ``start`` is no whole policy folder.
        Interrupted: stopped; the same call goes on.
        RankEnded: another process was stopped, or failed.
    """
    _prepare(config.threads)
    _check_loops({"sft": config.sft}, "", ranks)
    geometry = weights.geometry_of(start)
    work = Work(
        output,
        config.data,
        geometry,
        need_context=config.sft.text == "context",
        manifests=_manifests([config.sft], config.data),
        ranks=ranks,
    )
    work.check_order(["given", "sft"])
    asked = {
        "policy": str(start.resolve()),
        "data": config.data.identity(),
        "added_queries": config.added_queries,
    }
    if not work.done("given", asked):
        with work.stage("given", asked):
            if work.ranks.main:
                connector = connector_with(start, config.added_queries)
                weights.save_policy(work.policy, geometry=geometry, connector=connector, rest_from=start)
    _diffusion({"sft": config.sft}, work, asked, config.device)
    return work.policy


def check_start(start: str) -> Path:
    """The policy folder to start from.

    Raises:
        ConfigError: it is not a whole policy folder.
    """
    if not start:
        raise ConfigError("--policy: give the folder that rlnsp pretrain wrote, such as runs/pretrain/policy")
    folder = files.policy_folder(start)
    for part in files.PARTS:
        check_part(folder / part, part)
    return folder


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    # Activations near zero are otherwise computed as denormals, many times slower on a CPU.
    torch.set_flush_denormal(True)


def _check_loops(stages: Mapping[str, DiffusionConfig], above: str, ranks: Ranks | None) -> None:
    """Before any stage has run."""
    asked = ranks is not None and ranks.sharding is not None
    for name, stage in stages.items():
        try:
            check_spread(stage.loop, spread=asked and "transformer" in stage.train)
        except ConfigError as error:
            raise ConfigError(f"{above}{name}.{error}") from error


def _manifests(stages: Iterable[DiffusionConfig], data: DataConfig) -> list[str]:
    return [stage.manifest or data.manifest for stage in stages]


def _asked(made: Any, given: Source) -> dict[str, Any]:
    """What a part depends on: where it comes from, or how it is made."""
    return asdict(made) if given.path is None else asdict(given)


def _diffusion(
    stages: Mapping[str, DiffusionConfig], work: Work, asked: Mapping[str, Any], device: str
) -> None:
    for name, stage in stages.items():
        # Each builds on all that came before it, and is known by the settings of all that.
        asked = {**asked, name: asdict(stage)}
        if work.done(name, asked):
            continue
        with work.stage(name, asked) as folder:
            model = weights.load_model(Unified.Config(folder=str(work.policy)))
            # On which it depends what can be computed before; and Qwen then comes with half the bytes.
            prepare(model, stage)
            place = device_of(device)
            model.place(place)
            sources = work.sources(model, name, stage, folder)
            model.place(place, waiting=work.idle_parts(stage))
            train_diffusion(name, stage, model, sources, folder, work.workers, work.ranks)
            work.tell_skipped(folder)
            assert isinstance(model.transformer, LTXVideoTransformer3DModel)
            if work.ranks.main:
                weights.save_policy(
                    work.policy,
                    geometry=model.geometry,
                    transformer=model.transformer,
                    connector=model.connector,
                    rest_from=work.policy,
                )
