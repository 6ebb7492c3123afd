import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from policies.latents import Geometry, to_pixels
from policies.ltx import normalise
from pretrain.loop import LoopConfig
from pretrain.vae import VAEConfig, build_vae, train_vae
from rlnsp.config import ConfigError
from tests.pretrain.conftest import MakeClips

LOOP = LoopConfig(steps=60, batch_size=4, learning_rate=5e-3, warmup=2, evaluate_every=1)
TINY = VAEConfig(latent_channels=4, encoder_channels=[8, 8], decoder_channels=[8], loop=LOOP)


@pytest.mark.parametrize("blocks", [1, 2])
def test_each_block_halves_space_and_time_after_the_patch(blocks: int) -> None:
    config = VAEConfig(
        patch_size=2,
        latent_channels=4,
        encoder_channels=[8] * (blocks + 1),
        decoder_channels=[8, 16][:blocks],
    )
    torch.manual_seed(0)
    vae = build_vae(config).eval()
    space, time = 2 * 2**blocks, 2**blocks
    assert (vae.spatial_compression_ratio, vae.temporal_compression_ratio) == (space, time)
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 5, 16, 32), return_dict=False)[0].mode()
        assert latents.shape == (1, 4, 4 // time + 1, 16 // space, 32 // space)
        assert vae.decode(latents, return_dict=False)[0].shape == (1, 3, 5, 16, 32)


def test_training_lowers_the_loss_and_sets_the_latents_statistics(
    tmp_path: Path, make_clips: MakeClips
) -> None:
    clips = make_clips(8, height=16, width=16)
    vae = train_vae(TINY, clips, make_clips(3, 1, height=16, width=16), tmp_path)
    losses = [
        json.loads(line)["heldout_loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.8 * losses[0]
    assert not vae.training
    with torch.no_grad():
        latents = vae.encode(to_pixels(clips.frames), return_dict=False)[0].mode()
    normal = normalise(latents, vae).transpose(0, 1).flatten(1)
    assert normal.mean(1).abs().max() < 1e-4
    assert (normal.std(1) - 1).abs().max() < 1e-4
    # They are saved with the weights.
    assert {"latents_mean", "latents_std"} <= set(vae.state_dict())


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_is_used_where_the_processor_computes_in_it(
    tmp_path: Path, make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch, has_bf16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": has_bf16})
    clips, one = make_clips(4, height=16, width=16), replace(LOOP, steps=1)

    def first_weight(precision: Literal["auto", "fp32", "bf16"]) -> torch.Tensor:
        config = replace(TINY, precision=precision, loop=one)
        return next(train_vae(config, clips, clips, tmp_path / precision).parameters()).detach()

    automatic, fp32, bf16 = first_weight("auto"), first_weight("fp32"), first_weight("bf16")
    assert not torch.equal(fp32, bf16)
    assert torch.equal(automatic, bf16 if has_bf16 else fp32)


def test_the_posterior_starts_narrow() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        posterior = build_vae(TINY).encode(torch.zeros(1, 3, 5, 16, 16), return_dict=False)[0]
    assert posterior.std.max() < 0.5


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="must have one number more than decoder_channels; got 2 and 2"):
        VAEConfig(encoder_channels=[8, 8], decoder_channels=[8, 8])
    with pytest.raises(ConfigError, match=r"must double from each to the next, as LTX's do; got \[8, 8\]"):
        VAEConfig(encoder_channels=[8, 8, 8], decoder_channels=[8, 8])
    with pytest.raises(ConfigError, match=r"num_frames must be 2 k \+ 1 for this VAE; got 8"):
        TINY.check_geometry(Geometry(num_frames=8, height=16, width=16, fps=8.0))
    with pytest.raises(ConfigError, match="must be multiples of 8 for this VAE; got 16x20"):
        TINY.check_geometry(Geometry(num_frames=9, height=16, width=20, fps=8.0))
