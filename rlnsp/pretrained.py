"""Pretrained models that are only asked: found in a folder or on a hub, frozen, on a device while in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from rlnsp.settings import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FEWEST_TOKENS = 256
"""Of a tokenizer over bytes."""
M = TypeVar("M", bound=nn.Module)


def device_of(setting: str) -> torch.device:
    """The device that a plug-in's ``device`` names; ``auto``: CUDA if there is any, else the CPU.

    Of several GPUs the current one, by its number: a thread that has chosen none takes the first for it.
    """
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if setting == "auto" else setting)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def is_hub_id(path: str) -> bool:
    """Whether ``path``, which is no folder, may be a model hub's id."""
    return path.count("/") == 1 and not path.startswith((".", "~", "/"))


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


def find_model(path: str, remedy: str) -> str:
    """What to pass to ``from_pretrained``: a folder that is there, or a hub's id.

    Raises:
        ConfigError: it is neither; ``remedy`` says how to get the weights.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() and not is_hub_id(path):
        raise ConfigError(f"{path}: there is no such folder. {remedy}")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(f"{folder / 'config.json'} is missing. {remedy}")
    return str(folder) if folder.is_dir() else path


def load_model(
    kind: type[M],
    path: str,
    remedy: str,
    dtype: torch.dtype,
    revision: str | None = None,
    *,
    local_files_only: bool = False,
) -> M:
    """A model of transformers, of safetensors alone; see ``find_model``.

    Raises:
        ConfigError: it cannot be loaded, or weights are missing; with ``remedy``.
    """
    found, loader = find_model(path, remedy), _from_pretrained(kind)
    return _with_remedy(
        remedy,
        lambda: load(
            "model",
            path,
            lambda: loader(
                found,
                dtype=dtype,
                revision=revision,
                local_files_only=local_files_only,
                use_safetensors=True,
                output_loading_info=True,
            ),
        ),
    )


def load_part(
    kind: type[Any], path: str, remedy: str, revision: str | None = None, *, local_files_only: bool = False
) -> Any:
    """A config, a tokenizer or an image processor that lies beside a model.

    Raises:
        ConfigError: it cannot be loaded; with ``remedy``.
    """
    found, loader = find_model(path, remedy), _from_pretrained(kind)
    name, how = kind.__name__, {"revision": revision, "local_files_only": local_files_only}
    part = _with_remedy(remedy, lambda: load(name, path, lambda: loader(found, **how)))
    if isinstance(part, PreTrainedTokenizerBase) and part.vocab_size < FEWEST_TOKENS:
        # transformers goes on without a vocabulary where its file is missing.
        raise ConfigError(f"{path}: the tokenizer has no vocabulary. {remedy}")
    return part


class OnDevice(Generic[M]):
    """A frozen model, asked by one thread at a time; with ``offload`` it is on its device only meanwhile."""

    def __init__(self, model: M, device: str, *, offload: bool) -> None:
        self.device, self.offload = device_of(device), offload
        self._model = model.requires_grad_(False).eval()
        self._lock = threading.Lock()
        if not offload:
            self._model.to(self.device)

    @contextmanager
    def use(self) -> Iterator[M]:
        """The model on its device, without gradient."""
        with self._lock, torch.inference_mode():
            self._model.to(self.device)
            try:
                yield self._model
            finally:
                if self.offload:
                    self._model.to("cpu")
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()


def evenly(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """``count`` frames of (F, H, W, 3), the first and the last among them, or all if there are fewer."""
    index = np.linspace(0, len(frames) - 1, min(len(frames), count)).round().astype(int)
    return frames[index]


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


def _from_pretrained(kind: Any) -> Callable[..., Any]:
    return kind.from_pretrained


def _with_remedy(remedy: str, loader: Callable[[], Any]) -> Any:
    try:
        return loader()
    except ConfigError as error:
        raise ConfigError(f"{error} {remedy}") from error
