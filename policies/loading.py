"""Parts in the hubs' own layouts: from_pretrained, safetensors only, whatever is wrong said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from policies.files import check_part
from policies.settings import Source
from rlnsp.pretrained import is_hub_id, load
from rlnsp.settings import ConfigError

T = TypeVar("T")


def where(source: Source, part: str) -> tuple[str, dict[str, Any]]:
    """What to pass to ``from_pretrained``; a folder's files are checked on the way.

    Raises:
        ConfigError: a missing or damaged file; neither a folder nor a hub's id.
    """
    path, subfolder = source.path or "", source.subfolder
    local = Path(path).expanduser()
    if local.is_dir():
        check_part(local / subfolder, part)
        path, subfolder = str(local / subfolder), ""
    elif not is_hub_id(path):
        raise ConfigError(f"{path}: this policy's {part} is missing. Give a folder or a model hub's id.")
    return path, {
        "subfolder": subfolder,
        "revision": source.revision,
        "local_files_only": source.local_files_only,
    }


def load_diffusers(kind: type[T], source: Source, part: str, dtype: torch.dtype) -> T:
    """A part of diffusers, its weights in ``dtype``, for inference."""
    path, how = where(source, part)
    loader: Any = kind
    return load(
        part,
        path,
        lambda: loader.from_pretrained(
            path, torch_dtype=dtype, use_safetensors=True, output_loading_info=True, **how
        ),
    ).eval()


def load_scheduler(source: Source) -> FlowMatchEulerDiscreteScheduler:
    """The flow-matching schedule with its shift."""
    path, how = where(source, "scheduler")
    return load("scheduler", path, lambda: FlowMatchEulerDiscreteScheduler.from_pretrained(path, **how))


def require_fit(*pairs: tuple[str, int, str, int]) -> None:
    """Raise ConfigError for the first that do not fit: what has how much, and what wants how much."""
    for what, has, what_else, wants in pairs:
        if has != wants:
            raise ConfigError(
                f"policy.config: the {what} is {has}, the {what_else} {wants}. "
                "Take the parts from one folder, or give all that belong together."
            )
