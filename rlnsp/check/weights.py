"""The weights: which are trained, whether they are numbers, and a hash by which copies are compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import torch

from rlnsp.check.report import Finding, note, right, wrong
from rlnsp.check.subject import Subject
from rlnsp.distributed import weight_hash

ADAPTER = re.compile(r"^(?P<module>.*?)\.lora_[A-Za-z_]+(\..*)?$")
"""The name of one of peft's LoRA tensors."""


def trained_weights(subject: Subject) -> Finding:
    """There are some, each asks for a gradient, each is finite; which modules a LoRA is on."""
    trained = dict(subject.bare.named_trainable())
    if not trained:
        return wrong(
            "named_trainable lists no parameter: an adapter whose targets match no layer trains nothing",
            "name targets that are ends of the network's module names, or list what is to be trained",
        )
    frozen = [name for name, value in trained.items() if not value.requires_grad]
    if frozen:
        return wrong(
            f"{_some(frozen)} of named_trainable cannot have a gradient",
            "set requires_grad on it, or leave it out of named_trainable",
        )
    broken = [name for name, value in trained.items() if not bool(value.isfinite().all())]
    if broken:
        return wrong(
            f"{_some(broken)} has weights that are NaN or infinite",
            "load weights that are whole: look at the checkpoint or adapter they are from",
        )
    count = sum(value.numel() for value in trained.values())
    dtypes = Counter(str(value.dtype).removeprefix("torch.") for value in trained.values())
    says = f"{count:,} in {len(trained)} tensors, {' and '.join(sorted(dtypes))}, all finite"
    modules = lora_modules(trained)
    if modules:
        ends = Counter(re.sub(r".*\.(?=[^.]*[^.\d])", "", module) for module in modules)
        says += f"; LoRA on {len(modules)} modules: {', '.join(f'{n} {end}' for end, n in ends.items())}"
    return right(says, {"parameters": count, "tensors": len(trained), "lora_modules": len(modules)})


def lora_modules(names: Iterable[str]) -> list[str]:
    """The modules that carry a LoRA, in order, by the names of its tensors."""
    return list(dict.fromkeys(match["module"] for name in names if (match := ADAPTER.match(name))))


def velocity(subject: Subject) -> Finding:
    """Finite at noise and near data, which weights that RL does not train decide as well."""
    policy, scenes = subject.policy, subject.scenes[:2]
    with torch.no_grad():
        condition = policy.encode(scenes)
        if not bool(condition.embeds.isfinite().all()):
            return wrong(
                f"encode gives NaN or infinity for scene {scenes[0].id!r} or {scenes[-1].id!r}",
                "look for NaN in the frozen weights that encode; raise the precision if they are whole",
            )
        x = policy.noise(len(scenes), torch.Generator().manual_seed(0))
        for sigma in (1.0, 0.1):
            v = policy.velocity(x, torch.full((len(x),), sigma).to(x), condition)
            if not bool(v.isfinite().all()):
                return wrong(
                    f"NaN or infinity at sigma {sigma:g}",
                    "look for NaN in the frozen weights; raise the precision if they are whole",
                )
        size = float(v.square().mean().sqrt())
    return right(f"finite; root mean square {size:.3g} near data")


def ranks(subject: Subject) -> Finding:
    """That all processes that a launcher started begin from the same weights."""
    found = weight_hash(subject.bare)
    hashes = subject.ranks.exchange(found)
    others = [str(rank) for rank, one in enumerate(hashes) if one != hashes[0]]
    if others:
        return wrong(
            f"the trained weights of rank {', '.join(others)} are not those of rank 0",
            "let every machine have the same weights, the same versions of packages and the same config",
            {"ranks": len(hashes), "weight_hash": found},
        )
    if len(hashes) > 1:
        return right(
            f"{len(hashes)} processes have the same trained weights, whose hash is {found}",
            {"ranks": len(hashes), "weight_hash": found},
        )
    return note(
        f"one process, so nothing to compare; the trained weights' hash is {found}",
        figures={"ranks": 1, "weight_hash": found},
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
