"""``rlnsp export``: what a run trained, as a folder for others."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rlnsp.atomic import writing
from rlnsp.settings import ConfigError

if TYPE_CHECKING:
    from rlnsp.protocols import Exports
    from rlnsp.settings import RunConfig

EXAMPLE = """\
examples:
  rlnsp export runs/demo --to exported
  rlnsp export runs/demo/checkpoints/step-40 --to exported
  rlnsp export runs/demo --to adapter --adapter-only
"""
ADAPTER = "adapter"
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp export``."""
    parser.epilog = EXAMPLE
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or one of its checkpoints")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="new, or empty")
    parser.add_argument(
        "--adapter-only", action="store_true", help="peft's files and the card, without the merged weights"
    )


def run(args: argparse.Namespace) -> int:
    """Export and say what was written; the exit code."""
    source, to = args.run, args.to
    _check(source, to)
    from rlnsp import config, model_card
    from rlnsp.settings import RunConfig

    run_config = config.load_typed(RunConfig, source / "config.yaml")
    policy = None if args.adapter_only else _opened(source, run_config)
    aside = to.absolute().with_name(f"{to.absolute().name}.partial")
    with writing(to):
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            if policy is None:
                shutil.copytree(source / ADAPTER, aside, dirs_exist_ok=True)
            else:
                _write_whole(source, run_config, policy, aside)
            card = model_card.card(source, run_config, to.absolute().name, adapter_only=args.adapter_only)
            (aside / "README.md").write_text(card, encoding="utf-8")
            if to.exists():
                to.rmdir()  # empty
            aside.rename(to)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    print(f"exported to {to}; read its README.md before you publish it")
    return 0


def _check(source: Path, to: Path) -> None:
    if not (source / "config.yaml").is_file():
        raise ConfigError(f"{source}: not a run folder, it has no config.yaml; name one that train made")
    if not (source / ADAPTER).is_dir():
        raise ConfigError(f"{source}: this run has no adapter yet; let it reach its first save")
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise ConfigError(f"--to {to}: exists and is not empty; choose another folder")


def _opened(source: Path, run_config: RunConfig) -> Exports:
    from rlnsp.opening import open_policy
    from rlnsp.protocols import Exports

    policy = open_policy(run_config.policy, str(source))
    if not isinstance(policy, Exports):
        raise ConfigError(
            f"policy.use: {run_config.policy.use!r} cannot be written whole: give it the method export of "
            "rlnsp.protocols.Exports, or take --adapter-only"
        )
    return policy


def _write_whole(source: Path, run_config: RunConfig, policy: Exports, aside: Path) -> None:
    from rlnsp import config
    from rlnsp.opening import EXPORTED
    from rlnsp.settings import Slot

    settings = {**policy.export(aside), "folder": "."}  # it is wherever it is opened
    shutil.copytree(source / ADAPTER, aside / ADAPTER)
    base = run_config.policy.config.get("folder")
    for pattern in LICENCES if base and Path(base).is_dir() else ():
        for path in Path(base or "").glob(pattern):
            shutil.copy2(path, aside / path.name)
    slot = Slot(use=run_config.policy.use, config=settings)
    (aside / EXPORTED).write_text(config.to_yaml(slot), encoding="utf-8")
