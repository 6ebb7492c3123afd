"""Parts in the hubs' own layouts: from_pretrained, safetensors only, whatever is wrong said in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers.utils import logging

from policies.files import check_part
from policies.settings import Source
from rlnsp.settings import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
T = TypeVar("T")


def device_of(setting: str) -> torch.device:
    """The device that a policy's ``device`` names."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(auto if setting == "auto" else setting)


def is_hub_id(path: str) -> bool:
    """Whether ``path``, which is no folder, may be a model hub's id."""
    return path.count("/") == 1 and not path.startswith((".", "~", "/"))


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


def load(part: str, path: str, loader: Callable[[], Any]) -> Any:
    """What ``loader`` loads.

    Raises:
        ConfigError: it failed, or weights are missing.
    """
    try:
        # The libraries draw weights before they read them; torch's global generator is left as it was.
        with without_bars(), torch.random.fork_rng(devices=[]):
            loaded = loader()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path}: cannot load the {part}: {reason}") from error
    if isinstance(loaded, tuple):
        loaded, info = loaded
        if missing := sorted(info["missing_keys"]):
            # The libraries would go on with random numbers in its place.
            raise ConfigError(f"{path}: the {part}'s weights lack {missing[0]!r} ({len(missing)} in all).")
    return loaded


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


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers' progress bars stay away; they would tear the caller's own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
