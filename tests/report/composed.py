"""Run folders put together in a moment: the world's true clips and wrong ones, judged by its tracker."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rewards.nsp_reward.reward import NSPReward
from rlnsp import config, evaluations
from rlnsp.evaluate import Evaluation
from rlnsp.report.sweeps import SweepPage
from rlnsp.scoring import BuiltReward, explain
from rlnsp.sweep.table import HEAD
from rlnsp.types import Sample, Scene
from rlnsp.world import FPS, futures, scenes

HOSTILE = (
    '<script>document.title = "broken in"</script> " \' </p> &amp; {{ 7 * 7 }} '
    '<img src=x onerror="document.title=1"> \u202eכדור אדום מתגלגל\u202c'
)
"""Markup, quotes, a template's braces, and text from right to left, whose mark would turn what follows."""
LONG = "A red ball rolls right toward a blue box. " * 95
"""4,000 characters."""


def make_run(
    folder: Path,
    good: float,
    *,
    seed: int = 0,
    iterations: int = 40,
    overrides=(),
    contexts=None,
    num_scenes=16,
) -> Path:
    """A run whose clips are right for a quarter of the scenes before and for the share ``good`` after."""
    (folder / "samples").mkdir(parents=True)
    run = config.load("world", [f"seed={seed}", f"trainer.num_iterations={iterations}", *overrides])
    (folder / "config.yaml").write_text(config.to_yaml(run), encoding="utf-8")
    environment = {
        "python": "3.11.0",
        "packages": {"torch": "2.13.0"},
        "command": ["rlnsp", "train"],
        "git": None,
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    rng = np.random.default_rng(seed)
    lines = [metrics(step, iterations, good, rng) for step in range(1, iterations + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    held_out = scenes("heldout", num_scenes, 0)
    stages = [
        ("before", 0, 0.25),
        (f"step-{iterations // 2}", iterations // 2, (0.25 + good) / 2),
        ("after", iterations, good),
    ]
    for when, iteration, share in stages:
        found = evaluation(held_out, share)
        shown = [
            Scene(id=scene.id, context=(contexts or {}).get(number, scene.context))
            for number, scene in enumerate(held_out)
        ]
        evaluations.write(folder, when, iteration, shown, found)
    summary = {"status": "done", "steps": iterations, "wall_s": 372.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def sweep_of(runs: Sequence[Path]) -> SweepPage:
    """A sweep of six cells, the second's name meant to harm, which have the one run or the other."""
    cells = ("base", HOSTILE, *(f"rule=cps, noise_level=0.{n}" for n in range(4)))
    figures = ("0.652", "0.753 [0.702, 0.804]", "0.73, 0.75, 0.77", "+0.101 [+0.010, +0.192]", "0.031")
    row = (*figures, "better", "0.0169", "4.6", "1932", "38%")
    return SweepPage(
        title="ablation",
        head=HEAD,
        rows=[("base (baseline)", *row), *((cell, *row) for cell in cells[1:])],
        reads=["", *["better"] * (len(cells) - 1)],
        how_to_read="Held-out nsp_reward, higher is better.",
        conclusions=[f"{HOSTILE} is better than base.", LONG],
        importance={"arm": 0.8, "seeds": 0.2},
        about_importance="Shares of the variance.",
        runs={cell: [runs[n % len(runs)]] for n, cell in enumerate(cells)},
        measures=["nsp_reward", "distance_to_future"],
        lower_is_better=False,
    )


def metrics(step: int, iterations: int, good: float, rng: np.random.Generator) -> dict[str, object]:
    """A line of ``metrics.jsonl``."""
    reward = 0.25 + (good - 0.25) * step / iterations + rng.normal() * 0.05
    return {
        "iteration": step,
        "reward": reward,
        "reward_error": 0.05,
        "reward/nsp_reward": reward,
        "dropped": 0.0,
        "zero_variance_groups": 0.3 + rng.normal() * 0.05,
        "ratio": 1.0,
        "clip_fraction": 0.0,
        "approx_kl": 1e-5 * math.exp(rng.normal()),
        "grad_norm": math.exp(rng.normal() * 0.3),
        "samples": 96,
        "seconds": {"rollout": 1.2, "score": 0.1, "optimise": 1.5},
    }


def evaluation(held_out: list[Scene], share: float) -> Evaluation:
    """Of every four scenes, ``4 * share`` have a true clip; the others' stand still."""
    samples = []
    for number, scene in enumerate(held_out):
        true = futures(scene.context, 1, seed=number)[0]
        still = np.repeat(true[:1], len(true), axis=0)
        right = number % 4 < round(4 * share)
        samples.append(Sample(scene=scene, frames=true if right else still, fps=FPS))
    judge = NSPReward(NSPReward.Config())
    return Evaluation(
        scene_ids=[scene.id for scene in held_out],
        scores={
            "nsp_reward": [float(score) for score in judge(samples) if not isinstance(score, Exception)],
            "distance_to_future": [math.nan, *(0.02 for _ in samples[1:])],
        },
        how={"sampler": "ode", "num_steps": 8, "guidance_scale": 1.0, "seeds": [0], "weights": "live"},
        bootstrap=200,
        samples=samples,
        explanations=explain([BuiltReward(name="nsp_reward", call=judge)], samples),
    )
