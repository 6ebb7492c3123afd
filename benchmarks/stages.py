"""What each stage of training brings, in one table: ``make ablation``.

The paper's ablation on the embedded world, and a control with the reward negated.  Every policy makes the
same held-out scenes from the same noise by the deterministic sampler.  What is trained already, from the same
weights and configs, is used again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import world_weights
from benchmarks.ablation_table import (
    CONTROL,
    MARKS,
    PRETRAINED,
    REWARD,
    RL,
    SFT,
    WITHOUT,
    Row,
    claims,
    markdown,
    page,
    table,
)
from benchmarks.pages import fill
from policies.unified import files
from pretrain import stages
from rlnsp import cli, config
from rlnsp.data import heldout_scenes
from rlnsp.evaluate import Evaluation, evaluate
from rlnsp.opening import open_policy
from rlnsp.rundir import environment
from rlnsp.scoring import build_rewards
from rlnsp.settings import RunConfig, Slot

RUN = Path("runs/ablation")
ROOT = Path(__file__).parents[1]
EVALUATION_SEEDS, TRAINING_SEEDS = 3, (0, 1, 2)
NEGATED_ITERATIONS = 20


class AblationFailed(RuntimeError):
    """A run of the ablation did not finish."""


def main(argv: list[str] | None = None) -> int:
    """Train what is not there, evaluate, and write the table; 1 if a claim about RL does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--output", type=Path, default=RUN, metavar="DIR", help=f"the runs' folder ({RUN})")
    parser.add_argument(
        "--policies",
        type=Path,
        metavar="DIR",
        help="only make the policies of the first two rows, and put them there: rlnsp sweep --config stages "
        "looks for them in runs/stages",
    )
    args = parser.parse_args(argv)
    if args.policies:
        place_policies(args.output, args.policies)
        return 0
    rows = ablate(args.output)
    Console().print(table(rows))
    content = {
        "how": rows[0].evaluations[0].how,
        "rows": [row.to_json() for row in rows],
        "claims": claims(rows),
        "environment": {key: value for key, value in environment().items() if key != "command"},
    }
    (ROOT / "docs" / "stages.json").write_text(json.dumps(content, indent=2) + "\n")
    (ROOT / "docs" / "stages.md").write_text(page(rows, NEGATED_ITERATIONS))
    fill(ROOT / "README.md", markdown(rows), MARKS)
    failed = [claim for claim, holds in claims(rows).items() if not holds]
    for claim in failed:
        print(f"does not hold: {claim}")
    return 1 if failed else 0


def place_policies(output: Path, to: Path) -> None:
    """Copy what the first two rows have of their own, made where it must be, into ``to``."""
    world = files.policy_folder("world")
    before = before_rl(output, world)
    made = {
        "no_pretraining": no_pretraining(before, world),
        "pretraining_only": pretraining_only(before, world),
    }
    for name, policy in made.items():
        for part in ("transformer", "connector"):
            shutil.copytree(policy / part, to / name / part, dirs_exist_ok=True)


def before_rl(output: Path, world: Path) -> Path:
    """The folder of what stages 1 and 2 make, for these weights and configs."""
    configs = [config.find_config("world", folder) for folder in ("pretrain", "sft")]
    return output / f"stages-{key(world, *configs)}"


def ablate(output: Path) -> list[Row]:
    """Every row, trained where it must be."""
    world = files.policy_folder("world")
    before = before_rl(output, world)
    without = row(WITHOUT, [slot_of(no_pretraining(before, world))])
    pretrained = row(PRETRAINED, [slot_of(pretraining_only(before, world))], compared_to=without)
    tuned = row(SFT, [slot_of(world)], compared_to=pretrained)
    after = output / f"rl-{key(world, config.find_config('world'))}"
    runs = [reinforced(after / f"seed{seed}", f"--seed={seed}") for seed in TRAINING_SEEDS]
    shorter = f"trainer.num_iterations={NEGATED_ITERATIONS}"
    negated = reinforced(after / "negated", shorter, reward=f"{REWARD}=-1")
    return [
        without,
        pretrained,
        tuned,
        row(RL, runs, compared_to=tuned),
        row(CONTROL, [negated], compared_to=tuned),
    ]


def key(world: Path, *configs: Path) -> str:
    """Eight digits that change when the shipped weights or one of the configs do."""
    weights = json.loads((world / "manifest.json").read_text())["files"]
    content = [json.dumps(weights).encode(), *(path.read_bytes() for path in configs)]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:8]


def row(name: str, policies: Sequence[Slot | Path], compared_to: Row | None = None) -> Row:
    """Evaluate policies, each a slot or a run folder, as one line."""
    console = Console(stderr=True)
    evaluations = []
    for policy in policies:
        with console.status(f"{name}: evaluating"):
            evaluations.append(measure(policy))
        console.print(f"{name}: {evaluations[-1].interval(REWARD).mean:.3f}", highlight=False)
    return Row(name=name, evaluations=evaluations, compared_to=compared_to)


def measure(policy: Slot | Path) -> Evaluation:
    """Consistency and distance on the held-out scenes of the config ``world``."""
    run: RunConfig = config.load("world", [f"evaluation.num_seeds={EVALUATION_SEEDS}"], [REWARD])
    slot, where = (run.policy, str(policy)) if isinstance(policy, Path) else (policy, None)
    return evaluate(
        open_policy(slot, where),
        heldout_scenes(run.data, run.evaluation.num_scenes, run.evaluation.seed),
        build_rewards(run.rewards),
        run.sampler,
        run.evaluation,
        chunk_size=run.trainer.micro_batch_size,
    )


def slot_of(folder: Path) -> Slot:
    """A policy folder as a slot; what a second folder lacks is the shipped policy's."""
    if (folder / "vae").is_dir():
        return Slot(use="unified", config={"folder": str(folder)})
    own = {part: {"path": str(folder / part)} for part in ("transformer", "connector")}
    return Slot(use="unified", config={"folder": "world", **own})


def no_pretraining(output: Path, world: Path) -> Path:
    """Stage 2 on a fresh DiT, connector and queries: the shipped one, or trained here."""
    shipped = world_weights.shipped(world_weights.WITHOUT)
    if shipped.is_dir():
        return shipped
    return world_weights.without_pretraining(output / "no_pretraining", world)


def pretraining_only(output: Path, world: Path) -> Path:
    """What stage 1 made: the shipped one, that of ``make world-weights``, or made again here.

    The last starts from the shipped comprehension model and VAE, and does the rest of stage 1.
    """
    shipped, made = world_weights.shipped(world_weights.PRETRAINED), world_weights.RUN / "pretrain"
    settings = config.load_typed(stages.PretrainConfig, "world", folder="pretrain")
    if shipped.is_dir():
        return shipped
    if all((made / stage / "done.json").is_file() for stage in settings.text_to_video):
        return made / "policy"
    world_weights.share_clips(output / "no_pretraining" / "start", output / "pretrain")
    return world_weights.rest_of_stage_1(settings, world, output / "pretrain")


def reinforced(run: Path, *options: str, reward: str = REWARD) -> Path:
    """A run of ``rlnsp train``: new, gone on with, or done before.

    Raises:
        AblationFailed: it did not finish.
    """
    summary = run / "summary.json"
    if summary.is_file() and json.loads(summary.read_text())["status"] == "done":
        return run
    begun = any((run / "checkpoints").glob("step-*")) if run.is_dir() else False
    command = ["--resume", str(run)] if begun else ["--reward", reward, "--output", str(run), *options]
    if run.is_dir() and not begun:
        shutil.rmtree(run)  # stopped before its first checkpoint
    if code := cli.main(["train", *command]):
        raise AblationFailed(
            f"rlnsp train {' '.join(command)}: ended with {code}; repair it, and start again"
        )
    return run


if __name__ == "__main__":
    raise SystemExit(main())
