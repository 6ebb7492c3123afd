"""Draw the embedded world, and count what its judge lets pass: the figures and pictures of docs/world.md.

python -m benchmarks.world_tables            # prints the tables
python -m benchmarks.world_tables --write    # also into docs/world.md, and draws docs/images/world-KIND.png
"""

from __future__ import annotations

import argparse
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.pages import fill
from rlnsp.world import FRAMES, Tracker, language, motion, rendering
from rlnsp.world.events import KINDS, Event, Kind, all_events, with_star
from tests.world.adversaries import ADVERSARIES
from tests.world.clips import TrueClips, blurred, encoded, make_true_clips
from tests.world.near import NEAR, reworded

PAGE = Path("docs/world.md")
IMAGES = Path("docs/images")
SCALE, GAP, MARGIN, LINE = 2, 6, 12, 21
"""Pixels: frames are drawn twice their size."""
INK, GREY, PAPER = (31, 35, 40), (89, 99, 110), (255, 255, 255)


def main(argv: list[str] | None = None) -> int:
    """Judge, print and draw; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.world_tables", description="Tables and pictures."
    )
    parser.add_argument(
        "--write", action="store_true", help=f"put the tables into {PAGE} and draw {IMAGES}/world-*.png"
    )
    parser.add_argument("--num-clips", type=int, default=504, metavar="N", help="true clips to judge (504)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    clips = make_true_clips(args.num_clips, args.seed)
    tables = {"pass rates": pass_rates(clips, args.seed), "adversaries": adversaries(clips, args.seed)}
    for table in tables.values():
        print(table, end="\n\n")
    if args.write:
        for name, table in tables.items():
            fill(PAGE, table, (f"<!-- {name} -->", f"<!-- /{name} -->"))
        IMAGES.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            contact_sheet(kind).save(IMAGES / f"world-{kind}.png", optimize=True)
    return 0


def pass_rates(clips: TrueClips, seed: int) -> str:
    """A Markdown table: who passes of true clips and of clips of other contexts."""
    n = len(clips.events)
    with tempfile.TemporaryDirectory() as folder:
        after = encoded(clips.frames, Path(folder) / "clip.mp4")
    rows = [
        ("true clips, as drawn", clips.contexts, clips.frames),
        ("true clips, after H.264", clips.contexts, after),
        (
            "true clips, after a slight blur and noise",
            clips.contexts,
            blurred(clips.frames, np.random.default_rng(seed)),
        ),
    ]
    events = np.roll(np.arange(n), 1)
    different = [row for row in range(n) if clips.events[row] != clips.events[events[row]]]
    rows.append(
        (
            "clips of another context",
            [clips.contexts[events[row]] for row in different],
            clips.frames[different],
        )
    )
    for name, near in NEAR.items():
        pairs = [(row, event) for row, true in enumerate(clips.events) if (event := near(true)) is not None]
        contexts = [reworded(event) for _, event in pairs]
        rows.append((f"context differs: {name}", contexts, clips.frames[[row for row, _ in pairs]]))
    contexts, frames = zip(*_other_kinds(clips), strict=True)
    rows.append(("context differs: kind of event", list(contexts), np.stack(frames)))
    lines = ["| clips | judged | passed |", "|---|---:|---:|"]
    for name, contexts, frames in rows:
        verdicts = Tracker().judge(contexts, np.asarray(frames))
        lines.append(
            f"| {name} | {len(verdicts)} | {np.mean([verdict.passed for verdict in verdicts]):.1%} |"
        )
    return "\n".join(lines)


def _other_kinds(clips: TrueClips) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Every clip under the next kinds' names, in turn."""
    for row, event in enumerate(clips.events):
        kind = KINDS[(KINDS.index(event.kind) + 1 + row % (len(KINDS) - 1)) % len(KINDS)]
        direction = "right" if event.direction == "either" else event.direction
        yield reworded(replace(event, kind=kind, direction=direction)), clips.frames[row]


def adversaries(clips: TrueClips, seed: int) -> str:
    """A Markdown table: for each adversary and kind, the check that fails most often, and how many pass."""
    rng, tracker = np.random.default_rng(seed), Tracker()
    lines = ["| clip | " + " | ".join(KINDS) + " |", "|---|" + "---|" * len(KINDS)]
    for name, adversary in ADVERSARIES.items():
        cells = []
        for kind in KINDS:
            rows = [row for row, event in enumerate(clips.events) if event.kind == kind][:36]
            made = [(row, adversary(clips.events[row], clips.futures[row], rng)) for row in rows]
            judged = [(row, frames) for row, frames in made if frames is not None]
            if not judged:
                cells.append("")
                continue
            frames = np.stack([frames for _, frames in judged])
            verdicts = tracker.judge([clips.contexts[row] for row, _ in judged], frames)
            failed = Counter(check for verdict in verdicts for check in verdict.failed)
            passed = sum(verdict.passed for verdict in verdicts)
            worst = failed.most_common(1)[0][0] if failed else ""
            cells.append(worst if not passed else f"**{passed} of {len(judged)} pass** {worst}".rstrip())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def contact_sheet(kind: Kind) -> Image.Image:
    """Three true clips of one kind, frame by frame, under their contexts."""
    rng = np.random.default_rng(KINDS.index(kind))
    width = 2 * MARGIN + FRAMES * motion.SIZE * SCALE + (FRAMES - 1) * GAP
    strip = motion.SIZE * SCALE
    row = 2 * LINE + strip + 2 * MARGIN
    sheet = Image.new("RGB", (width, MARGIN + 3 * row), PAPER)
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(17), ImageFont.load_default(14)
    for number, event in enumerate(_three(kind, rng)):
        frames = rendering.render(motion.future(event, rng))
        top = MARGIN + number * row
        draw.text((MARGIN, top), textwrap.shorten(language.describe(event, rng), 150), INK, font)
        for i, frame in enumerate(frames):
            picture = Image.fromarray(frame).resize((strip, strip), Image.Resampling.NEAREST)
            sheet.paste(picture, (MARGIN + i * (strip + GAP), top + LINE + 5))
        said = Tracker().caption(frames[None])[0]
        draw.text((MARGIN, top + LINE + strip + 8), f"The tracker: {said}", GREY, small)
    return sheet


def _three(kind: Kind, rng: np.random.Generator) -> list[Event]:
    """Held-out events, slow and fast, to both sides; the last with a star."""
    events = [event for event in all_events("heldout") if event.kind == kind]
    wanted = [("right", "slow"), ("left", "fast"), ("either" if kind == "rise" else "left", "slow")]
    chosen = []
    for direction, speed in wanted:
        some = [event for event in events if (event.direction, event.speed) == (direction, speed)]
        chosen.append(some[rng.integers(len(some))])
    while chosen[-1].bystander is None:
        chosen[-1] = with_star(chosen[-1], rng)
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
