"""What a run may be told: frozen dataclasses, one a section of the YAML.  ``rlnsp.config`` reads them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from rlnsp.limits import Limits


class ConfigError(ValueError):
    """The user's input is wrong.  One line: where, what was given, what is allowed, what to do."""


def require(condition: bool, message: str) -> None:
    """Raise ``ConfigError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A plug-in and its settings."""

    use: str
    """An installed name, 'package.module:attribute', or 'path/to/file.py:attribute'."""
    config: dict[str, Any] = field(default_factory=dict)
    """The plug-in's own settings, checked against its ``Config``."""


@dataclass(frozen=True, kw_only=True)
class RewardSlot:
    """A reward, its settings, and what the run makes of its scores."""

    use: str
    """As ``Slot.use``."""
    config: dict[str, Any] = field(default_factory=dict)
    """As ``Slot.config``."""
    weight: float = 1.0
    """Multiplies the score.  0: logged, not optimised.  Negative: the opposite is optimised."""
    on_failure: Literal["raise", "drop"] = "raise"
    """Of a sample that could not be scored: stop, or leave it out of its group."""
    concurrency: int = 1
    """Calls at once.  1: a call has all groups that are ready.  More: each group is a call, and a plain
    function must be safe in as many threads."""
    timeout_s: float | None = None
    """Of a call; one that takes longer has failed.  None: it may take for ever."""
    retries: int = 0
    """How often a call that failed is made again."""
    retry_wait_s: float = 1.0
    """The wait before a retry is drawn between 0 and this, doubled each time; at most a minute."""

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0), ("retry_wait_s", 0)):
            value = getattr(self, name)
            require(value >= least, f"a reward's {name} must be at least {least}; got {value}")
        require(
            self.timeout_s is None or self.timeout_s > 0,
            f"a reward's timeout_s must be positive, or null for none; got {self.timeout_s}",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where scenes come from: 'world' (the embedded world, made on the fly) or a manifest's path."""

    train: str = "world"
    heldout: str = "world"
    limits: Limits = field(default_factory=Limits)
    """On the videos of a manifest."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Which steps are stochastic and trained; in an iteration the same ones for every sample."""

    kind: Literal["fixed", "random", "branch", "sliding"] = "fixed"
    """``fixed``: ``start`` to ``start + size - 1``.  The others lie between ``start`` and ``end``;
    ``random``: ``size`` steps drawn anew each iteration; ``branch``: ``size`` in a row, from a step drawn
    anew; ``sliding``: ``size`` in a row, which move towards ``end`` and then begin again."""
    start: int = 0
    size: int = 3
    end: int | None = None
    """The first step that is never trained; None: as late as the rule allows."""
    stride: int = 1
    """Steps that a sliding window moves by,"""
    shift_every: int = 25
    """after so many iterations (MixGRPO, arXiv:2507.21802)."""

    def __post_init__(self) -> None:
        require(self.start >= 0, f"sampler.window.start must be 0 or more; got {self.start}")
        require(
            self.size >= 1, f"sampler.window.size must be at least 1, a step to train on; got {self.size}"
        )
        for name in ("stride", "shift_every"):
            value = getattr(self, name)
            require(value >= 1, f"sampler.window.{name} must be at least 1; got {value}")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How rollouts denoise."""

    num_steps: int = 8
    rule: Literal["ode", "flow_sde", "dance_sde", "cps"] = "cps"
    """The step rule inside the window; outside it, and in evaluation, steps are deterministic (ode)."""
    noise_level: float = 0.7
    """In the rule's own unit: the scale of the noise added a step.  0 is the ode."""
    std_cap: float | None = None
    """The largest standard deviation of a step."""
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1 is none, and costs one model call a step instead of two."""
    train_guidance_scale: float | None = None
    """The guidance with which recorded steps are replayed; None: as sampled."""
    same_noise: bool = True
    """A group starts from one initial noise, so that its samples differ by the steps that are trained."""
    window: WindowConfig = field(default_factory=WindowConfig)

    def __post_init__(self) -> None:
        steps, window = self.num_steps, self.window
        require(steps >= 2, f"sampler.num_steps must be at least 2, one of them to train on; got {steps}")
        require(self.noise_level >= 0, f"sampler.noise_level must be 0 or more; got {self.noise_level}")
        require(
            self.rule != "cps" or self.noise_level <= 1,
            f"sampler.noise_level must be at most 1 with rule cps (1 is all noise); got {self.noise_level}",
        )
        require(
            self.std_cap is None or self.std_cap > 0,
            f"sampler.std_cap must be positive, or null for none; got {self.std_cap}",
        )
        for name in ("guidance_scale", "train_guidance_scale"):
            scale = getattr(self, name)
            require(scale is None or scale >= 0, f"sampler.{name} must be 0 or more; got {scale}")
        # The last step ends at sigma 0, where a density of positive width would mean a noisy picture.
        latest = steps - (self.rule != "ode")
        require(
            window.end is None or window.end <= latest,
            f"sampler.window.end is {window.end}, but of {steps} steps (0 to {steps - 1}) the last that "
            f"{self.rule} may train is {latest - 1}: lower it, or raise num_steps",
        )
        end = window.start + window.size
        require(
            end <= self.window_end,
            f"sampler.window covers steps {window.start} to {end - 1}, but of {steps} steps "
            f"(0 to {steps - 1}) the last that {self.rule} may train is {self.window_end - 1}: "
            "lower window.start or window.size, or raise num_steps",
        )

    @property
    def window_end(self) -> int:
        """The first step that is never trained."""
        return self.num_steps - (self.rule != "ode") if self.window.end is None else self.window.end


def require_stochastic(algorithm: str, sampler: SamplerConfig) -> None:
    """Raise ConfigError if steps have no density, which ``algorithm`` needs."""
    require(
        sampler.rule != "ode" and sampler.noise_level > 0,
        f"{algorithm} trains stochastic steps: sampler.rule must not be ode, nor sampler.noise_level 0; "
        f"got {sampler.rule} and {sampler.noise_level}. Choose cps, flow_sde or dance_sde",
    )


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The loop and its optimiser."""

    num_iterations: int = 100
    scenes_per_iteration: int = 8
    """Global: over all devices."""
    group_size: int = 12
    """Samples of one scene; the group is the baseline."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """``adamw_8bit``: with two bytes of state a trained parameter, not eight; by bitsandbytes."""
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    micro_batch_size: int = 96
    """Transitions per device and backward pass; changes memory and speed, not the result."""
    rollout_batch_size: int | None = None
    """Samples denoised and decoded together; None: as micro_batch_size.  When it is smaller than an
    iteration, finished groups are judged while the next are sampled."""
    updates_per_rollout: int = 1
    """Passes over an iteration's transitions."""
    minibatches: int = 1
    """Optimiser steps of a pass, each on as many of the iteration's groups."""
    ema_decay: float | None = None
    """Of the trained weights, per iteration; None: no average is kept."""
    save_every: int = 50
    """Iterations between checkpoints; 0: only the last."""
    keep_last: int = 2
    """The newest checkpoints stay,"""
    keep_best: int = 0
    """and so many of those that held-out evaluations found best; a checkpoint is saved at each of them."""
    precision: Literal["fp32", "bf16"] = "fp32"
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = field(
        default_factory=lambda: ["tensorboard"]
    )
    """Where metrics go live, beside ``metrics.jsonl``; each by its own package, which must be installed."""
    report: bool = True
    """Write ``report.html`` at the end."""
    max_drop_share: float = 0.5
    """The share of an iteration's samples that may go unscored before the run stops."""
    context_parallel: int = 1
    """Of several processes: so many in a row make the same clips, each computing some of their tokens."""
    compare_ranks: int = 10
    """Of several processes: the first iterations that they do, after each of which their weights are
    compared."""
    rank_timeout_s: float = 1800.0
    """Of several processes: how long one waits for another, whose reward may be slow, before it gives up."""

    def __post_init__(self) -> None:
        require(
            self.group_size >= 2,
            f"trainer.group_size must be at least 2 to give a baseline; got {self.group_size}",
        )
        at_least_one = (
            "scenes_per_iteration",
            "micro_batch_size",
            "updates_per_rollout",
            "minibatches",
            "keep_last",
            "context_parallel",
        )
        for name in at_least_one:
            value = getattr(self, name)
            require(value >= 1, f"trainer.{name} must be at least 1; got {value}")
        require(
            self.minibatches <= self.scenes_per_iteration,
            "trainer.minibatches must be at most scenes_per_iteration, since a group is never split; got "
            f"{self.minibatches} for {self.scenes_per_iteration}",
        )
        require(
            self.rollout_batch_size is None or self.rollout_batch_size >= 1,
            "trainer.rollout_batch_size must be at least 1, or null for micro_batch_size; got "
            f"{self.rollout_batch_size}",
        )
        for name in ("num_iterations", "save_every", "keep_best", "weight_decay", "compare_ranks"):
            value = getattr(self, name)
            require(value >= 0, f"trainer.{name} must be 0 or more; got {value}")
        for name in ("learning_rate", "max_grad_norm", "rank_timeout_s"):
            value = getattr(self, name)
            require(value > 0, f"trainer.{name} must be positive; got {value}")
        require(
            all(0 <= beta < 1 for beta in self.betas), f"trainer.betas must be in [0, 1); got {self.betas}"
        )
        require(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            f"trainer.ema_decay must be between 0 and 1, or null for none; got {self.ema_decay}",
        )
        require(
            0 <= self.max_drop_share < 1,
            f"trainer.max_drop_share must be in [0, 1); got {self.max_drop_share}",
        )


@dataclass(frozen=True, kw_only=True)
class DataLossConfig:
    """The data's own diffusion loss, beside the algorithm's (DDRL, arXiv:2512.04332)."""

    coefficient: float = 0.0
    """0: none is added.  Held-out it is measured all the same, where there are true clips."""
    batch_size: int = 32
    """True clips an optimiser step."""
    alarm: float = 0.1
    """A held-out loss that has risen by more than this share is reported: the reward may be being hacked."""

    def __post_init__(self) -> None:
        for name in ("coefficient", "alarm"):
            value = getattr(self, name)
            require(value >= 0, f"data_loss.{name} must be 0 or more; got {value}")
        require(self.batch_size >= 1, f"data_loss.batch_size must be at least 1; got {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the policy is measured on held-out scenes, with the deterministic sampler."""

    every: int = 0
    """Iterations between evaluations; 0: only before the first and after the last."""
    num_scenes: int = 256
    seed: int = 0
    num_seeds: int = 1
    """Each scene is generated once a seed: seed, seed + 1, ..."""
    num_steps: int | None = None
    """None: as ``sampler.num_steps``."""
    guidance_scale: float | None = None
    """None: as ``sampler.guidance_scale``."""
    bootstrap: int = 2000
    """Resamples of the confidence interval."""
    keep_clips: int = 24
    """Scenes whose clips each evaluation writes, for the report: the first, whatever became of them.  They
    are in memory at once."""

    def __post_init__(self) -> None:
        for name in ("every", "keep_clips"):
            value = getattr(self, name)
            require(value >= 0, f"evaluation.{name} must be 0 or more; got {value}")
        for name in ("num_scenes", "num_seeds", "bootstrap"):
            value = getattr(self, name)
            require(value >= 1, f"evaluation.{name} must be at least 1; got {value}")
        require(
            self.num_steps is None or self.num_steps >= 1,
            f"evaluation.num_steps must be at least 1, or null for the sampler's; got {self.num_steps}",
        )
        require(
            self.guidance_scale is None or self.guidance_scale >= 0,
            f"evaluation.guidance_scale must be 0 or more, or null; got {self.guidance_scale}",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run of stage 3."""

    policy: Slot
    rewards: dict[str, RewardSlot]
    algorithm: Slot
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    data_loss: DataLossConfig = field(default_factory=DataLossConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed must be 0 or more; got {self.seed}")
        require(
            not self.trainer.keep_best or self.evaluation.every > 0,
            f"trainer.keep_best is {self.trainer.keep_best}, but evaluation.every is 0, so that nothing says "
            "which checkpoint is best; set evaluation.every, or trainer.keep_best=0",
        )
        require(
            any(slot.weight for slot in self.rewards.values()),
            "rewards must hold at least one of a weight other than 0, such as "
            f"rewards.nsp_reward.use=nsp_reward; got {', '.join(self.rewards) or 'none'}",
        )
