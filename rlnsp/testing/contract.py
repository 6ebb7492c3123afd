"""What a reward must be like to be trained on, found out by asking it: a verdict a line."""

import math
import resource
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from rlnsp.built_reward import BuiltReward
from rlnsp.declaration import Fault
from rlnsp.evaluate import bootstrap_mean
from rlnsp.lane import in_background
from rlnsp.redaction import redacted
from rlnsp.testing.bench import Bench
from rlnsp.testing.outage import no_servers
from rlnsp.types import Sample, rows_by_scene

Verdict = Literal["pass", "fail", "note"]
Scored = list[float | None]

TOLERANCE = 1e-4
"""Largest difference, relative to the largest score, of a group in a batch: kernels round by shape."""
LONGEST_S = 60.0
"""A call while servers are away."""
KEPT_MIB = 1.0
"""Memory that a call may leave behind."""
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the verdict."""

    claim: str
    verdict: Verdict
    """``note``: told, and neither right nor wrong."""
    detail: str
    value: float | None = None


def examine(reward: BuiltReward, bench: Bench, *, deterministic: bool = True) -> list[Finding]:
    """Ask a reward about the clips of ``bench`` in several ways, and compare what it says.

    Args:
        reward: a built one; its ``timeout_s`` holds here too.
        bench: at least one group.
        deterministic: it answers the same question alike; False for a judge that draws.
    """
    samples = bench.samples
    before = [sample.frames.copy() for sample in samples]
    try:
        start = time.perf_counter()
        answer = _ask(reward, samples)
        seconds = time.perf_counter() - start
        shaped = _shape(answer, samples)
    except Exception as error:  # anything at all may come out of a stranger's code
        return [_finding("answers", False, f"raised {_said(error)}")]
    if any(finding.verdict == "fail" for finding in shaped):
        return shaped
    values = _scored(answer)
    findings = [*shaped, _range(reward, values), _leaves_alone(samples, before)]
    try:
        findings += _consistent(reward, samples, values, deterministic)
        findings += [*_telling(reward, bench, values), _spread(bench, values)]
        findings += [*_cost(reward, samples, seconds), _without_servers(reward, samples, values)]
    except Exception as error:  # as above
        findings.append(_finding("answers", False, f"on being asked again raised {_said(error)}"))
    return findings


def _shape(answer: Any, samples: Sequence[Sample]) -> list[Finding]:
    values = list(answer)
    count = f"{len(values)} values for {len(samples)} samples"
    if len(values) != len(samples):
        return [_finding("length", False, f"a reward must return one value a sample: {count}")]
    for sample, value in zip(samples, values, strict=True):
        if value is not None and not math.isfinite(float(value)):
            detail = f"scene {sample.scene.id!r}: a score must be finite or None; got {value!r}"
            return [_finding("length", True, count), _finding("finite", False, detail)]
    missing = sum(value is None for value in values)
    detail = f"{len(values) - missing} scored, {missing} None"
    return [_finding("length", True, count), _finding("finite", True if not missing else None, detail)]


def _range(reward: BuiltReward, values: Scored) -> Finding:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return _finding("range", None, "nothing was scored")
    seen, stated = f"{min(numbers):.4g} to {max(numbers):.4g} here", reward.declaration.range
    if stated is None:
        return _finding("range", None, f"{seen}; states none: @declares(range=(least, greatest))")
    low, high = stated
    inside = all(low <= number <= high for number in numbers)
    return _finding("range", inside, f"{seen}; states {low:g} to {high:g}")


def _leaves_alone(samples: Sequence[Sample], before: Sequence[np.ndarray]) -> Finding:
    same = all(np.array_equal(old, sample.frames) for old, sample in zip(before, samples, strict=True))
    claim = "leaves clips alone"
    return _finding(claim, same, "" if same else "a reward must not write into the frames it is given")


def _consistent(
    reward: BuiltReward, samples: list[Sample], values: Scored, deterministic: bool
) -> Iterator[Finding]:
    if not deterministic:
        yield _finding("deterministic", None, "not asked for")
        return
    same = _scored(_ask(reward, samples)) == values
    detail = "" if same else "asked twice, the reward answers differently; pass deterministic=False"
    yield _finding("deterministic", same, detail)
    ids = list(dict.fromkeys(sample.scene.id for sample in samples))
    alone: Scored = []
    for id in ids:
        alone += _scored(_ask(reward, [sample for sample in samples if sample.scene.id == id]))
    by_scene = [value for id in ids for value, s in zip(values, samples, strict=True) if s.scene.id == id]
    claim = "scores must be the same whether groups come alone or together"
    yield _same("batch size", alone, by_scene, claim)
    turned = _scored(_ask(reward, samples[::-1]))
    yield _same("order", turned[::-1], values, "scores must follow their samples when they change places")


def _same(claim: str, found: Scored, expected: Scored, must: str) -> Finding:
    if [value is None for value in found] != [value is None for value in expected]:
        return _finding(claim, False, f"{must}; some are None only sometimes")
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None and b is not None]
    difference = max((abs(a - b) for a, b in pairs), default=0.0)
    fine = difference <= TOLERANCE * max((abs(b) for _, b in pairs), default=1.0)
    return _finding(
        claim, fine, f"largest difference {difference:.3g}" if fine else f"{must}; {difference:.3g}"
    )


def _telling(reward: BuiltReward, bench: Bench, values: Scored) -> Iterator[Finding]:
    """In a group, how often the true clip scores higher, ties counted half: an AUC, with its interval."""
    if bench.faults is None or reward.needs("latents"):
        return
    for fault in get_args(Fault):
        claim = f"true over {fault}"
        shares = np.array(list(_shares(bench, values, fault)))
        declared = fault in reward.declaration.tells
        if not len(shares):
            yield _finding(claim, False if declared else None, "nothing was scored that could be compared")
            continue
        auc = bootstrap_mean(shares, RESAMPLES)
        detail = f"AUC {auc.mean:.3f}, {auc.low:.3f} to {auc.high:.3f}"
        detail += "" if declared else "; states nothing: @declares(tells=(...))"
        yield _finding(claim, auc.low > 0.5 if declared else None, detail, auc.mean)


def _shares(bench: Bench, values: Scored, fault: Fault) -> Iterator[float]:
    """A number a scene."""
    for rows in rows_by_scene(bench.samples):
        known = [(bench.faults[row], values[row]) for row in rows] if bench.faults else []
        true = [value for kind, value in known if kind is None and value is not None]
        wrong = [value for kind, value in known if kind == fault and value is not None]
        wins = [(a > b) + (a == b) / 2 for a in true for b in wrong]
        if wins:
            yield sum(wins) / len(wins)


def _spread(bench: Bench, values: Scored) -> Finding:
    groups = [[v for row in rows if (v := values[row]) is not None] for rows in rows_by_scene(bench.samples)]
    groups = [group for group in groups if len(group) > 1]
    stds = [float(np.std(group)) if max(group) > min(group) else 0.0 for group in groups]
    share = sum(std > 0 for std in stds) / len(stds) if stds else 0.0
    detail = f"{share:.0%} of {len(stds)} groups have one, on average {np.mean(stds) if stds else 0:.3g}"
    if bench.faults is None or not stds:
        return _finding("spread in groups", None, detail, share)
    return _finding("spread in groups", share > 0, detail if share else f"{detail}: nothing to learn", share)


def _cost(reward: BuiltReward, samples: list[Sample], seconds: float) -> Iterator[Finding]:
    group = [samples[row] for row in rows_by_scene(samples)[0]]
    tracemalloc.start()
    try:
        _ask(reward, group)  # what is kept for good is kept by now
        first, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(4):
            _ask(reward, group)
        last, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    start = time.perf_counter()
    _ask(reward, group)
    latency = time.perf_counter() - start
    yield _finding("latency", None, f"{latency * 1000:.1f} ms for a group of {len(group)}", latency)
    rate = len(samples) / seconds
    yield _finding("throughput", None, f"{rate:.0f} clips/s in a call of {len(samples)}", rate)
    kept = (last - first) / 4 / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    detail = f"{(peak - first) / 2**20:.1f} MiB for a group, {max(kept, 0):.2f} MiB kept a call"
    detail += f"; the process {rss:.0f} MiB at most"
    yield _finding("memory", kept <= KEPT_MIB, detail, kept)


def _without_servers(reward: BuiltReward, samples: list[Sample], values: Scored) -> Finding:
    rows = rows_by_scene(samples)[0]
    patient = replace(reward, timeout_s=reward.timeout_s or LONGEST_S)
    claim = "server away"
    with no_servers() as outage:
        try:
            found = _scored(_ask(patient, [samples[row] for row in rows]))
        except Exception as error:  # as above
            if not outage.tried:
                return _finding(claim, False, f"asks none, yet raised {_said(error)}")
            return _finding(claim, True, f"raises {_said(error)}")
    if not outage.tried:
        return _finding(claim, None, "asks no server")
    made_up = [v for row, v in zip(rows, found, strict=True) if v is not None and v != values[row]]
    detail = f"gave {made_up[0]:g}, a score that nobody gave: raise, or return None" if made_up else "None"
    return _finding(claim, not made_up, detail)


def _ask(reward: BuiltReward, samples: Sequence[Sample]) -> Any:
    return in_background(reward.ask(samples)).result()


def _scored(answer: Any) -> Scored:
    return [None if value is None or isinstance(value, BaseException) else float(value) for value in answer]


def _said(error: Exception) -> str:
    return redacted(f"{type(error).__name__}: {error}")


def _finding(claim: str, fine: bool | None, detail: str, value: float | None = None) -> Finding:
    verdict: Verdict = "note" if fine is None else "pass" if fine else "fail"
    return Finding(claim=claim, verdict=verdict, detail=detail, value=value)
