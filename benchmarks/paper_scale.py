"""The paper's model on one GPU, with random weights: does a set-up hold, how much memory and time it takes.

``python -m benchmarks.paper_scale --size paper --tflops 989``

Qwen2.5-VL-7B and LTX-Video 2B are built from their published settings on the device, in bf16.  Then
``rlnsp check``; whole iterations of GRPO on clips of 65 x 480 x 832 by ``configs/nsp_single_gpu.yaml``, with
one scene and a reward that asks no judge; and iterations of the largest group that ``rlnsp plan`` says fits,
in one model call.  Each is compared with the plan.  What is there is written after each part, so that a
command that is cut short leaves what it has.  ``--size small`` does the same with small parts on any machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from benchmarks import paper_scale_page as page
from benchmarks.calls import Iteration, Recorder
from benchmarks.phases import PHASES, InPhases, Phases, held_bytes, peaks_on_cpu
from benchmarks.plan_table import NOT_MADE_YET
from benchmarks.random_unified import SMALL, random_unified, write_settings
from benchmarks.shapes import DRAWN, Setting
from policies.unified import Unified
from rlnsp import config
from rlnsp.check.examination import examine
from rlnsp.check.subject import Subject
from rlnsp.iteration_metrics import Clock
from rlnsp.plan.costs import Costs
from rlnsp.plan.estimate import Plan, Rates, estimate
from rlnsp.pretrained import device_of
from rlnsp.rollout import replay_guidance_scale
from rlnsp.rundir import environment
from rlnsp.settings import RunConfig

ROOT = Path(__file__).parents[1]
REWARDS = (DRAWN, "motion=0")
"""Of pixels, so that clips are decoded.  The first tells any clips apart; the second is logged alone."""
SETTINGS = ("trainer.scenes_per_iteration=1", "data.train=world", "data.heldout=world")
SIZES: dict[str, tuple[str, ...]] = {
    # A window in the middle of the config's range, so that each iteration costs what the plan counts.
    "paper": ("sampler.window.kind=fixed", "sampler.window.start=4"),
    "small": (
        "policy.config.num_frames=9",
        "policy.config.height=64",
        "policy.config.width=64",
        "sampler.num_steps=4",
        "sampler.window={kind: fixed, start: 1, size: 2, end: 3}",
        "algorithm.config.credit={best_k: 2, worst_k: 2}",
        "trainer.group_size=4",
        "trainer.rollout_batch_size=2",
    ),
}

LARGEST = {"paper": 1024, "small": 8}
"""The largest group that is tried, by size."""


@dataclass(kw_only=True)
class Session:
    """One call of the command: the model, what is known of it, and what was found so far."""

    run: RunConfig
    tflops: float | None
    until: float
    """By ``time.perf_counter``."""
    say: Callable[[str], None]
    save: Callable[[dict[str, Any]], None]
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings: Unified.Config = config.plugin_settings("policies", self.run.policy, "policy")
        self.device = device_of(self.settings.device)
        self.costs = Costs(Unified.outline(self.settings))
        self.plain = Costs(Unified.outline(replace(self.settings, gradient_checkpointing=False)))
        """Of training in which nothing is computed twice."""

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.perf_counter()

    def plan(self, run: RunConfig) -> Plan:
        """What ``rlnsp plan`` says, of this device."""
        rates = Rates(tflops=self.tflops) if self.tflops else Rates()
        return estimate(run, self.costs, devices=1, memory=memory_of(self.device), rates=rates)

    def keep(self, **found: Any) -> None:
        """Add to what was found, and write it."""
        self.found |= found
        self.save(self.found)

    def build(self) -> Unified:
        """The policy, its weights drawn on the device."""
        self.say("drawing weights")
        start = time.perf_counter()
        policy = Unified(self.settings, random_unified(self.settings))
        parts = {
            name: sum(value.numel() for key, value in part.named_parameters() if "lora_" not in key)
            for name, part in policy.model.named_children()
        }
        trained = sum(value.numel() for _, value in policy.named_trainable())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.keep(parameters=parts, trained=trained, build_s=time.perf_counter() - start)
        return policy

    def check(self, policy: Unified) -> None:
        """``rlnsp check``, on the fewest samples that the run's credit can choose from."""
        credit = self.run.algorithm.config["credit"]
        few = replace(self.run.trainer, group_size=credit["best_k"] + credit["worst_k"])
        subject = Subject.of(replace(self.run, trainer=few), policy=policy)
        report = examine(subject, say=lambda name: self.say(f"check: {name}"))
        self.keep(check=report.to_json())

    def measure(self, name: str, run: RunConfig, policy: Unified, iterations: int) -> dict[str, Any]:
        """Iterations as time allows, at least one, beside their plan; where memory runs out, that."""
        plan, trainer = self.plan(run), run.trainer
        found: dict[str, Any] = {
            "name": name,
            "sizes": {key: getattr(trainer, key) for key in page.SIZES},
            "samples": plan.samples,
            "plan": {
                "stays": sum(plan.stays.values()),
                "bytes": {page.PLANNED[key]: sum(part.values()) for key, part in plan.phases.items()},
                "seconds": {page.PLANNED[key]: value for key, value in plan.seconds.items()},
                "peak": plan.peak,
            },
        }
        gc.collect()
        torch.cuda.empty_cache()  # of what came before; nothing on a CPU
        try:
            found |= self._iterations(name, run, policy, iterations)
        except torch.OutOfMemoryError as error:
            found["out_of_memory"] = str(error).splitlines()[0]
        self.keep(settings=[*self.found.get("settings", []), found])
        return found

    def _iterations(self, name: str, run: RunConfig, policy: Unified, iterations: int) -> dict[str, Any]:
        recorder = Recorder(policy)
        iterate = Iteration(Setting(policy=policy, run=run), recorder)
        each: list[Phases] = []
        peaks: dict[str, int] = {}
        while len(each) < iterations and (not each or self.left > sum(each[-1].seconds.values())):
            self.say(f"{name}: iteration {len(each) + 1}")
            phases = Phases(self.device)
            stays = held_bytes(self.device, iterate.run.trained.optimizer, policy)
            _in_phases(iterate, recorder, policy, phases)
            peaks = {key: value - stays for key, value in phases.peak_bytes.items()}
            each.append(phases)
        seconds = {key: statistics.median(one.seconds[key] for one in each) for key in PHASES}
        calls = list(recorder.calls)
        stays = held_bytes(self.device, iterate.run.trained.optimizer, policy)
        reserved = None
        if self.device.type == "cuda":
            reserved = torch.cuda.max_memory_reserved(self.device)
        else:
            peaks = peaks_on_cpu(partial(_in_phases, iterate, recorder, policy, Phases(self.device)))
        return {
            "iterations": [one.seconds for one in each],
            "seconds": seconds,
            "stays": stays,
            "bytes": peaks,
            "reserved": reserved,
            "flops": self._flops(run, calls),
            "metrics": iterate.metrics,
        }

    def _flops(self, run: RunConfig, calls: Sequence[Any]) -> dict[str, float]:
        """Of one iteration, by phase, from the calls that it made and the plan's count of one."""
        trainer = run.trainer
        batch = min(trainer.rollout_batch_size or trainer.micro_batch_size, trainer.group_size)
        sizes = {
            "encode": sum(call.size + 1 for call in calls if call.kind == "encode"),
            "rollout": sum(call.size for call in calls if call.kind == "velocity" and not call.grad),
            "decode": sum(call.size for call in calls if call.kind == "decode"),
            "train": sum(call.size for call in calls if call.backward),
        }
        decoded = min(self.costs.outline.decode_batch_size, batch)
        trained, guidance = min(trainer.micro_batch_size, sizes["train"]), replay_guidance_scale(run.sampler)
        once, again = (one.of_training(trained, guidance).flops for one in (self.plain, self.costs))
        return {
            "encode": self.costs.of_reading(sizes["encode"]),
            "rollout": self.costs.of_calls(batch, run.sampler.guidance_scale).flops
            / batch
            * sizes["rollout"],
            "decode": self.costs.of_decoding(decoded).flops / decoded * sizes["decode"],
            "train": once / trained * sizes["train"],
            page.AGAIN: again / trained * sizes["train"],
        }

    def largest(self, slower: float, most: int) -> RunConfig | None:
        """The largest group in one model call that by the plan fits, and is done in the time that is left.

        Args:
            slower: what the plan's time is multiplied by, from what was measured.
            most: no larger group than this.
        """
        found, run = None, self.run
        group = 2 * run.trainer.group_size
        while group <= most:
            sizes = {"group_size": group, "rollout_batch_size": group, "micro_batch_size": group // 4}
            tried = replace(run, trainer=replace(run.trainer, **sizes))
            plan = self.plan(tried)
            if not plan.fits or slower * sum(plan.seconds.values()) > self.left:
                break
            found, group = tried, 2 * group
        return found


def _in_phases(iterate: Iteration, recorder: Recorder, policy: Unified, phases: Phases) -> None:
    stand_in: Any = InPhases(policy, phases)
    recorder.policy = stand_in
    iterate.run.clock = lambda: Clock(ended=phases.ended)
    phases.switch("rollout")
    iterate()


def memory_of(device: torch.device) -> float:
    """Bytes of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def run_of(size: str, folder: Path) -> RunConfig:
    """The run of that size; of a small one the parts' settings are written into ``folder``."""
    own = [*NOT_MADE_YET, *SETTINGS, *SIZES[size]]
    if size == "small":
        own += write_settings(folder, SMALL)
    return config.load("nsp_single_gpu", own, REWARDS)


def work(session: Session, iterations: int) -> None:
    """All parts, one after the other."""
    policy = session.build()
    session.check(policy)
    first = session.measure("nsp_single_gpu, one scene", session.run, policy, iterations)
    slower = 1.0
    if "seconds" in first:
        slower = sum(first["seconds"].values()) / sum(first["plan"]["seconds"].values())
    run = session.largest(slower, LARGEST[session.found["size"]])
    if run is None:
        session.say("no larger group fits, by the plan, or none in the time that is left")
    else:
        session.measure("the plan's largest", run, policy, iterations)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write JSON and page; 1 where ``rlnsp check`` found something wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="of the model (small)")
    parser.add_argument(
        "--tflops", type=float, help="the device's peak in dense bf16, as its maker states it"
    )
    parser.add_argument("--iterations", type=int, default=2, help="of each setting, if there is time (2)")
    parser.add_argument("--seconds", type=float, default=480, help="in which to be done, about (480)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="in place of docs/, which small never fills"
    )
    parser.add_argument(
        "--page-from", type=Path, metavar="JSON", help="measure nothing: fill docs/ from this"
    )
    args = parser.parse_args(argv)
    if args.page_from:
        page.fill_docs(ROOT, json.loads(args.page_from.read_text()))
        return 0
    if args.size == "paper" and not (torch.cuda.is_available() and args.tflops):
        parser.error("--size paper wants a CUDA device, and --tflops, its peak")
    if args.size == "small" and not args.output:
        parser.error("--size small wants --output: docs/ are for what was measured at the paper's size")
    start = time.perf_counter()
    torch.set_flush_denormal(True)
    console = Console(stderr=True)
    here = {key: value for key, value in environment().items() if key != "command"}

    def save(found: dict[str, Any]) -> None:
        if args.output:
            page.write(args.output, found)
        else:
            page.fill_docs(ROOT, found)

    with TemporaryDirectory() as folder:
        console.print("planning")
        session = Session(
            run=run_of(args.size, Path(folder)),
            tflops=args.tflops,
            until=start + args.seconds,
            say=console.print,
            save=save,
        )
        session.found |= {"size": args.size, "tflops": args.tflops, "environment": here}
        work(session, args.iterations)
        session.keep(seconds=time.perf_counter() - start)
    Console().print(page.section(session.found), markup=False, soft_wrap=True)
    return 0 if session.found["check"]["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
