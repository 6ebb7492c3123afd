"""Make the policy that comes with rlnsp, from nothing, and write it where it ships: ``make world-weights``.

Runs ``rlnsp pretrain`` and ``rlnsp sft`` with the configs called ``world``, each from where it was stopped,
then writes half-precision policy folders and a manifest of what they hold and how they were made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

import policies
from policies.settings import Source
from policies.unified import files, weights
from pretrain import stages
from rlnsp import config
from rlnsp.rundir import environment

LIMIT = 20_000_000
"""Bytes of all that ships, the manifest included."""
MANIFEST_ROOM = 50_000
PRETRAINED, WITHOUT = "world_pretrained", "world_no_pretraining"
"""Second folders, of transformer and connector alone, which the ablation reads; shipped while they fit."""
RUN = Path("runs/world-weights")


class TooLarge(RuntimeError):
    """The policy does not fit into what may ship."""


def main(argv: list[str] | None = None) -> int:
    """Make, write and check; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world_weights", description=__doc__)
    parser.add_argument("--output", type=Path, default=RUN, metavar="DIR", help=f"the stages' folder ({RUN})")
    parser.add_argument(
        "--to", type=Path, default=shipped(""), metavar="DIR", help="where the policy folders go (policies/)"
    )
    args = parser.parse_args(argv)
    settings = config.load_typed(stages.PretrainConfig, "world", folder="pretrain")
    tuning = config.load_typed(stages.SFTConfig, "world", folder="sft")
    start = stages.pretrain(settings, args.output / "pretrain")
    share_clips(args.output / "pretrain", args.output / "sft")
    tuned = stages.sft(tuning, start, args.output / "sft")
    extras = {
        PRETRAINED: lambda: start,
        WITHOUT: lambda: without_pretraining(
            args.output / "no_pretraining", start, made=args.output / "pretrain"
        ),
    }
    made = {"pretrain": settings, "sft": tuning}
    manifest = ship(tuned, extras, args.output, args.to, {name: _resolved(one) for name, one in made.items()})
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"{', '.join(manifest['folders'])}: {total / 1e6:.2f} MB in {args.to}")
    for name in manifest["left_out"]:
        print(f"{name} would go over {LIMIT / 1e6:.0f} MB: not shipped")
    return 0


def shipped(name: str) -> Path:
    """The folder of that name beside the policies' code."""
    return Path(policies.__file__ or "").parent / name


def share_clips(made: Path, output: Path) -> None:
    """Give a command's folder the clips that another command wrote in ``made``; they are not drawn once more.

    A command that asks for other clips than it finds says so.
    """
    if (made / "data" / "done.json").is_file() and not (output / "data").exists():
        shutil.copytree(made / "data", output / "data", copy_function=os.link)


def rest_of_stage_1(settings: stages.PretrainConfig, source: Path, output: Path) -> Path:
    """Stage 1 in ``output``, with comprehension model and VAE of a policy folder; returns what it made."""
    if not (output / "policy").is_dir():
        for stage in ("comprehension", "vae"):
            (output / stage).mkdir(parents=True, exist_ok=True)
            # A mark without settings is believed: what it marks was made elsewhere.
            (output / stage / "done.json").write_text(json.dumps({"seconds": 0.0}) + "\n")
        weights.save_policy(output / "policy", geometry=weights.geometry_of(source), rest_from=source)
    return stages.pretrain(settings, output)


def without_pretraining(output: Path, source: Path, made: Path = RUN / "pretrain") -> Path:
    """Stage 2 alone, on queries, connector and DiT as stage 1 initialises them; returns the policy folder.

    Args:
        output: gets the folders ``start`` and ``sft``.
        source: a policy folder, for the comprehension model and the VAE.
        made: the folder of a command whose clips are taken where they are there.
    """
    settings = config.load_typed(stages.PretrainConfig, "world", folder="pretrain")
    share_clips(made, output / "start")
    start = rest_of_stage_1(replace(settings, text_to_video={}), source, output / "start")
    share_clips(output / "start", output / "sft")
    return stages.sft(config.load_typed(stages.SFTConfig, "world", folder="sft"), start, output / "sft")


def ship(
    tuned: Path,
    extras: Mapping[str, Callable[[], Path]],
    run: Path,
    to: Path,
    configs: Mapping[str, Any],
    limit: int = LIMIT,
) -> dict[str, Any]:
    """Write ``to/world`` and as many of the second folders as fit, each replaced whole; returns the manifest.

    Args:
        tuned: the policy folder that ships.
        extras: by name, what makes the policy folder of which transformer and connector ship; called only
            if there is room.
        run: the stages' folder; also where the folders are written first.
        to: the folder that they go to.
        configs: the settings of the stages, resolved.
        limit: in bytes.

    Raises:
        TooLarge: ``world`` alone does not fit; nothing in ``to`` was changed.
    """
    aside = run / "shipped"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_half(tuned, aside / "world", files.PARTS)
    room = limit - MANIFEST_ROOM - size_of(aside)
    if room < 0:
        raise TooLarge(f"the policy is {-room} bytes over the {limit} that may ship: make a smaller one")
    left_out, needed = [], 0
    for name, make in extras.items():
        if needed <= room:
            write_half(make(), aside / name, ("transformer", "connector"))
            needed = size_of(aside / name)  # the next one has the same shapes
        if needed > room:
            shutil.rmtree(aside / name, ignore_errors=True)
            left_out.append(name)
        else:
            room -= needed
    manifest = describe(aside, run, configs) | {"left_out": left_out}
    text = json.dumps(manifest, indent=2) + "\n"
    if len(text) > MANIFEST_ROOM:
        raise TooLarge(f"the manifest has {len(text)} bytes; give it more than {MANIFEST_ROOM}")
    (aside / "world" / "manifest.json").write_text(text)
    for name in ("world", *extras):
        shutil.rmtree(to / name, ignore_errors=True)
        if (aside / name).is_dir():
            shutil.move(aside / name, to / name)
    return manifest


def write_half(source: Path, to: Path, parts: tuple[str, ...]) -> None:
    """Write ``parts`` of the policy folder ``source`` in half precision."""

    def load(part: str, loader: Callable[[Source], Any]) -> Any:
        return loader(Source(path=str(source / part))) if part in parts else None

    weights.save_policy(
        to,
        geometry=weights.geometry_of(source),
        comprehension=load("comprehension", weights.load_comprehension),
        transformer=load("transformer", weights.load_transformer),
        vae=load("vae", weights.load_vae),
        scheduler=load("scheduler", weights.load_scheduler),
        connector=load("connector", weights.load_connector),
        half=True,
    )


def describe(folders: Path, run: Path, configs: Mapping[str, Any]) -> dict[str, Any]:
    """What ``manifest.json`` holds: every file's hash, and how the weights were made."""
    made = {f"{command}/{name}": one for command in configs for name, one in stage_records(run / command)}
    here = environment()
    return {
        "format": "rlnsp.world_weights",
        "version": 1,
        "made": here["started"],
        "folders": sorted(path.name for path in folders.iterdir()),
        "files": {
            str(path.relative_to(folders)): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in sorted(folders.rglob("*"))
            if path.is_file()
        },
        "stages": made,
        "seconds": round(sum(one["seconds"] for one in made.values()), 1),
        "seeds": dict(_seeds(configs)),
        "configs": configs,
        "machine": {key: here[key] for key in ("platform", "cpu_count", "torch_threads", "devices")},
        "versions": {"python": here["python"], **here["packages"]},
        "git": here["git"],
    }


def stage_records(output: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each finished stage in an output folder, in order: its seconds and last held-out loss."""
    done = sorted(output.glob("*/done.json"), key=lambda path: path.stat().st_mtime_ns)
    for mark in done:
        content, log = json.loads(mark.read_text()), mark.with_name("metrics.jsonl")
        if "seconds" not in content:
            continue  # the data
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        losses = [row[key] for row in rows for key in ("heldout_loss", "eval_loss") if key in row]
        # The mark has the last sitting with all that it did, the log every sitting's steps.
        seconds = max([content["seconds"], *(row["seconds"] for row in rows if "seconds" in row)])
        yield mark.parent.name, {"seconds": seconds, "heldout_loss": losses[-1] if losses else None}


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sha256(path: Path) -> str:
    """The file's hash, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _resolved(settings: Any) -> dict[str, Any]:
    return yaml.safe_load(config.to_yaml(settings))


def _seeds(node: Any, where: str = "") -> Iterator[tuple[str, int]]:
    """Every ``seed`` in a tree of settings, with its path."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            path = f"{where}.{key}".lstrip(".")
            if key == "seed":
                yield path, value
            yield from _seeds(value, path)


if __name__ == "__main__":
    raise SystemExit(main())
