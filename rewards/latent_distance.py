"""How near a clip is to what truly happened next, as a video VAE sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlnsp.declaration import declares
from rlnsp.settings import ConfigError
from rlnsp.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

WEIGHTS = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
REMEDY = (
    f"Download it (Wan2.1's, Apache-2.0): hf download {WEIGHTS} --include 'vae/*' --local-dir wan, "
    "and give rewards.NAME.config.vae=wan/vae; or give the folder of the VAE that your policy has."
)


@declares(needs=("frames", "futures"), range=(float("-inf"), 0), tells=("shuffled", "static", "noisy"))
class LatentDistance:
    """Less the mean absolute difference of latents to the nearest true next scene.

    Each channel is measured in its own deviations.  As ``reference_distance``, but what a VAE leaves out does
    not count, and what it sees as structure counts for more than its pixels.  The generated clip is encoded,
    not taken as it was sampled, so that any VAE can be the judge, and of any policy.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Any video autoencoder of diffusers."""

        vae: str = WEIGHTS
        """A folder, or a model hub's id whose subfolder ``vae`` has it."""
        revision: str | None = None
        """Of a hub's id."""
        batch_size: int = 16
        """Clips at a time."""
        device: str = "auto"
        offload: bool = False
        """Keep the model on the CPU between calls."""

        def __post_init__(self) -> None:
            if self.batch_size < 1:
                raise ValueError(f"batch_size must be at least 1; got {self.batch_size}")

    def __init__(self, config: Config) -> None:
        from rlnsp.pretrained import OnDevice

        self.config = config
        vae = _load(config)
        self.std = _deviations(vae)
        self.vae: OnDevice[Any] = OnDevice(vae, config.device, offload=config.offload)

    def __call__(self, samples: Sequence[Sample]) -> list[float | None]:
        """One score a sample; None where the true scene has another size."""
        true: dict[str, Tensor] = {}
        scores: list[float | None] = []
        made = self._encode([sample.frames for sample in samples])
        for sample, latents in zip(samples, made, strict=True):
            assert sample.futures is not None, "declared, and checked before anything was generated"
            if sample.futures.shape[1:] != sample.frames.shape:
                scores.append(None)
                continue
            if sample.scene.id not in true:
                true[sample.scene.id] = self._encode(list(sample.futures))
            distances = (true[sample.scene.id] - latents).abs().flatten(1).mean(1)
            scores.append(-float(distances.min()))
        return scores

    def _encode(self, clips: list[np.ndarray]) -> Tensor:
        """The posterior's mean (n, C, f, h, w) of clips (F, H, W, 3), each channel in its deviations."""
        import numpy as np
        import torch

        parts = []
        with self.vae.use() as vae:
            for start in range(0, len(clips), self.config.batch_size):
                part = torch.from_numpy(np.stack(clips[start : start + self.config.batch_size]))
                pixels = part.permute(0, 4, 1, 2, 3).to(self.vae.device) / 127.5 - 1
                parts.append(vae.encode(pixels).latent_dist.mode().float().cpu())
        return torch.cat(parts) / self.std


def _load(config: LatentDistance.Config) -> Any:
    import diffusers
    import torch
    from diffusers.models.auto_model import AutoModel

    from rlnsp.pretrained import find_model, load

    found = find_model(config.vae, REMEDY)
    own = {} if Path(found).is_dir() else {"subfolder": "vae", "revision": config.revision}
    name = load("vae", config.vae, lambda: AutoModel.load_config(found, **own))["_class_name"]
    kind: Any = getattr(diffusers, name, None)
    if not hasattr(kind, "encode"):
        raise ConfigError(f"{config.vae}: a {name}, not an autoencoder of diffusers. {REMEDY}")
    how: dict[str, Any] = {**own, "torch_dtype": torch.float32, "use_safetensors": True}
    return load("vae", config.vae, lambda: kind.from_pretrained(found, output_loading_info=True, **how))


def _deviations(vae: Any) -> Tensor:
    """Each channel's (C, 1, 1, 1), which LTX's VAE has among its weights, and Wan's in its config."""
    import torch

    name = "latents_std"
    found = dict(vae.named_buffers()).get(name, vae.config.get(name))
    return torch.as_tensor(1.0 if found is None else found, dtype=torch.float32).reshape(-1, 1, 1, 1)
