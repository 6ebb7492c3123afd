"""Stages 1 and 2, from data to a policy folder: ``rlnsp pretrain`` and ``rlnsp sft``.

Each stage writes what it made into ``OUTPUT/policy`` and its curves into ``OUTPUT/STAGE``; a stage whose mark
is there is done, so the same command again goes on where it was stopped.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

from policies.files import check_part
from policies.latents import Geometry
from policies.ltx import ltx_scheduler
from policies.settings import Source
from policies.unified import files, weights
from policies.unified.connector import NORM_WEIGHT, SCALE, Connector, new_connector, with_added_queries
from policies.unified.policy import Unified
from pretrain.comprehension import ComprehensionConfig, train_comprehension
from pretrain.diffusion import DiffusionConfig, check_captions, prepare, train_diffusion
from pretrain.vae import VAEConfig, train_vae
from pretrain.work import CONSOLE, RESERVED, DataConfig, Work
from rlnsp.settings import ConfigError

__all__ = ["CONSOLE", "DataConfig", "PretrainConfig", "SFTConfig", "check_start", "pretrain", "sft"]

BEFORE = ("comprehension", "vae", "initial")
"""The stages before the text-to-video ones; the first two do not build on each other."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The size of a fresh ``LTXVideoTransformer3DModel``, and of the connector into it."""

    layers: int = 6
    heads: int = 4
    head_dim: int = 32
    caption_channels: int = 128
    num_queries: int = 16
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """``rlnsp pretrain``: comprehension, VAE, then text-to-video sub-stages in order."""

    data: DataConfig = field(default_factory=DataConfig)
    geometry: Geometry = field(default_factory=lambda: Geometry(num_frames=9, height=64, width=64, fps=8.0))
    comprehension: ComprehensionConfig = field(default_factory=ComprehensionConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    text_to_video: dict[str, DiffusionConfig] = field(default_factory=dict)
    """Sub-stages by name, in order."""
    threads: int = 2

    def __post_init__(self) -> None:
        for name in self.text_to_video:
            if name in (*BEFORE, *RESERVED) or not name.isidentifier():
                raise ConfigError(
                    f"text_to_video.{name}: a sub-stage gets a folder of its name in the output; give it "
                    f"a plain word other than {', '.join((*BEFORE, *RESERVED))}"
                )
        self.vae.check_geometry(self.geometry)


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """``rlnsp sft``: a policy folder learns next-scene pairs."""

    data: DataConfig = field(default_factory=DataConfig)
    added_queries: str = ""
    """A text of which each token becomes one more latent query, after those that the policy has: what the
    comprehension model would say next after these words, the DiT gets to see.  Prompt tuning that starts from
    a text (arXiv 2104.08691, section 3.2)."""
    sft: DiffusionConfig = field(default_factory=lambda: DiffusionConfig(text="context"))
    threads: int = 2


def pretrain(config: PretrainConfig, output: Path) -> Path:
    """Run every stage that is not done yet; returns the policy folder.

    Raises:
        ConfigError: unusable clips, or a stage that was done or begun with other settings.
        Interrupted: stopped; the same call goes on.
    """
    _prepare(config.threads)
    reads_context = any(stage.text == "context" for stage in config.text_to_video.values())
    work = Work(output, config.data, config.geometry, need_context=reads_context)
    work.check_order([*BEFORE, *config.text_to_video], independent=2)
    asked = {"data": config.data.identity(), "geometry": asdict(config.geometry)}
    comprehension, vae = {"comprehension": asdict(config.comprehension)}, {"vae": asdict(config.vae)}
    if not work.done("comprehension", asked | comprehension):
        with work.stage("comprehension", asked | comprehension) as folder:
            check_captions([*work.train.scenes, *work.heldout.scenes])
            made = train_comprehension(config.comprehension, work.train, work.heldout, folder)
            weights.save_policy(
                work.policy, geometry=config.geometry, comprehension=made, rest_from=work.rest
            )
    if not work.done("vae", asked | vae):
        with work.stage("vae", asked | vae) as folder:
            trained = train_vae(config.vae, work.train, work.heldout, folder)
            weights.save_policy(work.policy, geometry=config.geometry, vae=trained, rest_from=work.rest)
    asked |= comprehension | vae | {"transformer": asdict(config.transformer)}
    if not work.done("initial", asked):
        with work.stage("initial", asked):
            _initial(config, work)
    _diffusion(config.text_to_video, work, asked)
    return work.policy


def sft(config: SFTConfig, start: Path, output: Path) -> Path:
    """Fine-tune the policy at ``start`` on next-scene pairs; returns the new policy folder.

    Raises:
        ConfigError: as ``pretrain``; or ``start`` is no whole policy folder.
        Interrupted: stopped; the same call goes on.
    """
    _prepare(config.threads)
    geometry = weights.geometry_of(start)
    work = Work(output, config.data, geometry, need_context=config.sft.text == "context")
    work.check_order(["given", "sft"])
    asked = {
        "policy": str(start.resolve()),
        "data": config.data.identity(),
        "added_queries": config.added_queries,
    }
    if not work.done("given", asked):
        with work.stage("given", asked):
            connector = _with_added_queries(start, config.added_queries)
            weights.save_policy(work.policy, geometry=geometry, connector=connector, rest_from=start)
    _diffusion({"sft": config.sft}, work, asked)
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


def _initial(config: PretrainConfig, work: Work) -> None:
    """A fresh DiT, connector and LTX's schedule beside the trained comprehension model and VAE."""
    size = config.transformer
    torch.manual_seed(size.seed)
    channels = config.vae.latent_channels
    transformer = LTXVideoTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_layers=size.layers,
        num_attention_heads=size.heads,
        attention_head_dim=size.head_dim,
        cross_attention_dim=size.heads * size.head_dim,
        caption_channels=size.caption_channels,
    )
    # LTX-Video's own DiT knows text of this size from its training; a fresh one would hardly hear it.
    transformer.caption_projection.linear_1.weight.data.div_(NORM_WEIGHT * SCALE)
    reader = weights.load_comprehension(Source(path=str(work.policy / "comprehension")))
    connector = new_connector(
        num_queries=size.num_queries,
        width=reader.width,
        out=size.caption_channels,
        seed=size.seed,
        vocabulary=reader.model.get_input_embeddings().get_parameter("weight"),
    )
    weights.save_policy(
        work.policy,
        geometry=config.geometry,
        transformer=transformer,
        scheduler=ltx_scheduler(),
        connector=connector,
        rest_from=work.policy,
    )


def _with_added_queries(start: Path, text: str) -> Connector:
    connector = weights.load_connector(Source(path=str(start / "connector")))
    if not text:
        return connector
    reader = weights.load_comprehension(Source(path=str(start / "comprehension")))
    return with_added_queries(connector, reader.embeddings(text))


def _diffusion(stages: Mapping[str, DiffusionConfig], work: Work, asked: Mapping[str, Any]) -> None:
    for name, stage in stages.items():
        # Each builds on all that came before it, and is known by the settings of all that.
        asked = {**asked, name: asdict(stage)}
        if work.done(name, asked):
            continue
        with work.stage(name, asked) as folder:
            model = weights.load_model(Unified.Config(folder=str(work.policy), device="cpu"))
            prepare(model, stage)  # on which it depends what can be computed before
            sources = work.sources(model, name, stage, folder)
            train_diffusion(name, stage, model, sources, folder, work.workers)
            work.tell_skipped(folder)
            assert isinstance(model.transformer, LTXVideoTransformer3DModel)
            weights.save_policy(
                work.policy,
                geometry=model.geometry,
                transformer=model.transformer,
                connector=model.connector,
                rest_from=work.policy,
            )
