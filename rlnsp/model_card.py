"""The model card of an exported run: what it is, how it was made, what it scores, whose licence holds."""

import json
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from rlnsp import evaluations
from rlnsp.checkpoint import checkpoints, iteration_of
from rlnsp.data import WORLD
from rlnsp.dataset.hub import is_on_hub
from rlnsp.evaluate import LOWER_IS_BETTER, Interval, paired_difference
from rlnsp.evaluations import KeptEvaluation
from rlnsp.opening import EXPORTED
from rlnsp.settings import RunConfig

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
OPTIMISERS = {"adamw": "AdamW", "adamw_8bit": "AdamW with 8 bits of state"}


def card(run: Path, config: RunConfig, name: str, *, adapter_only: bool) -> str:
    """The card, as Markdown.

    Args:
        run: the run folder, or one of its checkpoints.
        config: the run's.
        name: of the exported folder.
        adapter_only: whether it holds the adapter alone.
    """
    run = run.resolve()
    whole = run.parents[1] if run.parent.name == "checkpoints" else run
    environment = _json(whole / "environment.json")
    iterations = _iterations(run, whole)
    kept = [one for one in evaluations.read(whole) if one.iteration <= iterations]
    before = next((one for one in kept if one.when == "before"), None)
    latest = kept[-1] if kept and kept[-1].when != "before" else None
    base = config.policy.config.get("folder") or "the parts named in its settings"
    optimised = [key for key, slot in config.rewards.items() if slot.weight]
    return (
        Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            front=_front_matter(config, base, adapter_only=adapter_only),
            name=name,
            version=environment.get("packages", {}).get("rlnsp", "?"),
            policy=config.policy.use,
            base=_shown(base),
            adapter_only=adapter_only,
            facts=_facts(config, environment, iterations),
            rows=_rows(before, latest),
            scenes=len(latest.evaluation.scene_ids) if latest else 0,
            how=latest.evaluation.how if latest else {},
            when=f"after {latest.iteration} iterations" if latest else "",
            optimised=", ".join(f"`{key}`" for key in optimised),
            settings=EXPORTED,
            num_steps=config.evaluation.num_steps or config.sampler.num_steps,
            guidance_scale=_guidance(config),
        )
    )


def _front_matter(config: RunConfig, base: str, *, adapter_only: bool) -> str:
    front: dict[str, Any] = {
        "license": "other",
        "library_name": "peft" if adapter_only else "diffusers",
        "pipeline_tag": "text-to-video",
        "tags": ["rlnsp", "next-scene-prediction", "reinforcement-learning", config.algorithm.use],
    }
    if base.count("/") == 1 and base[0] not in "./~" and not Path(base).exists():  # a model hub's id
        front["base_model"] = base
    return yaml.safe_dump(front, sort_keys=False)


def _facts(config: RunConfig, environment: dict[str, Any], iterations: int) -> dict[str, str]:
    trainer, sampler, window = config.trainer, config.sampler, config.sampler.window
    git = environment.get("git") or {}
    changed = " with changes" if git.get("changed") else ""
    return {
        "algorithm": config.algorithm.use,
        "iterations": f"{iterations}, each of {trainer.scenes_per_iteration} scenes x {trainer.group_size} "
        "samples",
        "optimiser": f"{OPTIMISERS[trainer.optimizer]}, learning rate {trainer.learning_rate:g}, "
        f"{trainer.precision}",
        "rollouts": f"{sampler.num_steps} steps, {sampler.rule} with noise level {sampler.noise_level:g} on "
        f"{window.size} of them, guidance {sampler.guidance_scale:g}",
        "rewards": "; ".join(
            f"`{Path(one.use).name}` with weight {one.weight:g}" for one in config.rewards.values()
        ),
        "training data": _data(config.data.train),
        "held-out data": _data(config.data.heldout),
        "seed": str(config.seed),
        "code": f"commit {git['commit']}{changed}" if git else "not from a checkout",
        "started": str(environment.get("started", "?")),
    }


def _rows(before: KeptEvaluation | None, after: KeptEvaluation | None) -> list[list[str]]:
    if after is None:
        return []
    rows = []
    for measure in after.evaluation.scores:
        first = before.evaluation.interval(measure) if before else None
        change = paired_difference(before.evaluation, after.evaluation, measure) if before else None
        name = f"{measure} (lower is better)" if measure in LOWER_IS_BETTER else measure
        last = after.evaluation.interval(measure)
        rows.append([name, _interval(first), _interval(last), _interval(change, "+")])
    return rows


def _interval(interval: Interval | None, sign: str = "") -> str:
    if interval is None or not interval.n:
        return "not measured"
    return f"{interval.mean:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"


def _iterations(run: Path, whole: Path) -> int:
    """Finished by the weights that are exported."""
    if run != whole:
        return iteration_of(run)
    saved = [iteration_of(path) for path in checkpoints(whole / "checkpoints")]
    return max([_json(whole / "summary.json").get("steps", 0), *saved])


def _guidance(config: RunConfig) -> float:
    own = config.evaluation.guidance_scale
    return config.sampler.guidance_scale if own is None else own


def _data(name: str) -> str:
    if is_on_hub(name):
        return f"the data set `{name}`"
    return "rlnsp's simulated world" if name == WORLD else f"the manifest `{Path(name).name}`"


def _shown(base: str) -> str:
    """A folder's own name: the rest of its path is nobody's business."""
    if base == WORLD:
        return "rlnsp's shipped world policy"
    return f"`{Path(base).name if Path(base).is_dir() else base}`"


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
