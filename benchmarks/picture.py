"""Draw what a run changed: preceding scenes, the clips before and after, and what the judge says of each.

    python -m benchmarks.picture runs/demo

Which scenes are shown is a rule, not a choice; see ``pick``.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlnsp import config
from rlnsp.data import heldout_scenes
from rlnsp.opening import is_run, open_policy
from rlnsp.protocols import Policy
from rlnsp.randomness import Randomness
from rlnsp.rollout import sample
from rlnsp.settings import ConfigError, RunConfig
from rlnsp.types import Scene
from rlnsp.world import Tracker, Verdict

PICTURE = Path("docs/images/before-after.png")
NUM_CHANGED = 4
SHOWN = (0, 2, 4, 6, 8)
"""Frames of a strip."""
WIDTH, HEAD, ROW, FOOT = 9.0, 0.42, 1.12, 0.42
"""Inches; at the README's width an inch is 100 pixels."""
TEXT, STRIP, GAP = 2.1, 3.32, 0.1
GREEN, RED, INK, GREY = "#1a7f37", "#b3261e", "#1f2328", "#59636e"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One scene before and after RL, from the same noise."""

    scene: Scene
    clips: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    """Each (F, H, W, 3)."""
    verdicts: tuple[Verdict, Verdict]

    @property
    def passed(self) -> tuple[bool, bool]:
        """Before and after."""
        return self.verdicts[0].passed, self.verdicts[1].passed


def main(argv: list[str] | None = None) -> int:
    """Generate, judge and draw; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__.split("\n")[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("run", type=Path, help="a run folder of rlnsp train")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE, metavar="FILE.png", help=f"({PICTURE})")
    parser.add_argument("--num-scenes", type=int, default=256, metavar="N", help="to pick from (256)")
    args = parser.parse_args(argv)
    if not is_run(args.run):
        raise ConfigError(f"{args.run}: not a run folder; name one that rlnsp train made")
    run = config.load_typed(RunConfig, args.run / "config.yaml")
    pairs = compare(open_policy(run.policy, str(args.run)), run, args.num_scenes)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw(pick(pairs), counted(pairs), args.output)
    print(f"{args.output}: {counted(pairs)}")
    return 0


def compare(policy: Policy, run: RunConfig, num_scenes: int) -> list[Pair]:
    """The run's first held-out scenes with adapter off and on, as its evaluation makes them."""
    scenes = heldout_scenes(run.data, num_scenes, run.evaluation.seed)

    def generate() -> NDArray[np.uint8]:
        generator = Randomness(seed=run.evaluation.seed).generator("evaluation")
        size = run.trainer.micro_batch_size
        return sample(policy, scenes, run.sampler, generator, chunk_size=size).frames

    with policy.reference():
        before = generate()
    after = generate()
    contexts, tracker = [scene.context for scene in scenes], Tracker()
    verdicts = zip(tracker.judge(contexts, before), tracker.judge(contexts, after), strict=True)
    return [
        Pair(scene=scene, clips=clips, verdicts=both)
        for scene, clips, both in zip(scenes, zip(before, after, strict=True), verdicts, strict=True)
    ]


def pick(pairs: Sequence[Pair]) -> list[Pair]:
    """Of scenes whose verdict changed, either way, the first of each kind of event, at most four.

    Then the first that failed both times and the first that passed both times, as far as there are any.
    """
    shown: dict[object, Pair] = {}
    for pair in pairs:
        if pair.passed[0] != pair.passed[1]:
            shown.setdefault(pair.scene.columns.get("kind"), pair)
    stayed = [next((p for p in pairs if p.passed == (same, same)), None) for same in (False, True)]
    return [*list(shown.values())[:NUM_CHANGED], *(pair for pair in stayed if pair is not None)]


def counted(pairs: Sequence[Pair]) -> str:
    """How many scenes went which way, in words."""
    count = {way: sum(p.passed == way for p in pairs) for way in ((0, 1), (1, 0), (1, 1), (0, 0))}
    return (
        f"of {len(pairs)} held-out scenes, {count[0, 1]} went from fail to pass, "
        f"{count[1, 0]} from pass to fail; {count[1, 1]} passed and {count[0, 0]} failed both times"
    )


def draw(pairs: Sequence[Pair], caption: str, path: Path) -> None:
    """Write the picture: a row a pair, 900 pixels wide at the resolution of a README, 1800 in the file."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    height = HEAD + ROW * len(pairs) + FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=200, facecolor="white")

    def write(x: float, y: float, text: str, **style: object) -> None:
        figure.text(x / WIDTH, 1 - y / height, text, va="top", **{"color": INK, "fontsize": 8, **style})  # pyright: ignore[reportArgumentType]

    left = [TEXT + GAP, TEXT + 2 * GAP + STRIP]
    write(GAP, 0.14, "preceding scene", weight="bold")
    for x, text in zip(left, ("before RL", "after RL"), strict=True):
        write(x, 0.14, text, weight="bold")
    for number, pair in enumerate(pairs):
        top = HEAD + number * ROW
        write(GAP, top, textwrap.fill(pair.scene.context, 34), linespacing=1.35)
        for x, clip, verdict in zip(left, pair.clips, pair.verdicts, strict=True):
            picture = strip(clip)
            inches = STRIP * picture.shape[0] / picture.shape[1]
            axes = figure.add_axes((x / WIDTH, 1 - (top + inches) / height, STRIP / WIDTH, inches / height))
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            text, colour = said(verdict)
            write(x, top + inches + 0.05, text, color=colour, fontsize=7.5)
    foot = (
        f"{caption[0].upper()}{caption[1:]}. Frames {', '.join(str(i + 1) for i in SHOWN)} of 9; same noise."
    )
    write(GAP, height - FOOT + 0.1, foot, color=GREY, fontsize=7)
    figure.savefig(path, metadata={"Software": None})


def strip(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Some frames of (F, H, W, 3) side by side, two white pixels between them."""
    frames = [clip[index] for index in SHOWN if index < len(clip)]
    white = np.full((clip.shape[1], 2, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (white, frame)][1:]
    return np.concatenate(parts, axis=1)


def said(verdict: Verdict) -> tuple[str, str]:
    """The verdict in a line or two, and its colour; a failure names the checks that do not hold."""
    if verdict.passed:
        return "pass", GREEN
    names = verdict.failed[:3] + [f"and {len(verdict.failed) - 3} more"] * (len(verdict.failed) > 3)
    return textwrap.fill(f"fail: {', '.join(names)}", 60), RED


if __name__ == "__main__":
    raise SystemExit(main())
