"""Make the judge that comes with rlnsp and write it where it ships: ``make judge-weights``.

Goes on from where it was stopped; then writes a half-precision folder, as transformers and vLLM read them,
and a manifest of what it holds and how it was made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rewards
from benchmarks.world_weights import sha256
from policies.unified.comprehension import Comprehension
from pretrain.judge import JudgeConfig, train_judge
from pretrain.marks import read_json
from rlnsp.pretrained import without_bars
from rlnsp.rundir import environment

RUN = Path("runs/judge-weights")
TO = Path(rewards.__file__ or "").parent / "world_judge"


def main(argv: list[str] | None = None) -> int:
    """Make and write; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge_weights", description=__doc__)
    parser.add_argument("--output", type=Path, default=RUN, metavar="DIR", help=f"the stage's folder ({RUN})")
    parser.add_argument("--to", type=Path, default=TO, metavar="DIR", help="where the judge goes")
    args = parser.parse_args(argv)
    settings = JudgeConfig()
    judge = train_judge(settings, args.output)
    manifest = ship(judge, settings, read_json(args.output / "time.json"), args.to)
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"{args.to}: {total / 1e6:.2f} MB")
    return 0


def ship(judge: Comprehension, settings: JudgeConfig, took: dict[str, Any], to: Path) -> dict[str, Any]:
    """Write the folder ``to``, replaced whole; returns its manifest.

    Args:
        judge: its weights are halved in place.
        settings: what it was trained with.
        took: seconds, and seconds of a processor.
        to: a folder in transformers' layout, and ``manifest.json``.
    """
    aside = to.with_name(f".{to.name}.writing-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    with without_bars():
        judge.model.half().save_pretrained(aside)
    judge.tokenizer.save_pretrained(aside)
    judge.image_processor.save_pretrained(aside)
    here = environment()
    manifest = {
        "format": "rlnsp.world_judge",
        "version": 1,
        "made": here["started"],
        "files": {
            path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in sorted(aside.iterdir())
        },
        **took,
        "settings": asdict(settings),
        "machine": {key: here[key] for key in ("platform", "cpu_count", "devices")},
        "versions": {"python": here["python"], **here["packages"]},
        "git": here["git"],
    }
    (aside / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    mode = (aside / "manifest.json").stat().st_mode  # safetensors writes files that only their owner may read
    (aside / "model.safetensors").chmod(mode)
    shutil.rmtree(to, ignore_errors=True)
    aside.rename(to)
    return manifest


if __name__ == "__main__":
    raise SystemExit(main())
