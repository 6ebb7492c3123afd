"""A stage's memory by phase and its time a step, from what its work costs.

What is trained is fp32, in one copy: bf16 is made of it by autocast for each forward, and counted with the
activations.  A CUDA context, a cache's fragments and a kernel's own workspace are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pretrain.diffusion import HELD_OUT_AT_ONCE, DiffusionConfig
from pretrain.examples import Shape
from pretrain.loop import HELD_OUT_ROWS, check_spread
from pretrain.plan.counting import Counts
from pretrain.plan.outline import Parts
from pretrain.work import WORLD, DataConfig, idle_parts
from rlnsp.plan.costs import Cost
from rlnsp.plan.estimate import FP32, STATE
from rlnsp.plan.stages import Devices, StagePlan
from rlnsp.settings import require

STATES: Mapping[str, float] = {**STATE, "prodigy": 4 * FP32}
"""Bytes of an optimiser a trained number; Prodigy's are two means, the first weights and a sum."""
SCRATCH = {"adamw": 0, "adamw_8bit": 0, "prodigy": FP32}
"""And of what its step makes for a moment, a number of the largest weight."""
AT_ONCE = {"memory": 64, "precomputed": 1}
"""Clips that are encoded at a time before the first step."""
FP64 = 8
NAMES = {"comprehension": "Qwen", "vae": "VAE"}


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """A stage as it is to run."""

    name: str
    config: DiffusionConfig
    data: DataConfig
    """Of the command."""
    optimizer: str
    """The config's, or another that is tried."""
    devices: Devices
    pictures: bool = False
    """The clips are still images, of one frame."""

    @property
    def clips(self) -> int:
        """Of a step, on a device."""
        return math.ceil(self.config.loop.batch_size / self.devices.count)

    @property
    def spreads_trained(self) -> bool:
        """Whether weights that are trained are spread."""
        return self.devices.spread != "none" and "transformer" in self.config.train


@dataclass(frozen=True, kw_only=True)
class Step:
    """What each device does in a step, and what it takes."""

    shape: Shape
    at_once: int
    """Clips in one forward."""
    passes: int
    """That ``training`` is of."""
    training: Cost
    tested: int
    """Clips of the held-out loss at once."""
    heldout: Cost
    encoding: Cost
    """Of one clip."""
    reading: Cost
    """Of one text, where it is not read in each forward."""


def estimate(run: StageRun, counts: Counts) -> StagePlan:
    """The plan of one stage.

    Raises:
        ConfigError: the batch is smaller than the devices are many, or an optimiser that cannot be spread.
    """
    devices, rates, loop = run.devices, run.devices.rates, run.config.loop
    require(
        loop.batch_size >= devices.count,
        f"{run.name}: loop.batch_size is {loop.batch_size}, but each of {devices.count} devices has a part "
        "of the batch: raise it, or plan with fewer",
    )
    check_spread(loop, spread=run.spreads_trained)
    step = _step(run, counts)
    flops = _flops(run, step)
    speed = {key: rates.decode_mfu if key == "encoding" else rates.mfu for key in flops}
    seconds = {key: value / (rates.tflops * 1e12 * speed[key]) for key, value in flops.items()}
    before = 0.0
    if run.data.clips != "stream":
        each = step.encoding.flops / rates.decode_mfu + step.reading.flops / rates.mfu
        before = 1000 * each / (rates.tflops * 1e12) / devices.count
    return StagePlan(
        name=run.name,
        devices=devices,
        phases=_phases(run, counts, step),
        flops=flops,
        seconds=seconds,
        clips=run.clips,
        steps=loop.steps,
        encoding_seconds=before,
    )


def _step(run: StageRun, counts: Counts) -> Step:
    config, clips = run.config, run.clips
    shape = largest_shape(run.data, counts.parts, pictures=run.pictures)
    at_once = min(config.micro_batch_size or clips, clips)
    # Where weights are spread, activations are wanted apart from gradients, whose rows alone are there.
    passes = 2 if clips > at_once or run.devices.spread != "none" else 1
    # What frozen queries make Qwen say is kept of each row, unless clips are in memory.
    kept = run.data.clips != "memory" and "queries" not in config.train
    tested = min(at_once, math.ceil(HELD_OUT_AT_ONCE / run.devices.count))
    return Step(
        shape=shape,
        at_once=at_once,
        passes=passes,
        training=counts.of_training(config, shape, at_once, passes, kept=kept),
        tested=tested,
        heldout=counts.of_heldout(config, shape, tested, kept=kept),
        encoding=counts.of_encoding(shape, 1),
        reading=counts.of_reading(config) if kept else Cost(flops=0.0, bytes=0.0),
    )


def _phases(run: StageRun, counts: Counts, step: Step) -> dict[str, dict[str, float]]:
    size, data, n = counts.numbers(run.config), run.data, run.devices.count
    own = size.dit.own(run.devices.spread, n)
    trained = size.trained + (own / FP32 if size.trains_dit else 0)
    whole = FP32 * size.trained + (size.dit.bytes if size.trains_dit else 0)
    weights = {**size.frozen, **({"connector": FP32 * float(size.trained)} if size.trained else {})}
    if data.clips == "memory" and (run.config.manifest or data.manifest) == WORLD:
        rows = data.num_train + data.num_heldout
        weights["latents of all clips"] = FP32 * float(rows * counts.numbers_of_latent(step.shape))
    idle = {NAMES[part] for part in idle_parts(data, run.config)}
    there = {name: value for name, value in weights.items() if name not in idle}
    there |= {"DiT": own, "optimiser": STATES[run.optimizer] * trained}
    lent, gathered = {}, {}
    if run.config.loop.ema_decay:
        there["average"] = FP32 * trained
        lent = {"weights, aside": FP32 * trained}
    if run.devices.spread != "none":
        gathered = {"DiT, gathered": size.dit.gathered(run.devices.spread, trained=size.trains_dit)}
    gradients = {"gradients": FP32 * trained}
    scratch = max(SCRATCH[run.optimizer], FP64 if n > 1 else 0) * float(size.largest)
    read, begin = max(step.encoding.bytes, step.reading.bytes), {**weights, "DiT": size.dit.bytes}
    if data.clips == "stream":
        first = {"loading": begin, "encoding": {**there, "activations": read}}
    else:
        some = counts.of_encoding(step.shape, AT_ONCE[data.clips]).bytes
        first = {"encoding": {**begin, "activations": max(some, read)}}
    computed = step.training.bytes - whole  # in whose count the gradients are
    if step.passes == 2 and run.clips == step.at_once:
        computed = max(computed - FP32 * trained, 0)  # in a single pass gradients grow while activations go
    return {
        **first,
        "training": {**there, **gradients, **gathered, "activations": computed},
        "stepping": {**there, **gradients, **({"its own": scratch} if scratch else {})},
        "evaluating": {**there, **lent, **gathered, "activations": step.heldout.bytes},
    }


def _flops(run: StageRun, step: Step) -> dict[str, float]:
    """Of a step, on one device; those of held-out losses are shared out among all steps."""
    loop = run.config.loop
    found = {"training": step.training.flops / (step.at_once * step.passes) * run.clips}
    if run.data.clips == "stream":
        found |= {"encoding": step.encoding.flops * run.clips, "reading": step.reading.flops * run.clips}
    tests = math.ceil(loop.steps / loop.evaluate_every) * math.ceil(HELD_OUT_ROWS / run.devices.count)
    found["evaluating"] = step.heldout.flops / step.tested * tests / loop.steps
    return {key: value for key, value in found.items() if value}


def largest_shape(data: DataConfig, parts: Parts, *, pictures: bool) -> Shape:
    """Of the clips that a stage trains on, the one with the most pixels."""
    own = [parts.geometry.height, parts.geometry.width]
    shapes = data.shapes if data.clips != "memory" else []
    height, width = max(shapes or [own], key=lambda one: one[0] * one[1])
    return (1 if pictures else parts.geometry.num_frames), height, width
