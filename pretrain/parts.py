"""The parts of a policy before its text-to-video stages: those that come ready, and those made here."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

from policies.loading import load_scheduler
from policies.ltx import ltx_scheduler
from policies.settings import Source
from policies.unified import weights
from policies.unified.connector import NORM_WEIGHT, SCALE, Connector, new_connector, with_added_queries
from pretrain.comprehension import train_comprehension
from pretrain.diffusion import check_captions
from pretrain.settings import PretrainConfig
from pretrain.vae import train_vae
from pretrain.work import Work
from rlnsp.distributed import Ranks
from rlnsp.settings import ConfigError


def make_comprehension(config: PretrainConfig, work: Work, folder: Path) -> None:
    """Put the comprehension model into the policy: the one that is given, or one that is trained here."""
    given = config.parts.comprehension
    if given.path is None:
        _check_alone(work.ranks, "comprehension")
        check_captions([*work.train.scenes, *work.heldout.scenes])
        made = train_comprehension(config.comprehension, work.train, work.heldout, folder)
    elif work.ranks.main:
        made = weights.load_comprehension(given, dtype="auto")
    else:
        return
    weights.save_policy(work.policy, geometry=config.geometry, comprehension=made, rest_from=work.rest)


def make_vae(config: PretrainConfig, work: Work, folder: Path) -> None:
    """Put the VAE into the policy, as ``make_comprehension`` does."""
    given = config.parts.vae
    if given.path is None:
        _check_alone(work.ranks, "vae")
        made = train_vae(config.vae, work.train, work.heldout, folder)
    elif work.ranks.main:
        made = weights.load_vae(given)
    else:
        return
    weights.save_policy(work.policy, geometry=config.geometry, vae=made, rest_from=work.rest)


def _check_alone(ranks: Ranks, stage: str) -> None:
    if ranks.count > 1:
        raise ConfigError(
            f"stage {stage} trains in one process, and there are {ranks.count}: start the same command "
            f"without a launcher until it is done, or give parts.{stage}.path"
        )


def _transformer(config: PretrainConfig) -> LTXVideoTransformer3DModel:
    """The one that is given, or a fresh one."""
    size, given = config.transformer, config.parts.transformer
    if given.path is not None:
        return weights.load_transformer(given)
    torch.manual_seed(size.seed)
    transformer = LTXVideoTransformer3DModel(**fresh_transformer(config))
    # LTX-Video's own DiT knows text of this size from its training; a fresh one would hardly hear it.
    transformer.caption_projection.linear_1.weight.data.div_(NORM_WEIGHT * SCALE)
    return transformer


def fresh_transformer(config: PretrainConfig) -> dict[str, Any]:
    """The settings of a DiT that is made here."""
    size, channels = config.transformer, config.vae.latent_channels
    return {
        "in_channels": channels,
        "out_channels": channels,
        "num_layers": size.layers,
        "num_attention_heads": size.heads,
        "attention_head_dim": size.head_dim,
        "cross_attention_dim": size.heads * size.head_dim,
        "caption_channels": size.caption_channels,
    }


def make_initial(config: PretrainConfig, work: Work) -> None:
    """DiT, a fresh connector, and a schedule beside the comprehension model and the VAE."""
    size, schedule = config.transformer, config.parts.scheduler
    transformer = _transformer(config)
    reader = weights.load_comprehension(Source(path=str(work.policy / "comprehension")))
    connector = new_connector(
        num_queries=size.num_queries,
        width=reader.width,
        out=transformer.config["caption_channels"],
        seed=size.seed,
        vocabulary=reader.model.get_input_embeddings().get_parameter("weight"),
    )
    weights.save_policy(
        work.policy,
        geometry=config.geometry,
        transformer=transformer,
        scheduler=ltx_scheduler() if schedule.path is None else load_scheduler(schedule),
        connector=connector,
        rest_from=work.policy,
    )


def connector_with(start: Path, text: str) -> Connector:
    """That of the policy at ``start``, with a query more for each token of ``text``."""
    connector = weights.load_connector(Source(path=str(start / "connector")))
    if not text:
        return connector
    reader = weights.load_comprehension(Source(path=str(start / "comprehension")))
    return with_added_queries(connector, reader.embeddings(text))
