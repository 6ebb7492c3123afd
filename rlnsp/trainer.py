"""The loop of stage 3: roll out, score, credit, optimise."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from rlnsp import checkpoint, distributed, evaluations, plugins, trackers
from rlnsp.atomic import WriteFailed
from rlnsp.checkpoint import Trained
from rlnsp.config import plugin_settings, to_yaml
from rlnsp.data import SceneOrder, heldout_scenes, train_scenes
from rlnsp.data_loss import data_loss_of
from rlnsp.distributed import RankEnded, Ranks
from rlnsp.ema import EMA
from rlnsp.evaluate import Evaluation, evaluate
from rlnsp.interruption import Interrupted, Interruption
from rlnsp.iteration_metrics import Clock, reward_metrics
from rlnsp.journal import Journal
from rlnsp.opening import check_can_make, open_policy
from rlnsp.optimisation import Optimisation, TrainingFailed, compare, make_optimizer
from rlnsp.precision import in_precision
from rlnsp.protocols import Algorithm, Policy, SamplesWithAverage, Stateful, Stats
from rlnsp.randomness import Randomness
from rlnsp.remarks import beginning, unscored
from rlnsp.resuming import Start, find_start
from rlnsp.rollout import rollout
from rlnsp.rundir import RunFolder
from rlnsp.scoring import BuiltReward, Judging, RewardFailed, build_rewards, check_scenes, keep_records
from rlnsp.settings import RunConfig
from rlnsp.types import Batch, Scene, Scores, Trajectory
from rlnsp.zero import Zero
from rlnsp.zero_optimizer import ZeroOptimizer


def train(config: RunConfig, output: Path, resume: bool = False) -> int:
    """Run stage 3 and leave a run folder.

    Everything that can be wrong with the input is found before the folder is made.  Where a launcher started
    several processes, all call it alike: one run comes of it, which the first of them writes.

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
    return distributed.together(
        lambda ranks: _train(config, RunFolder(Path(ranks.of_main(str(output)))), ranks, resume),
        config.trainer.rank_timeout_s,
        config.trainer.context_parallel,
    )


def _train(config: RunConfig, folder: RunFolder, ranks: Ranks, resume: bool) -> int:
    if resume:
        folder.check_used()
        with folder.locked() if ranks.main else nullcontext():
            start = find_start(folder.path, config)
            run = _prepare(config, folder, ranks)
            keep_records(run.rewards, folder.path / "rewards")
            return run.run(start)
    if ranks.main:
        folder.check_unused()
    run = _prepare(config, folder, ranks)
    with folder.locked() if ranks.main else nullcontext():
        if ranks.main:
            folder.check_unused()  # while the policy was loaded another may have come
        ranks.exchange(None)  # from here on files are written
        keep_records(run.rewards, folder.path / "rewards")
        return run.run()


def _prepare(config: RunConfig, folder: RunFolder, ranks: Ranks) -> "Run":
    policy: Policy = open_policy(config.policy)
    algorithm_class = plugins.find("algorithms", config.algorithm.use)
    algorithm = algorithm_class(plugin_settings("algorithms", config.algorithm, "algorithm"), config.sampler)
    return Run(config, folder, policy, algorithm, build_rewards(config.rewards), ranks)


class Run:
    """One run, from its first iteration or from a checkpoint; of several processes one's part in it."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        policy: Policy,
        algorithm: Algorithm,
        rewards: list[BuiltReward],
        ranks: Ranks | None = None,
    ) -> None:
        self.config, self.folder, self.rewards = config, folder, rewards
        self.ranks = ranks or Ranks()
        self.policy = in_precision(policy, config.trainer.precision)
        self.algorithm = algorithm
        pool = train_scenes(config.data, config.seed)
        self.scenes = SceneOrder(pool, config.trainer.scenes_per_iteration, config.seed)
        self.heldout = heldout_scenes(config.data, config.evaluation.num_scenes, config.evaluation.seed)
        check_scenes(rewards, [*pool, *self.heldout])
        check_can_make(policy, [*pool, *self.heldout])
        trainer = config.trainer
        self.ranks.check(trainer.scenes_per_iteration, len(self.heldout))
        trackers.check(trainer.trackers)
        self.ranks.shard(policy)
        optimizer = make_optimizer(self.policy, trainer)
        trained = dict(self.policy.named_trainable())
        self.ranks.spread(list(trained.values()))
        if isinstance(self.ranks.sharding, Zero):
            optimizer = ZeroOptimizer(optimizer, self.ranks)
        self.ema = EMA(trained, trainer.ema_decay) if trainer.ema_decay else None
        self.old = EMA(trained, decay=0.0) if isinstance(algorithm, SamplesWithAverage) else None
        self.optimise = Optimisation(
            policy=self.policy,
            algorithm=algorithm,
            optimizer=optimizer,
            config=trainer,
            old=self.old,
            ranks=self.ranks,
        )
        self.data_loss = data_loss_of(self.policy, policy, config, pool, self.ranks)
        self.trained = Trained(policy=self.policy, optimizer=optimizer, ema=self.ema, old=self.old)
        metric = next(reward.name for reward in rewards if reward.weight)
        self.journal = Journal(config, folder, metric, writes=self.ranks.main)
        self.finished = 0
        self.record: dict[str, Any] = {"wall_s": 0.0, "reward": {}}
        self.proved = False
        self.compared = 0
        self.interruption = Interruption()
        self.ranks.held = self.interruption.held
        self.clock: Callable[[], Clock] = Clock

    def run(self, start: Start | None = None) -> int:
        """Everything, with the exit code; from a checkpoint, where ``start`` has one."""
        if start and start.checkpoint:
            self.finished, self.record = checkpoint.load(start.checkpoint, self.trained)
            if isinstance(self.algorithm, Stateful) and "algorithm" in self.record:
                self.algorithm.load_state(self.record["algorithm"])
        self.started = time.monotonic() - self.record["wall_s"]
        self.journal.begin(self.finished)
        for note in start.notes if start else []:
            self.journal.say(note)
        try:
            with self.interruption:
                code = self._run()
            self.journal.report()
        except WriteFailed as error:
            with suppress(WriteFailed):  # what there is no room for
                self._summarise("failed", error=str(error))
            self.ranks.leave(error, exit_code=1)
            sys.stderr.write(f"rlnsp: error: {error}, then go on by: {self._how_to_resume}\n")
            return 1
        finally:
            self.journal.close()
        return code

    @property
    def _how_to_resume(self) -> str:
        return f"rlnsp train --resume {self.folder.path}"

    def _run(self) -> int:
        self.journal.open(self.finished)
        try:
            with self.journal.progress(), self.ranks.computing():
                self._loop()
        except (Interrupted, RankEnded, RewardFailed, TrainingFailed) as error:
            with self.interruption.ignored():
                return self._stopped(error)
        except WriteFailed:
            raise
        except Exception as error:
            self._summarise("failed", error=f"{type(error).__name__}: {error}")
            raise
        return 0

    def _stopped(self, error: Interrupted | RankEnded | RewardFailed | TrainingFailed) -> int:
        """Save what is sound, say why it ends; the exit code."""
        code = error.exit_code if isinstance(error, Interrupted | RankEnded) else 1
        if code > 128:
            self._save()
            self._summarise("interrupted")
            self.journal.say(f"interrupted and saved; go on by: {self._how_to_resume}")
            self.ranks.leave("interrupted", code)
            return code
        if self.finished and not isinstance(error, TrainingFailed):
            self._save()  # the policy is sound: nothing of this iteration has reached it
            self.journal.say(f"saved; once it is repaired go on by: {self._how_to_resume}")
        self._summarise("failed", error=str(error))
        self.ranks.leave(error, code)
        if self.ranks.main or self.ranks.sharded or (isinstance(error, RankEnded) and error.lost):
            sys.stderr.write(f"rlnsp: error: {error}\n")
        return code

    def _loop(self) -> None:
        trainer, every = self.config.trainer, self.config.evaluation.every
        num_heldout, on_policy = len(self.heldout), self.old is None
        for remark in beginning(
            self.config, self.policy, num_heldout, self.folder.path, on_policy, self.ranks
        ):
            self.journal.say(remark)
        compare(self.ranks, self.policy, "at the start")
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
        clock = self.clock()
        scenes = self.scenes(iteration)
        randomness = Randomness(seed=self.config.seed, iteration=iteration)
        trajectory, scores = self._sample(scenes, randomness, clock)
        batch, credit_stats = self._credit(trajectory, scores)
        transitions = sum(self.ranks.of_teams(len(batch)))
        with self.interruption.held():  # all that an iteration changes, changes whole
            metrics = {**reward_metrics(scores, trajectory.group), **credit_stats}
            with self.trained.whole_or_not() if self.ranks.count > 1 else nullcontext():
                metrics |= self._learn(batch, scenes, randomness, prove=not self.proved and transitions > 0)
            clock.lap("optimise")
            counts = {"samples": len(trajectory.samples), "transitions": transitions}
            metrics |= {**counts, "seconds": clock.seconds}
            if then:
                then(metrics)
        return metrics

    def _count(self, metrics: dict[str, Any]) -> None:
        self.finished += 1
        if isinstance(self.algorithm, Stateful):
            # As of here: an iteration that is cut short will be done again.
            self.record["algorithm"] = self.algorithm.state()
        rewards = self.record["reward"]
        rewards.setdefault("first", metrics["reward"])
        rewards["last"] = metrics["reward"]
        self.journal.iterated(self.finished, metrics)
        every = self.config.trainer.save_every
        if every and self.finished % every == 0:
            self._save()

    def _sample(self, scenes: list[Scene], randomness: Randomness, clock: Clock) -> tuple[Trajectory, Scores]:
        trainer, ranks = self.config.trainer, self.ranks
        judging = Judging(self.rewards, gather=lambda own: ranks.scores(own, trainer.group_size))
        with self.old.applied() if self.old else nullcontext():
            trajectory = rollout(
                self.policy,
                scenes,
                self.config.sampler,
                trainer.group_size,
                randomness,
                chunk_size=trainer.rollout_batch_size or trainer.micro_batch_size,
                decode=judging.needs("frames") and ranks.first,
                finished=judging.take if ranks.first else None,
                own=ranks.share(len(scenes)) if ranks.count > 1 else None,
            )
        clock.lap("rollout")
        scores = judging.scores(trainer.max_drop_share)
        clock.lap("score")
        for remark in unscored(scores):
            self.journal.say(remark)
        return trajectory, scores

    def _credit(self, trajectory: Trajectory, scores: Scores) -> tuple[Batch, Stats]:
        batch, stats = self.algorithm.credit(trajectory, scores)
        if not set(batch.scene.tolist()) <= set(self.ranks.share(len(batch.condition.mask))):
            raise TrainingFailed(
                f"algorithm {self.config.algorithm.use!r} credits samples that another process made: take "
                "their latents by Trajectory.found, as rlnsp.credit does, or start one process"
            )
        return batch, stats

    def _learn(self, batch: Batch, scenes: list[Scene], randomness: Randomness, prove: bool) -> Stats:
        stats = self.optimise(batch, scenes, prove=prove, data_gradient=self._data_gradient(randomness))
        if self.ema:
            self.ema.update()
        if isinstance(self.algorithm, SamplesWithAverage) and self.old:
            self.old.update(self.algorithm.decay(randomness.iteration))
        if self.compared < self.config.trainer.compare_ranks:
            compare(self.ranks, self.policy, f"after iteration {randomness.iteration + 1}")
            self.compared += 1
        self.proved = self.proved or prove
        return stats

    def _evaluated(self, when: str) -> Evaluation:
        """The evaluation of now: a run that was stopped after it has it already."""
        if self.config.trainer.keep_best and self.finished:
            with self.interruption.held():
                self._save()
        found = evaluations.find(self.folder.path, when, self.finished) if self.ranks.main else None
        known = self.ranks.of_main(found and found.to_json())
        evaluation = Evaluation(**known) if known else self._evaluate(when)
        self.journal.prune(self.finished)
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
                ranks=self.ranks,
            )
        with self.interruption.held():
            before = self.record.get("before")
            self.journal.evaluated(when, self.finished, self.heldout, evaluation, before)
        return evaluation

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
        self.journal.conclude(Evaluation(**self.record["before"]), after)

    def _save(self) -> None:
        self.record["wall_s"] = time.monotonic() - self.started
        if not self.ranks.main:
            return
        checkpoint.save(
            self.folder.checkpoints, self.finished, self.trained, self.record, to_yaml(self.config)
        )
        self.journal.prune(self.finished)
        with self.trained.shipped():
            self.folder.write_folder("adapter", self.policy.save_adapter)

    def _summarise(self, status: str, after: Evaluation | None = None, error: str | None = None) -> None:
        self.record["wall_s"] = time.monotonic() - self.started
        self.journal.summarise(status, self.finished, self.record, after, error)
