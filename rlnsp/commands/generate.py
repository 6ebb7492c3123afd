"""``rlnsp generate``: the clip that follows a scene, as an mp4."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlnsp import config
from rlnsp.commands.train import add_config_arguments, overrides_of
from rlnsp.opening import check_can_make, is_run, open_policy
from rlnsp.settings import ConfigError

EXAMPLE = """\
examples:
  rlnsp generate "A red ball rolls right toward a blue box." -o next.mp4
  rlnsp generate "A red ball rolls right toward a blue box." --policy runs/demo evaluation.num_steps=16
  rlnsp generate "A red ball rolls right." --context-clip ball.mp4 --policy runs/demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp generate``."""
    parser.epilog = EXAMPLE
    parser.add_argument("context", help="the preceding scene, in words")
    parser.add_argument(
        "--context-clip", type=Path, metavar="VIDEO", help="the preceding scene as a video, beside the words"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("next.mp4"), metavar="FILE.mp4", help="(next.mp4)"
    )
    parser.add_argument(
        "--policy",
        metavar="RUN_OR_FOLDER",
        help="a run folder, or a policy folder (as the config says: world)",
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        default=1,
        metavar="N",
        help="several: next-0.mp4, next-1.mp4 and so on (1)",
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Generate and write; the exit code."""
    output: Path = args.output
    if output.suffix != ".mp4":
        raise ConfigError(f"--output {output}: must end in .mp4")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}; make it first")
    clip: Path | None = args.context_clip
    if clip is not None and not clip.is_file():
        raise ConfigError(f"--context-clip {clip}: there is no such file")
    if args.num_samples < 1:
        raise ConfigError(f"--num-samples must be at least 1; got {args.num_samples}")
    if not args.context.strip():
        raise ConfigError("the context is empty; say what happens before, such as 'A red ball rolls right.'")
    own = Path(args.policy or "") / "config.yaml"
    default = own if args.policy and is_run(args.policy) else "world"
    run_config = config.load(args.config or default, overrides_of(args))

    from rlnsp.manifest import write_clip
    from rlnsp.randomness import Randomness
    from rlnsp.rollout import sample  # brings torch
    from rlnsp.types import Scene

    policy = open_policy(run_config.policy, args.policy)
    scenes = [
        Scene(id=f"generate-{number}", context=args.context, context_clip=clip)
        for number in range(args.num_samples)
    ]
    check_can_make(policy, scenes)
    generator = Randomness(seed=run_config.seed).generator("generate")
    video = sample(
        policy,
        scenes,
        run_config.sampler,
        generator,
        chunk_size=16,
        num_steps=run_config.evaluation.num_steps,
        guidance_scale=run_config.evaluation.guidance_scale,
    )
    many = len(scenes) > 1
    for number, frames in enumerate(video.frames):
        path = output.with_stem(f"{output.stem}-{number}") if many else output
        write_clip(path, frames, video.fps)
        print(path)
    return 0
