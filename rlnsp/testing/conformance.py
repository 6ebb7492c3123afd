"""What each seam asks of a plug-in beyond its names.  A check that fails says what is wrong."""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlnsp.built_reward import BuiltReward, from_function
from rlnsp.declaration import declared
from rlnsp.optimisation import present
from rlnsp.protocols import Algorithm, Policy
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.settings import SamplerConfig
from rlnsp.testing.bench import Bench, make_bench
from rlnsp.testing.contract import examine
from rlnsp.testing.toy import ToyPolicy
from rlnsp.types import Sample, Scene, Scores
from rlnsp.world import scenes as world_scenes


def check_policy(policy: Policy, scenes: Sequence[Scene], tolerance: float = 1e-3) -> None:
    """Assert that a policy keeps to ``rlnsp.protocols.Policy``.  Leaves its weights as they were.

    Args:
        policy: fresh, or trained.
        scenes: at least two, of different contexts.
        tolerance: largest difference allowed between a batch and its rows one by one, where kernels may round
            differently.
    """
    assert len(scenes) >= 2, "give at least two scenes"
    sigmas = policy.sigmas(4)
    assert sigmas.shape == (5,), f"sigmas(4) must be (5,), one more than steps; got {tuple(sigmas.shape)}"
    assert sigmas.dtype == torch.float32, f"sigmas must be fp32; got {sigmas.dtype}"
    assert sigmas[0] == 1, f"sigmas must begin at 1, noise; got {float(sigmas[0])}"
    assert sigmas[-1] == 0, f"sigmas must end at 0, data; got {float(sigmas[-1])}"
    assert bool((sigmas.diff() < 0).all()), f"sigmas must fall; got {sigmas.tolist()}"

    x = policy.noise(len(scenes), _generator())
    assert x.ndim == 3, f"noise must be (n, N, C); got {tuple(x.shape)}"
    assert len(x) == len(scenes), f"noise(n) must have n rows; got {len(x)} for {len(scenes)}"
    assert x.dtype == torch.float32, f"noise must be fp32; got {x.dtype}"
    assert torch.equal(x, policy.noise(len(scenes), _generator())), "noise must come from its generator alone"
    spread = 6 * math.sqrt(2 / x.numel())
    assert abs(float(x.var()) - 1) < spread, (
        f"noise must be standard normal; its variance is {float(x.var()):.3f}"
    )

    condition = policy.encode(scenes)
    assert len(condition.embeds) == len(scenes), "encode must give a row a scene"
    assert condition.mask.shape == condition.embeds.shape[:2], "a condition's mask must be (B, L)"
    assert condition.mask.dtype == torch.bool, "a condition's mask must be bool"
    assert len(condition.null_embeds) == 1, "null_embeds must have one row"
    says, has = policy.encodes_with_trained_parts(), condition.embeds.requires_grad
    assert says == has, f"encodes_with_trained_parts says {says}, but what encode returns has gradient: {has}"

    sigma = sigmas[1].to(x).expand(len(x))
    with torch.no_grad():
        v = policy.velocity(x, sigma, condition)
        assert v.shape == x.shape, (
            f"velocity must have the shape of x, {tuple(x.shape)}; got {tuple(v.shape)}"
        )
        assert v.dtype == torch.float32, f"velocity must be fp32; got {v.dtype}"
        assert bool(v.isfinite().all()), "velocity must be finite"
        again = policy.velocity(x, sigma, condition)
        assert torch.equal(v, again), (
            "the same call must give the same velocity: turn off dropout and random kernels"
        )
        rows = [
            policy.velocity(x[i : i + 1], sigma[:1], condition.take(torch.tensor([i]))) for i in range(len(x))
        ]
        _assert_close(torch.cat(rows), v, tolerance, "velocity of one row must not depend on the other rows")
        if condition.first is not None:
            known = (x[:, : condition.first.shape[1]] - condition.first) / sigma[:, None, None]
            _assert_close(
                v[:, : condition.first.shape[1]],
                known,
                tolerance,
                "velocity of latents that the condition knows must be (x - first) / sigma",
            )
        null = policy.velocity(x, sigma, condition, 0.0)
        guided = policy.velocity(x, sigma, condition, 2.0)
        _assert_close(
            guided,
            null + 2 * (v - null),
            tolerance,
            "guidance w must be v(null) + w (v(condition) - v(null))",
        )
        with policy.reference():
            reference = policy.velocity(x, sigma, condition)
        assert torch.equal(v, policy.velocity(x, sigma, condition)), (
            "reference() must be undone when it is left"
        )

    trained = dict(policy.named_trainable())
    assert trained, "named_trainable must list at least one parameter"
    frozen = [name for name, value in trained.items() if not value.requires_grad]
    assert not frozen, f"named_trainable lists parameters without gradient: {frozen[:3]}"
    loss = policy.velocity(x, sigma, policy.encode(scenes)).square().mean()
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    assert any(g is not None and bool(g.any()) for g in grads), (
        "no gradient of velocity reaches a trained parameter"
    )

    _check_adapter(policy, x, sigma, scenes, reference)
    _check_decoding(policy, x)


def check_reward(
    reward: Callable[..., Any], samples: Sequence[Sample] | None = None, deterministic: bool = True
) -> None:
    """Assert that a reward keeps to ``rlnsp.protocols.Reward``, as ``rlnsp reward test`` finds it.

    Args:
        reward: a built one: an object of its class, or a function.
        samples: of at least two scenes; None: of the embedded world, true next scenes and faulty ones.
        deterministic: it answers the same question alike; False for a judge that draws.
    """
    given = None if samples is None else Bench(samples=list(samples), faults=None)
    bench = given or make_bench(world_scenes("heldout", 8, seed=0))
    built = BuiltReward(name="reward", call=from_function(reward), declaration=declared(reward))
    failed = [one for one in examine(built, bench, deterministic=deterministic) if one.verdict == "fail"]
    assert not failed, "; ".join(f"{one.claim}: {one.detail}" for one in failed)


def check_algorithm(
    build: Callable[[SamplerConfig], Algorithm], sampler: SamplerConfig | None = None
) -> None:
    """Assert that an algorithm keeps to ``rlnsp.protocols.Algorithm``, on a ``ToyPolicy``.

    Args:
        build: makes it for a sampler's settings, as in ``lambda sampler: GRPO(GRPO.Config(), sampler)``.
        sampler: how to roll out; None: the defaults.
    """
    sampler = sampler or SamplerConfig()
    algorithm, policy = build(sampler), ToyPolicy(ToyPolicy.Config())
    scenes = [Scene(id=f"scene-{i}", context=f"context {i}") for i in range(2)]
    trajectory = rollout(policy, scenes, sampler, 4, Randomness(seed=0), chunk_size=8)
    raw = torch.tensor([0.0, 1.0, 2.0, 4.0] * 2)
    batch, stats = algorithm.credit(trajectory, _scores(raw))
    assert len(batch), "scores that differ must give transitions to train on"
    assert batch.total >= len(batch), (
        f"total counts all transitions: at least {len(batch)}; got {batch.total}"
    )
    _assert_numbers(stats, "credit")

    with torch.no_grad():
        anchor = algorithm.anchor(policy, present(policy, batch, scenes))
    assert anchor.shape == batch.x.shape, (
        f"anchor must have the latents' shape {tuple(batch.x.shape)}; got {tuple(anchor.shape)}"
    )
    assert anchor.dtype == torch.float32, f"anchor must be fp32; got {anchor.dtype}"

    loss, stats = algorithm.loss(policy, present(policy, batch, scenes))
    assert loss.ndim == 0, f"loss must be one number; got shape {tuple(loss.shape)}"
    assert loss.dtype == torch.float32, f"loss must be fp32; got {loss.dtype}"
    _assert_numbers({"loss": float(loss.detach())}, "loss")
    _assert_numbers(stats, "loss")
    grads = torch.autograd.grad(loss, [value for _, value in policy.named_trainable()], allow_unused=True)
    assert any(g is not None and bool(g.any()) for g in grads), "no gradient of the loss reaches the policy"

    missing = raw.clone()
    missing[0] = math.nan
    batch, _ = algorithm.credit(trajectory, _scores(missing))
    assert bool(batch.advantage.isfinite().all()), (
        "a sample that was not scored must leave its group, not spread NaN"
    )


def _check_adapter(
    policy: Policy, x: Tensor, sigma: Tensor, scenes: Sequence[Scene], reference: Tensor
) -> None:
    trained = dict(policy.named_trainable())
    kept = {name: value.detach().clone() for name, value in trained.items()}
    generator = _generator()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        try:
            for value in trained.values():
                value.add_(0.05 * torch.randn(value.shape, generator=generator).to(value))
            changed = policy.velocity(x, sigma, policy.encode(scenes))
            with policy.reference():
                still = policy.velocity(x, sigma, policy.encode(scenes))
            assert torch.equal(still, reference) or policy.encodes_with_trained_parts(), (
                "inside reference() the trained parameters must have no effect"
            )
            assert not torch.equal(changed, still), (
                "outside reference() the trained parameters must have an effect"
            )
            policy.save_adapter(Path(folder))
            for name, value in trained.items():
                value.copy_(kept[name])
            policy.load_adapter(Path(folder))
            _assert_close(
                policy.velocity(x, sigma, policy.encode(scenes)),
                changed,
                1e-5,
                "load_adapter must bring back what save_adapter wrote",
            )
        finally:
            for name, value in policy.named_trainable():
                value.copy_(kept[name])


def _check_decoding(policy: Policy, x: Tensor) -> None:
    with torch.no_grad():
        video, again = policy.decode(x, _generator()), policy.decode(x, _generator())
    frames = video.frames
    assert isinstance(frames, np.ndarray), f"frames must be a numpy array; got {type(frames).__name__}"
    assert frames.dtype == np.uint8, f"frames must be uint8; got {frames.dtype}"
    fits = frames.ndim == 5 and len(frames) == len(x) and frames.shape[-1] == 3
    assert fits, f"frames must be (B, F, H, W, 3) with B {len(x)}; got {frames.shape}"
    assert video.fps > 0, f"fps must be positive; got {video.fps}"
    assert np.array_equal(frames, again.frames), "decode must draw from its generator alone"


def _scores(raw: Tensor) -> Scores:
    return Scores(raw={"reward": raw}, weights={"reward": 1.0})


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _assert_close(a: Tensor, b: Tensor, tolerance: float, claim: str) -> None:
    difference = float((a - b).abs().max())
    assert difference <= tolerance * max(1.0, float(b.abs().max())), (
        f"{claim}; the difference is {difference:.3g}"
    )


def _assert_numbers(stats: Any, where: str) -> None:
    for name, value in stats.items():
        assert isinstance(value, float | int), f"{where}: {name} must be a number; got {type(value).__name__}"
        assert math.isfinite(value), f"{where}: {name} must be finite; got {value}"
