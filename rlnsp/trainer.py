"""The loop of stage 3: roll out, score, credit, optimise."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlnsp import checkpoint, evaluations, plugins, trackers
from rlnsp.checkpoint import Trained
from rlnsp.config import plugin_settings
from rlnsp.data import SceneOrder, heldout_scenes, train_scenes
from rlnsp.data_loss import DataLoss
from rlnsp.ema import EMA
from rlnsp.evaluate import DATA_LOSS, Evaluation, evaluate
from rlnsp.interruption import Interrupted, Interruption
from rlnsp.maths.statistics import standard_error
from rlnsp.opening import open_policy
from rlnsp.optimisation import Optimisation, TrainingFailed, make_optimizer
from rlnsp.precision import in_precision
from rlnsp.progress import Display, Line, before_after_table
from rlnsp.protocols import Algorithm, EncodesVideo, Policy, SamplesWithAverage, Stateful, Stats
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.rundir import RunFolder
from rlnsp.scoring import BuiltReward, Judging, RewardFailed, build_rewards, check_scenes, keep_records
from rlnsp.settings import ConfigError, RunConfig
from rlnsp.summary import summarise
from rlnsp.types import Scores


def train(config: RunConfig, output: Path, resume: bool = False) -> int:
    """Run stage 3 and leave a run folder.

    Everything that can be wrong with the input is found before the folder is made.

    Args:
        config: checked already.
        output: the run folder; new or empty, unless ``resume``.
        resume: go on from its newest intact checkpoint.

    Returns:
        The exit code: 0 done, 1 failed, 130 interrupted, 143 terminated; saved in the last two cases.

    Raises:
        ConfigError: the input is wrong; nothing was written.
    """
    torch.set_flush_denormal(True)  # numbers next to zero, which adapters start with, are slow on a CPU
    folder = RunFolder(output)
    if not resume:
        folder.check_unused()
    policy: Policy = open_policy(config.policy)
    algorithm_class = plugins.find("algorithms", config.algorithm.use)
    algorithm = algorithm_class(plugin_settings("algorithms", config.algorithm, "algorithm"), config.sampler)
    rewards = build_rewards(config.rewards)
    run = Run(config, folder, policy, algorithm, rewards)
    if resume:
        run.resume()
    keep_records(rewards, output / "rewards")
    return run.run()


class Run:
    """One run, from its first iteration or from a checkpoint."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        policy: Policy,
        algorithm: Algorithm,
        rewards: list[BuiltReward],
    ) -> None:
        self.config, self.folder, self.rewards = config, folder, rewards
        self.policy = in_precision(policy, config.trainer.precision)
        self.algorithm = algorithm
        pool = train_scenes(config.data, config.seed)
        self.scenes = SceneOrder(pool, config.trainer.scenes_per_iteration, config.seed)
        self.heldout = heldout_scenes(config.data, config.evaluation.num_scenes, config.evaluation.seed)
        check_scenes(rewards, [*pool, *self.heldout])
        trainer = config.trainer
        optimizer = make_optimizer(self.policy, trainer)
        trained = dict(self.policy.named_trainable())
        self.ema = EMA(trained, trainer.ema_decay) if trainer.ema_decay else None
        self.old = EMA(trained, decay=0.0) if isinstance(algorithm, SamplesWithAverage) else None
        self.optimise = Optimisation(
            policy=self.policy, algorithm=algorithm, optimizer=optimizer, config=trainer, old=self.old
        )
        self.data_loss = self._data_loss(policy)
        self.trained = Trained(policy=self.policy, optimizer=optimizer, ema=self.ema, old=self.old)
        self.accelerator = Accelerator(
            cpu=next(iter(trained.values())).device.type == "cpu",
            log_with=[*trackers.make(trainer.trackers, folder.path)] or None,
        )
        if self.accelerator.num_processes > 1:
            raise ConfigError(
                f"accelerate started {self.accelerator.num_processes} processes, but this version trains in "
                "one: start it by `rlnsp train` alone"
            )
        self.metric = next(reward.name for reward in rewards if reward.weight)
        self.finished = 0
        self.record: dict[str, Any] = {"wall_s": 0.0, "reward": {}}
        self.proved = False
        self.interruption = Interruption()

    def resume(self) -> None:
        """Take up the newest intact checkpoint.

        Raises:
            ConfigError: there is none.
        """
        newest = checkpoint.newest_intact(self.folder.checkpoints)
        if newest is None:
            raise ConfigError(
                f"--resume {self.folder.path}: has no intact checkpoint; start the run anew elsewhere"
            )
        self.finished, self.record = checkpoint.load(newest, self.trained)
        if isinstance(self.algorithm, Stateful) and "algorithm" in self.record:
            self.algorithm.load_state(self.record["algorithm"])

    def run(self) -> int:
        """Everything, with the exit code."""
        code = self._run()
        if self.config.trainer.report:
            from rlnsp.report import write_report  # brings matplotlib, which a run needs only now

            path = write_report([self.folder.path], self.folder.path / "report.html")
            self.display.say(f"report: {path}")
        return code

    def _run(self) -> int:
        self.started = time.monotonic() - self.record["wall_s"]
        self.folder.open(self.config, self.finished)
        evaluations.forget_after(self.folder.path, self.finished)
        self.accelerator.init_trackers(trackers.PROJECT)
        self.display = Display(self.config.trainer.num_iterations, self.finished)
        try:
            with self.interruption, self.display:
                self._loop()
        except Interrupted as stop:
            self._save()
            self._summarise("interrupted")
            self.display.say(f"interrupted and saved; go on by: rlnsp train --resume {self.folder.path}")
            return stop.exit_code
        except (RewardFailed, TrainingFailed) as error:
            if isinstance(error, RewardFailed) and self.finished:
                self._save()  # the policy is sound: nothing of this iteration has reached it
                self.display.say(
                    f"saved; once it is repaired go on by: rlnsp train --resume {self.folder.path}"
                )
            self._summarise("failed", error=str(error))
            sys.stderr.write(f"rlnsp: error: {error}\n")
            return 1
        except Exception as error:
            self._summarise("failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            self.accelerator.end_training()
        return 0

    def _loop(self) -> None:
        trainer, every = self.config.trainer, self.config.evaluation.every
        self._say_start()
        if "before" not in self.record:
            self._evaluate("before")
        while self.finished < trainer.num_iterations:
            metrics = self._iterate(self.finished)
            with self.interruption.held():
                self.finished += 1
                if isinstance(self.algorithm, Stateful):
                    # As of here: an iteration that is cut short will be done again.
                    self.record["algorithm"] = self.algorithm.state()
                self._log(metrics)
                if trainer.save_every and self.finished % trainer.save_every == 0:
                    self._save()
            if every and self.finished % every == 0 and self.finished < trainer.num_iterations:
                self._evaluate(f"step-{self.finished}")
        self._finish()

    def _iterate(self, iteration: int) -> dict[str, Any]:
        trainer = self.config.trainer
        clock = _Clock()
        scenes = self.scenes(iteration)
        randomness = Randomness(
            seed=self.config.seed, rank=self.accelerator.process_index, iteration=iteration
        )
        judging = Judging(self.rewards)
        with self.old.applied() if self.old else nullcontext():
            trajectory = rollout(
                self.policy,
                scenes,
                self.config.sampler,
                trainer.group_size,
                randomness,
                chunk_size=trainer.rollout_batch_size or trainer.micro_batch_size,
                decode=judging.needs("frames"),
                finished=judging.take,
            )
        clock.lap("rollout")
        scores = judging.scores(trainer.max_drop_share)
        clock.lap("score")
        self._say_unscored(scores)
        batch, credit_stats = self.algorithm.credit(trajectory, scores)
        prove = not self.proved and len(batch) > 0
        with self.interruption.held():
            loss_stats = self.optimise(
                batch, scenes, prove=prove, data_gradient=self._data_gradient(randomness)
            )
            if self.ema:
                self.ema.update()
            if isinstance(self.algorithm, SamplesWithAverage) and self.old:
                self.old.update(self.algorithm.decay(iteration))
            self.proved = self.proved or prove
            clock.lap("optimise")
        counts = {"samples": len(trajectory.samples), "transitions": len(batch)}
        return {
            **_reward_metrics(scores, trajectory.group),
            **credit_stats,
            **loss_stats,
            **counts,
            "seconds": clock.seconds,
        }

    def _evaluate(self, when: str) -> Evaluation:
        with self._weights():
            evaluation = evaluate(
                self.policy,
                self.heldout,
                self.rewards,
                self.config.sampler,
                self.config.evaluation,
                chunk_size=self.config.trainer.micro_batch_size,
                weights="ema" if self.ema else "live",
                keep=self.config.evaluation.keep_clips,
                data_loss=self.data_loss,
            )
        with self.interruption.held():
            if when == "before":
                self.record["before"] = evaluation.to_json()
            means = {f"heldout/{name}": evaluation.interval(name).mean for name in evaluation.scores}
            self._write({"iteration": self.finished, **means})
            evaluations.write(self.folder.path, when, self.finished, self.heldout, evaluation)
            self.display.evaluated(when, evaluation, self.metric)
            self._alarm(evaluation)
        return evaluation

    def _alarm(self, evaluation: Evaluation) -> None:
        """Say so where the policy has left the data."""
        if DATA_LOSS not in evaluation.scores:
            return
        before = Evaluation(**self.record["before"]).interval(DATA_LOSS).mean
        risen = evaluation.interval(DATA_LOSS).mean / before - 1
        if risen > self.config.data_loss.alarm:
            self.display.say(
                f"alarm: the held-out diffusion loss is {risen:.0%} above that before RL: the policy leaves "
                "the data, as it does when it hacks a reward. Look at the clips; train less, lower the "
                "learning rate, or raise data_loss.coefficient"
            )

    def _data_loss(self, policy: Policy) -> DataLoss | None:
        """The data's own loss, where the policy can read clips."""
        config = self.config.data_loss
        if isinstance(policy, EncodesVideo):
            num_steps = self.config.sampler.num_steps
            loss = DataLoss(policy=self.policy, encoder=policy, config=config, num_steps=num_steps)
            if config.coefficient:
                loss.check(self.scenes.scenes)
            return loss
        if config.coefficient:
            raise ConfigError(
                f"data_loss.coefficient is {config.coefficient:g}, but the policy {self.config.policy.use!r} "
                "cannot read clips: give it encode_video, or set data_loss.coefficient=0"
            )
        return None

    def _data_gradient(self, randomness: Randomness) -> Callable[[], Stats] | None:
        if self.data_loss is None or not self.config.data_loss.coefficient:
            return None
        loss, scenes = self.data_loss, self.scenes.scenes
        return lambda: loss.add_gradient(scenes, randomness, self.config.trainer.micro_batch_size)

    def _finish(self) -> None:
        with self.interruption.held():
            self._save()
        after = self._evaluate("after")
        with self.interruption.held():
            self._summarise("done", after)
        before = Evaluation(**self.record["before"])
        self.display.console.print(before_after_table(before, after, list(after.scores)))
        self.display.say(f"run folder: {self.folder.path}")

    def _say_unscored(self, scores: Scores) -> None:
        """Once an iteration for each reward that had an error."""
        for name, error in scores.errors.items():
            missing = scores.raw[name].isnan()
            self.display.say(
                f"{name} could not score {int(missing.sum())} of {len(missing)} samples: {error}"
            )

    def _weights(self) -> AbstractContextManager[None]:
        """What is evaluated is what ships: the average, where one is kept."""
        return self.ema.applied() if self.ema else nullcontext()

    def _log(self, metrics: Mapping[str, Any]) -> None:
        rewards = self.record["reward"]
        rewards.setdefault("first", metrics["reward"])
        rewards["last"] = metrics["reward"]
        self._write({"iteration": self.finished, **metrics})
        self.display.iterated(
            Line(
                finished=self.finished,
                reward=metrics["reward"],
                zero_variance=metrics.get("zero_variance_groups"),
                seconds=sum(metrics["seconds"].values()),
                samples=metrics["samples"],
            )
        )

    def _write(self, metrics: Mapping[str, Any]) -> None:
        self.folder.log(metrics)
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=self.finished)

    def _save(self) -> None:
        self.record["wall_s"] = time.monotonic() - self.started
        keep = self.config.trainer.keep_last
        checkpoint.save(self.folder.checkpoints, self.finished, self.trained, self.record, keep)
        with self._weights():
            self.folder.write_folder("adapter", self.policy.save_adapter)

    def _summarise(self, status: str, after: Evaluation | None = None, error: str | None = None) -> None:
        self.record["wall_s"] = time.monotonic() - self.started
        self.folder.write_summary(summarise(status, self.finished, self.record, self.metric, after, error))

    def _say_start(self) -> None:
        trainer, count = self.config.trainer, sum(p.numel() for _, p in self.policy.named_trainable())
        self.display.say(
            f"{count:,} trained parameters in {trainer.precision}; an iteration is "
            f"{trainer.scenes_per_iteration} scenes x {trainer.group_size} samples; "
            f"held out: {len(self.heldout)} scenes; run folder: {self.folder.path}"
        )
        if trainer.updates_per_rollout * trainer.minibatches == 1 and self.old is None:
            self.display.say(
                "one update a rollout: the ratio is 1 throughout and the clip cannot act, as it should be"
            )


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase], self._last = round(now - self._last, 4), now


def _reward_metrics(scores: Scores, group: Tensor) -> dict[str, Any]:
    """Each reward's mean as it came, and the weighted sum that is optimised, with its error over scenes."""
    means = {name: float(values.nanmean()) for name, values in scores.raw.items()}
    spreads = {
        name: float((values - means[name]).square().nanmean().sqrt()) for name, values in scores.raw.items()
    }
    optimised = [name for name, weight in scores.weights.items() if weight]
    total = sum(scores.weights[name] * means[name] for name in optimised)
    each = torch.stack([scores.weights[name] * scores.raw[name] for name in optimised]).sum(0)
    return {
        "reward": total,
        "reward_error": standard_error(each, group),
        **{f"reward/{name}": mean for name, mean in means.items()},
        **{f"reward_std/{name}": spread for name, spread in spreads.items()},
        **{f"reward_seconds/{name}": round(value, 4) for name, value in scores.seconds.items()},
        **{f"unscored/{name}": float(values.isnan().float().mean()) for name, values in scores.raw.items()},
        "dropped": 1 - float(scores.scored.float().mean()),
    }
