"""The command ``rlnsp judge``: serve a judge by vLLM, or measure how good one is."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rlnsp import config
from rlnsp.dataset.hub import place_of
from rlnsp.settings import ConfigError, require

EXAMPLE = """\
examples:
  rlnsp judge serve --model Qwen/Qwen2.5-VL-7B-Instruct --replicas 2
  rlnsp judge serve --model runs/judge --cpu --python .venv-vllm/bin/python --run
  rlnsp judge eval --judge tracker
  rlnsp judge eval --judge openai --url http://127.0.0.1:8000/v1 --prompts paper --json
  rlnsp judge eval --judge transformers --model runs/judge --manifest labelled/manifest.jsonl
"""
PLACE = "rewards.nsp_reward.config"


class JudgeCommand:
    """``rlnsp judge``."""

    help = "serve a judge of nsp_reward by vLLM, or measure how good one is"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its arguments."""
        parser.epilog = EXAMPLE
        parser.add_argument(
            "action",
            choices=["serve", "eval"],
            help="serve: print the vLLM command, or run it; eval: accuracy, calibration, agreement with the "
            "tracker",
        )
        parser.add_argument(
            "--model", default="", metavar="FOLDER_OR_ID", help="the judge's weights, or its served name"
        )
        _add_serving(parser.add_argument_group("serve"))
        _add_eval(parser.add_argument_group("eval"))

    def run(self, args: argparse.Namespace) -> int:
        """Serve or measure; the exit code."""
        return _serve(args) if args.action == "serve" else _eval(args)


def _add_serving(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--run", action="store_true", help="run the command in place of printing it")
    group.add_argument("--name", default="", help="what clients call it (the folder's name, or the id)")
    group.add_argument("--host", default="127.0.0.1", help="who may connect (127.0.0.1: this machine)")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="of the first replica (8000)")
    group.add_argument(
        "--replicas", type=int, default=1, metavar="N", help="servers, each on its own GPUs (1)"
    )
    group.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs of a replica (1)")
    group.add_argument("--images", type=int, default=32, metavar="N", help="of a question (32)")
    group.add_argument(
        "--max-model-len", type=int, default=16384, metavar="N", help="tokens of a question (16384)"
    )
    group.add_argument(
        "--gpu-memory", type=float, default=0.9, metavar="SHARE", help="of a GPU's memory (0.9)"
    )
    group.add_argument("--dtype", default="auto", help="auto, bfloat16, float32 (auto)")
    group.add_argument("--cpu", action="store_true", help="for vLLM's build for CPUs")
    group.add_argument(
        "--kv-cache-mib", type=int, default=1024, metavar="N", help="memory for questions on a CPU (1024)"
    )
    group.add_argument("--python", default="", metavar="PATH", help="of vLLM's own environment (this one)")


def _add_eval(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--judge", choices=["tracker", "transformers", "openai"], help="which judge (the config's)"
    )
    group.add_argument("--url", action="append", default=[], help="of a server; may be repeated")
    group.add_argument("--prompts", metavar="NAME_OR_FOLDER", help="what it is asked (the config's)")
    group.add_argument(
        "--mode", default="soft", choices=["binary", "soft", "checklist"], help="how it decides (soft)"
    )
    group.add_argument("--config", default="world", metavar="NAME_OR_PATH", help="whose nsp_reward (world)")
    group.add_argument(
        "--manifest", type=place_of, metavar="FILE", help="clips with a column 'passes', not the world's"
    )
    group.add_argument("--clips", type=int, default=256, metavar="N", help="how many (256)")
    group.add_argument("--json", action="store_true", help="print JSON in place of tables")
    group.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help=f"settings, such as {PLACE}.frames.fps=3"
    )


def _serve(args: argparse.Namespace) -> int:
    from rewards.nsp_reward.serving import Serving

    require(bool(args.model), "--model is missing: name a folder or a model hub's id")
    require(not args.overrides, f"serve takes no settings; got {' '.join(args.overrides)}")
    names = {field.name for field in fields(Serving)} & vars(args).keys()
    serving = Serving(**{name: getattr(args, name) for name in names})
    commands = "\n".join(serving.lines())
    if not args.run:
        sys.stdout.write(f"{commands}\n# then: {serving.use()}\n")
        return 0
    sys.stderr.write(f"{commands}\nthen: {serving.use()}\n")
    return _run_all([(serving.command(n), serving.environment(n)) for n in range(serving.replicas)])


def _run_all(commands: list[tuple[list[str], Mapping[str, str]]]) -> int:
    """Run until one ends, or until interrupted; then end the others.  The exit code of the one that ended."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command, environment in commands:
            try:
                started.append(subprocess.Popen(command, env={**os.environ, **environment}))
            except OSError as error:
                raise ConfigError(f"--python {command[0]}: cannot be run ({error})") from error
        while all(process.poll() is None for process in started):
            time.sleep(0.2)
        return next(code for process in started if (code := process.poll()) is not None)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _eval(args: argparse.Namespace) -> int:
    require(args.clips >= 1, f"--clips must be at least 1; got {args.clips}")
    slots = config.load(args.config, [*_settings(args), *args.overrides]).rewards
    require("nsp_reward" in slots, f"--config {args.config} has no reward nsp_reward; name one that has")

    from rewards.nsp_reward.evaluation import manifest_clips, measure, world_clips
    from rewards.nsp_reward.reward import NSPReward
    from rlnsp.built_reward import build_reward

    reward = build_reward("nsp_reward", slots["nsp_reward"]).call
    require(
        isinstance(reward, NSPReward),
        f"--config {args.config}: its nsp_reward is another: {slots['nsp_reward'].use}",
    )
    assert isinstance(reward, NSPReward)
    clips = manifest_clips(args.manifest, args.clips) if args.manifest else world_clips(args.clips)
    try:
        reward.check_scenes([clip.sample.scene for clip in clips])
    except ValueError as error:
        raise ConfigError(f"--judge {reward.config.judge}: {error}") from error
    figures = measure(reward.judge, clips, graded=reward.config.mode != "binary")
    about = {"judge": reward.config.judge, "mode": reward.config.mode, **figures}
    sys.stdout.write(json.dumps(about, indent=2) + "\n" if args.json else as_text(about))
    return 0 if "accuracy" in figures else 1


def _settings(args: argparse.Namespace) -> list[str]:
    """The flags as overrides."""
    found = [f"{PLACE}.mode={args.mode}"]
    if args.judge:
        found.append(f"{PLACE}.judge={args.judge}")
    if args.prompts:
        found.append(f"{PLACE}.prompts={args.prompts}")
    if args.model:
        require(args.judge in ("transformers", "openai"), "--model goes with --judge transformers or openai")
        found.append(f"{PLACE}.{args.judge}.model={args.model}")
    if args.url:
        require(args.judge == "openai", "--url goes with --judge openai")
        found.append(f"{PLACE}.openai.base_urls=[{','.join(args.url)}]")
    return found


def as_text(figures: Mapping[str, Any]) -> str:
    """The figures in lines."""
    lines = [
        f"{figures['judge']}, mode {figures['mode']}: {figures['clips']} clips, "
        f"{figures['unscored']} unscored, {figures['seconds_a_clip'] * 1000:.0f} ms a clip",
        *(f"  could not be judged: {error}" for error in figures["errors"]),
    ]
    if "accuracy" not in figures:
        return "\n".join([*lines, "no clip could be judged", ""])
    rates = ", ".join(f"{kind} {rate:.1%}" for kind, rate in figures["passed"].items())
    lines += [f"accuracy       {figures['accuracy']:.1%}", f"passed         {rates}"]
    for name, other in (("truth", "what is so"), ("tracker", "the tracker")):
        if name in figures:
            found = figures[name]
            kappa = "not defined" if found["kappa"] is None else f"{found['kappa']:.3f}"
            lines += [
                f"{name:<14} agreement {found['agreement']:.1%}, Cohen's kappa {kappa}",
                f"               both pass {found['both_pass']}, only the judge {found['only_judge']}, "
                f"only {other} {found['only_other']}, both fail {found['both_fail']}",
            ]
    if "calibration" in figures:
        found = figures["calibration"]
        lines += [
            f"calibration    ECE {found['ece']:.3f}, Brier {found['brier']:.3f}",
            "  score       clips  passes",
        ]
        lines += [
            f"  {one['low']:.1f} to {one['high']:.1f}  {one['count']:>5}  {one['passes']:.1%}"
            for one in found["bins"]
            if one["count"]
        ]
    return "\n".join([*lines, ""])


JUDGE = JudgeCommand()
