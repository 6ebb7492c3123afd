"""What an iteration costs over its bare model calls, and what prefix sharing saves.

``python -m benchmarks.speed --policy world --shape shipped``.

All within one run on one machine.  What is compared takes turns, and the ratio is the median of the rounds'.
The table goes into docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.calls import Bare, Iteration, Recorder, Rollout
from benchmarks.memory import peak_bytes
from benchmarks.pages import fill
from benchmarks.shapes import SHAPES, Setting, setting
from rlnsp.rundir import environment

ROOT = Path(__file__).parents[1]
PAGE = Path("docs") / "speed.md"
FOLDER = Path("docs") / "benchmarks"
ITERATIONS = "<!-- iterations -->", "<!-- /iterations -->"
SHARING = "<!-- sharing -->", "<!-- /sharing -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the figures as JSON, and show every setting's in the page's tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--policy", default="world", choices=sorted({policy for policy, _ in SHAPES}))
    parser.add_argument("--shape", default="shipped", choices=sorted({shape for _, shape in SHAPES}))
    parser.add_argument("--rounds", type=int, default=11, help="times that each is measured (11)")
    parser.add_argument("--output", type=Path, help="a JSON, in place of docs/benchmarks and the page")
    args = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    found = measure(setting(args.policy, args.shape), args.rounds)
    here = {key: value for key, value in environment().items() if key != "command"}
    found = {"policy": args.policy, "shape": args.shape, **found, "environment": here}
    output = args.output or ROOT / FOLDER / f"speed-{args.policy}-{args.shape}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n")
    Console().print(iterations([found]), markup=False, soft_wrap=True)
    if found["rollout"]:
        Console().print(sharing([found]), markup=False, soft_wrap=True)
    if not args.output:
        fill_page(ROOT)
    return 0


def measure(case: Setting, rounds: int) -> dict[str, Any]:
    """Every figure of one setting.

    Returns:
        seconds of an iteration, of its bare model calls, and their ratio; where a group shares its noise, the
        same of a rollout without and with prefix sharing; the peak memory of each beyond what is loaded, in
        bytes.  A forward is one sample's.
    """
    recorder = Recorder(case.policy)
    iterate = Iteration(case, recorder)
    iterate()
    bare = Bare(case, recorder)
    bare()
    (ours, model), ratios = alternate(iterate, bare, rounds)
    phases = iterate.metrics["seconds"]
    calls = [call for call in recorder.calls if call.kind == "velocity"]
    return {
        "samples": len(case.scenes) * case.run.trainer.group_size,
        "tokens": bare.x.shape[1],
        "forwards": recorder.forwards(),
        "backwards": sum(call.size for call in calls if call.backward),
        "iteration_s": ours,
        "phases_s": phases,
        "bare_s": model,
        "over_bare": statistics.median(ratios),
        "over_bare_rounds": ratios,
        "peak_bytes": {"iteration": peak_bytes(iterate), "bare": peak_bytes(bare)},
        "rollout": measure_sharing(case, recorder, rounds) if case.run.sampler.same_noise else None,
    }


def measure_sharing(case: Setting, recorder: Recorder, rounds: int) -> dict[str, Any]:
    """A rollout with prefix sharing against one without: seconds, forwards, bytes; the ratio is to without.

    Denoising alone is what forwards are in proportion to; whole, it decodes the clips, which is not shared.
    """
    found: dict[str, Any] = {}
    for name, decode in (("denoising", False), ("whole", True)):
        apart, shared = (
            Rollout(case, recorder, share_prefix=share, decode=decode) for share in (False, True)
        )
        forwards = []
        for one in (apart, shared):
            one()
            forwards.append(recorder.forwards())
        seconds, ratios = alternate(shared, apart, rounds)
        found[name] = {
            "apart_s": seconds[1],
            "shared_s": seconds[0],
            "ratio": statistics.median(ratios),
            "apart_peak_bytes": peak_bytes(apart),
            "shared_peak_bytes": peak_bytes(shared),
        }
        found["forwards"] = {"apart": forwards[0], "shared": forwards[1]}
    return found


def alternate(
    one: Callable[[], None], other: Callable[[], None], rounds: int
) -> tuple[list[float], list[float]]:
    """The median seconds of each, and of each round the first's over the second's.

    They take turns, so that a slow spell of the machine meets both, and neither is always the first.
    """
    seconds: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            theirs, ours = timed(other), timed(one)
        else:
            ours, theirs = timed(one), timed(other)
        seconds.append((ours, theirs))
    medians = [statistics.median(own) for own in zip(*seconds, strict=True)]
    return medians, [ours / theirs for ours, theirs in seconds]


def timed(function: Callable[[], None]) -> float:
    """Its seconds, to the end of what it asked of a GPU."""
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fill_page(root: Path) -> None:
    """Put every setting that was measured into the tables of docs/speed.md."""
    found = [json.loads(path.read_text()) for path in sorted((root / FOLDER).glob("speed-*.json"))]
    fill(root / PAGE, iterations(found), ITERATIONS)
    fill(root / PAGE, sharing([one for one in found if one["rollout"]]), SHARING)


def iterations(found: Sequence[dict[str, Any]]) -> str:
    """The table of iterations over their bare calls."""
    lines = [
        "| setting | samples x tokens | forwards, backwards | iteration | bare calls | ratio | peak memory: "
        "iteration, bare | machine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        peak = one["peak_bytes"]
        ratio = f"**{one['over_bare']:.3f}**{spread(one['over_bare_rounds'])}"
        lines.append(
            f"| {one['policy']}, {one['shape']} | {one['samples']} x {one['tokens']} | {one['forwards']}, "
            f"{one['backwards']} | {one['iteration_s']:.2f} s | {one['bare_s']:.2f} s | "
            f"{ratio} | {size(peak['iteration'])}, {size(peak['bare'])} | {machine(one['environment'])} |"
        )
    return "\n".join(lines)


def spread(ratios: Sequence[float]) -> str:
    """What half of the rounds lie within, where there are several."""
    if len(ratios) == 1:
        return ""
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f" ({low:.3f} to {high:.3f})"


def sharing(found: Sequence[dict[str, Any]]) -> str:
    """The table of rollouts with and without prefix sharing."""
    lines = [
        "| setting | forwards: without, with | denoising: without, with | whole rollout: without, with | "
        "peak memory: without, with |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        apart, shared = (one["rollout"]["forwards"][name] for name in ("apart", "shared"))
        seconds = [
            f"{part['apart_s']:.2f} s, {part['shared_s']:.2f} s (**{part['ratio']:.2f}**)"
            for part in (one["rollout"]["denoising"], one["rollout"]["whole"])
        ]
        peaks = [size(one["rollout"]["whole"][f"{name}_peak_bytes"]) for name in ("apart", "shared")]
        lines.append(
            f"| {one['policy']}, {one['shape']} | {apart}, {shared} (**{shared / apart:.2f}**) | "
            f"{seconds[0]} | {seconds[1]} | {', '.join(peaks)} |"
        )
    return "\n".join(lines)


def machine(found: dict[str, Any]) -> str:
    """What an ``environment()`` says of where it was."""
    threads = f"{found['torch_threads']} thread{'s' * (found['torch_threads'] > 1)}"
    return ", ".join(found["devices"]) or f"{found['platform'].split('-with')[0]}, {threads} of a CPU"


def size(count: float) -> str:
    """Bytes, for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


if __name__ == "__main__":
    raise SystemExit(main())
