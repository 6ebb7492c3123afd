"""How good the judges of the embedded world are, as a table: ``python -m benchmarks.judge_figures``.

As ``rlnsp judge eval`` measures, on true clips of held-out scenes, on such with a known fault, and on the
policy's own clips, which are what a reward is asked about.  What is right, the tracker says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.judge_weights import TO
from policies.unified import files
from policies.unified.policy import Unified
from pretrain.judge import JudgeConfig
from pretrain.judge_answers import VERDICT_TOKENS
from rewards.nsp_reward.evaluation import Labelled, measure, world_clips
from rewards.nsp_reward.judging import Mode
from rewards.nsp_reward.local import LocalConfig
from rewards.nsp_reward.reward import NSPReward
from rlnsp import config, world
from rlnsp.chat import FramesConfig
from rlnsp.randomness import Randomness
from rlnsp.rollout import sample_each

PAGE = Path("docs/judge-figures.md")
SEED = 77
"""Of the held-out scenes and of the noise; no training has seen it."""
MODES: tuple[Mode, ...] = ("soft", "binary")


def main(argv: list[str] | None = None) -> int:
    """Measure and write; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge_figures", description=__doc__)
    parser.add_argument("--clips", type=int, default=400, metavar="N", help="of the policy, and others (400)")
    parser.add_argument("--to", type=Path, default=PAGE, metavar="FILE.md", help=f"({PAGE})")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    clips = {"the policy's own": own_clips(args.clips), "true and faulty": world_clips(args.clips, SEED)}
    models = {
        "the comprehension model": files.policy_folder("world") / "comprehension",
        "the judge": TO,
    }
    found = {
        (name, mode, kind): measure(judge(folder, mode).judge, some, graded=mode == "soft")
        for name, folder in models.items()
        for mode in MODES
        for kind, some in clips.items()
    }
    args.to.write_text(page(found), encoding="utf-8")
    args.to.with_suffix(".json").write_text(
        json.dumps({" on ".join(key): value for key, value in found.items()}, indent=2) + "\n"
    )
    print(page(found))
    return 0


def own_clips(n: int) -> list[Labelled]:
    """The shipped policy's clips of ``n`` held-out scenes, as a run with the config world samples them."""
    policy = Unified(Unified.Config(folder="world", device="cpu"))
    scenes = world.scenes("heldout", n, SEED)
    generator = Randomness(seed=SEED).generator("generate")
    samples = sample_each(policy, scenes, config.load("world", []).sampler, generator, chunk_size=32)
    verdicts = world.Tracker().judge(
        [scene.context for scene in scenes], np.stack([s.frames for s in samples])
    )
    return [
        Labelled(sample=one, passes=verdict.passed, kind="passes" if verdict.passed else "fails")
        for one, verdict in zip(samples, verdicts, strict=True)
    ]


def judge(folder: Path, mode: Mode) -> NSPReward:
    """A model of that folder, asked as it was trained to be."""
    shown = world.FPS * (JudgeConfig.clip_frames - 1) / (world.FRAMES - 1)
    local = LocalConfig(model=str(folder), dtype="fp32", device="cpu")
    asked = NSPReward.Config(
        judge="transformers",
        mode=mode,
        prompts="world",
        frames=FramesConfig(fps=shown),
        verdict_tokens=VERDICT_TOKENS,
        transformers=local,
    )
    return NSPReward(asked)


def page(found: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> str:
    """The table, and the calibration of the last model in mode soft on the first kind of clips."""
    lines = [
        "# How good the judges of the embedded world are",
        "",
        "Written by `python -m benchmarks.judge_figures`; what is right, the tracker says.",
        "",
        "| judge | mode | clips | n | agreement | kappa | passes what fails | fails what passes | ECE "
        "| Brier |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, mode, kind), one in found.items():
        truth, told, n = one["truth"], one.get("calibration"), one["clips"] - one["unscored"]
        sure = f"{told['ece']:.3f} | {told['brier']:.3f}" if told else "- | -"
        wrong = truth["only_judge"] / max(truth["only_judge"] + truth["both_fail"], 1)
        missed = truth["only_other"] / max(truth["only_other"] + truth["both_pass"], 1)
        lines.append(
            f"| {name} | {mode} | {kind} | {n} | {truth['agreement']:.1%} | {_kappa(truth)} | "
            f"{wrong:.1%} | {missed:.1%} | {sure} |"
        )
    last = [key for key in found if key[1] == "soft"][-2]
    lines += ["", f"P(Pass) of {last[0]} on {last[2]}:", "", "| P(Pass) | clips | pass |", "|---|---|---|"]
    lines += _bins(found[last]["calibration"]["bins"])
    return "\n".join([*lines, ""])


def _kappa(figures: Mapping[str, Any]) -> str:
    return "-" if figures["kappa"] is None else f"{figures['kappa']:.2f}"


def _bins(bins: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"| {one['low']:.1f} to {one['high']:.1f} | {one['count']} | {one['passes']:.0%} |"
        for one in bins
        if one["count"]
    ]


if __name__ == "__main__":
    raise SystemExit(main())
