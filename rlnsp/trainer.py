"""The loop of stage 3: roll out, score, credit, optimise."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from rlnsp import checkpoint, evaluations, plugins, trackers
from rlnsp.atomic import WriteFailed, writing
from rlnsp.checkpoint import Trained
from rlnsp.config import plugin_settings, to_yaml
from rlnsp.data import SceneOrder, heldout_scenes, train_scenes
from rlnsp.data_loss import DataLoss
from rlnsp.ema import EMA
from rlnsp.evaluate import Evaluation, evaluate
from rlnsp.evaluations import KeptEvaluation
from rlnsp.interruption import Interrupted, Interruption
from rlnsp.iteration_metrics import Clock, reward_metrics
from rlnsp.opening import open_policy
from rlnsp.optimisation import Optimisation, TrainingFailed, make_optimizer
from rlnsp.precision import in_precision
from rlnsp.progress import Display, Line, before_after_table
from rlnsp.protocols import Algorithm, EncodesVideo, Policy, SamplesWithAverage, Stateful, Stats
from rlnsp.randomness import Randomness
from rlnsp.remarks import alarms, beginning, unscored
from rlnsp.resuming import Start, find_start
from rlnsp.rollout import rollout
from rlnsp.rundir import RunFolder
from rlnsp.scoring import BuiltReward, Judging, RewardFailed, build_rewards, check_scenes, keep_records
from rlnsp.settings import ConfigError, RunConfig
from rlnsp.summary import summarise
from rlnsp.trackers import NUM_CLIPS, Clip
from rlnsp.types import Batch, Scene, Scores, Trajectory


def train(config: RunConfig, output: Path, resume: bool = False) -> int:
    """Run stage 3 and leave a run folder.

    Everything that can be wrong with the input is found before the folder is made.

    Args:
        config: checked already.
        output: the run folder; new or empty, unless ``resume``.
        resume: go on from its newest intact checkpoint, with settings that differ in nothing that matters.

    Returns:
        The exit code: 0 done, 1 failed, 130 interrupted, 143 terminated; saved in the last two cases.

    Raises:
        ConfigError: the input is wrong, or another process works in the folder; nothing was written.
    """
    torch.set_flush_denormal(True)  # numbers next to zero, which adapters start with, are slow on a CPU
    folder = RunFolder(output)
    if resume:
        folder.check_used()
        with folder.locked():
            start = find_start(output, config)
            run = _prepare(config, folder)
            keep_records(run.rewards, output / "rewards")
            return run.run(start)
    folder.check_unused()
    run = _prepare(config, folder)
    with folder.locked():
        folder.check_unused()  # while the policy was loaded another may have come
        keep_records(run.rewards, output / "rewards")
        return run.run()


def _prepare(config: RunConfig, folder: RunFolder) -> "Run":
    policy: Policy = open_policy(config.policy)
    algorithm_class = plugins.find("algorithms", config.algorithm.use)
    algorithm = algorithm_class(plugin_settings("algorithms", config.algorithm, "algorithm"), config.sampler)
    return Run(config, folder, policy, algorithm, build_rewards(config.rewards))


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
        trackers.check(trainer.trackers)
        self.trackers: list[GeneralTracker] = []
        self.accelerator = Accelerator(cpu=next(iter(trained.values())).device.type == "cpu")
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

    def run(self, start: Start | None = None) -> int:
        """Everything, with the exit code; from a checkpoint, where ``start`` has one."""
        if start and start.checkpoint:
            self.finished, self.record = checkpoint.load(start.checkpoint, self.trained)
            if isinstance(self.algorithm, Stateful) and "algorithm" in self.record:
                self.algorithm.load_state(self.record["algorithm"])
        self.started = time.monotonic() - self.record["wall_s"]
        self.display = Display(self.config.trainer.num_iterations, self.finished)
        for note in start.notes if start else []:
            self.display.say(note)
        try:
            with self.interruption:
                code = self._run()
            self._report()
        except WriteFailed as error:
            with suppress(WriteFailed):  # what there is no room for
                self._summarise("failed", error=str(error))
            sys.stderr.write(f"rlnsp: error: {error}, then go on by: {self._how_to_resume}\n")
            return 1
        finally:
            for tracker in self.trackers:
                with suppress(OSError):
                    tracker.finish()
        return code

    @property
    def _how_to_resume(self) -> str:
        return f"rlnsp train --resume {self.folder.path}"

    def _run(self) -> int:
        self.folder.open(self.config, self.finished)
        with writing(self.folder.path):
            self.trackers = trackers.start(self.config.trainer.trackers, self.folder.path, self.finished)
        for kept in evaluations.read(self.folder.path)[-1:]:
            self.display.know(kept.evaluation, self.metric)
        try:
            with self.display:
                self._loop()
        except Interrupted as stop:
            with self.interruption.ignored():
                self._save()
                self._summarise("interrupted")
                self.display.say(f"interrupted and saved; go on by: {self._how_to_resume}")
            return stop.exit_code
        except (RewardFailed, TrainingFailed) as error:
            with self.interruption.ignored():
                if isinstance(error, RewardFailed) and self.finished:
                    self._save()  # the policy is sound: nothing of this iteration has reached it
                    self.display.say(f"saved; once it is repaired go on by: {self._how_to_resume}")
                self._summarise("failed", error=str(error))
            sys.stderr.write(f"rlnsp: error: {error}\n")
            return 1
        except WriteFailed:
            raise
        except Exception as error:
            self._summarise("failed", error=f"{type(error).__name__}: {error}")
            raise
        return 0

    def _report(self) -> None:
        if self.config.trainer.report:
            from rlnsp.report import write_report  # brings matplotlib, which a run needs only now

            path = write_report([self.folder.path], self.folder.path / "report.html")
            self.display.say(f"report: {path}")

    def _loop(self) -> None:
        trainer, every = self.config.trainer, self.config.evaluation.every
        num_heldout, on_policy = len(self.heldout), self.old is None
        for remark in beginning(self.config, self.policy, num_heldout, self.folder.path, on_policy):
            self.display.say(remark)
        if "before" not in self.record:
            self.record["before"] = self._evaluated("before").to_json()
        while self.finished < trainer.num_iterations:
            if every and self.finished and self.finished % every == 0:
                self._evaluated(f"step-{self.finished}")
            self.iterate(self.finished, then=self._count)
        self._finish()

    def iterate(self, iteration: int, then: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """The four verbs, once; nothing is written.

        Args:
            iteration: decides on scenes and randomness.
            then: gets the result too, before a signal may stop the run: what has changed is then counted.

        Returns:
            The line of ``metrics.jsonl``.
        """
        clock = Clock()
        scenes = self.scenes(iteration)
        randomness = Randomness(
            seed=self.config.seed, rank=self.accelerator.process_index, iteration=iteration
        )
        trajectory, scores = self._sample(scenes, randomness, clock)
        batch, credit_stats = self.algorithm.credit(trajectory, scores)
        with self.interruption.held():  # all that an iteration changes, changes whole
            metrics = {**reward_metrics(scores, trajectory.group), **credit_stats}
            metrics |= self._learn(batch, scenes, randomness)
            clock.lap("optimise")
            counts = {"samples": len(trajectory.samples), "transitions": len(batch)}
            metrics |= {**counts, "seconds": clock.seconds}
            if then:
                then(metrics)
        return metrics

    def _count(self, metrics: dict[str, Any]) -> None:
        self.finished += 1
        if isinstance(self.algorithm, Stateful):
            # As of here: an iteration that is cut short will be done again.
            self.record["algorithm"] = self.algorithm.state()
        self._log(metrics)
        every = self.config.trainer.save_every
        if every and self.finished % every == 0:
            self._save()

    def _sample(self, scenes: list[Scene], randomness: Randomness, clock: Clock) -> tuple[Trajectory, Scores]:
        trainer = self.config.trainer
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
        for remark in unscored(scores):
            self.display.say(remark)
        return trajectory, scores

    def _learn(self, batch: Batch, scenes: list[Scene], randomness: Randomness) -> Stats:
        prove = not self.proved and len(batch) > 0
        stats = self.optimise(batch, scenes, prove=prove, data_gradient=self._data_gradient(randomness))
        if self.ema:
            self.ema.update()
        if isinstance(self.algorithm, SamplesWithAverage) and self.old:
            self.old.update(self.algorithm.decay(randomness.iteration))
        self.proved = self.proved or prove
        return stats

    def _evaluated(self, when: str) -> Evaluation:
        """The evaluation of now: a run that was stopped after it has it already."""
        if self.config.trainer.keep_best and self.finished:
            with self.interruption.held():
                self._save()
        found = evaluations.find(self.folder.path, when, self.finished)
        evaluation = found or self._evaluate(when)
        self._prune()
        return evaluation

    def _evaluate(self, when: str) -> Evaluation:
        with self.trained.shipped():
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
            means = {f"heldout/{name}": evaluation.interval(name).mean for name in evaluation.scores}
            self._write({"iteration": self.finished, **means})
            # The file last: it says that the evaluation is whole.
            kept = evaluations.write(self.folder.path, when, self.finished, self.heldout, evaluation)
            self._show(kept, evaluation)
            self.display.evaluated(when, evaluation, self.metric)
            before = self.record.get("before")
            for remark in alarms(evaluation, before, self.config.data_loss.alarm):
                self.display.say(remark)
        return evaluation

    def _show(self, kept: KeptEvaluation, evaluation: Evaluation) -> None:
        clips = {
            f"clips/{shown.scene_id}": Clip(
                file=self.folder.path / shown.file, frames=sample.frames, fps=sample.fps
            )
            for shown, sample in zip(kept.clips[:NUM_CLIPS], evaluation.samples, strict=False)
        }
        with writing(self.folder.path):
            for tracker in self.trackers if clips else []:
                trackers.show(tracker, clips, self.finished)

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
        after = self._evaluated("after")
        with self.interruption.held():
            self._summarise("done", after)
        before = Evaluation(**self.record["before"])
        self.display.console.print(before_after_table(before, after, list(after.scores)))
        for kept in self._best():
            place = self.folder.checkpoints / f"step-{kept.iteration}"
            self.display.say(f"best on {self.metric} after {kept.iteration} iterations: {place}")
        self.display.say(f"run folder: {self.folder.path}")

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
        with writing(self.folder.path):
            for tracker in self.trackers:
                tracker.log(numbers, step=self.finished)

    def _save(self) -> None:
        self.record["wall_s"] = time.monotonic() - self.started
        checkpoint.save(
            self.folder.checkpoints, self.finished, self.trained, self.record, to_yaml(self.config)
        )
        self._prune()
        with self.trained.shipped():
            self.folder.write_folder("adapter", self.policy.save_adapter)

    def _prune(self) -> None:
        """Keep the last checkpoints, and those of the best evaluations where that is asked for."""
        best = [kept.iteration for kept in self._best()]
        checkpoint.prune(self.folder.checkpoints, self.finished, self.config.trainer.keep_last, best)

    def _best(self) -> list[KeptEvaluation]:
        lowest = self.config.rewards[self.metric].weight < 0
        keep = self.config.trainer.keep_best
        return evaluations.best(self.folder.path, self.metric, lowest=lowest)[:keep] if keep else []

    def _summarise(self, status: str, after: Evaluation | None = None, error: str | None = None) -> None:
        self.record["wall_s"] = time.monotonic() - self.started
        self.folder.write_summary(summarise(status, self.finished, self.record, self.metric, after, error))
