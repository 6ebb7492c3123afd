"""A run in several processes: who does what, and what they tell each other.

A launcher (``accelerate launch``, ``torchrun``) starts one command several times; each process is a rank.  Of
n things rank r does r, r + count, ...  What all of them decide on they decide alike, from the same scores
and the same gradients, so that they stay equal; what is written, rank 0 writes.

Where ranks share the tokens of a clip, so many in a row are a team: what is said here of a rank holds for a
team, each of whose ranks samples the same clips, and the first of which judges them.

All of it travels by gloo, through the CPU, on GPUs too: it is little, the scores and the trained weights'
gradient once an iteration, and where a process has died gloo raises in the others, at once.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rlnsp.protocols import Policy, SplitsTokens
from rlnsp.settings import ConfigError
from rlnsp.sharding import Sharding, asked_for, is_of_another
from rlnsp.types import Scores
from rlnsp.zero import Zero

T = TypeVar("T")


class RankEnded(RuntimeError):
    """Another process of the run has ended, so that this one must; the message says why, if that is known."""

    def __init__(self, reason: str, exit_code: int = 1, *, lost: bool = False) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        """What the other ends with."""
        self.lost = lost
        """It did not say that it would."""


class Ranks:
    """The processes of a run, of which this is one; alone, where no launcher started more.

    Every method that exchanges something must be called by all ranks, and raises ``RankEnded`` in the others
    where one has left in its place.
    """

    def __init__(
        self,
        rank: int = 0,
        count: int = 1,
        timeout_s: float = 0.0,
        sharding: Sharding | Zero | None = None,
        team_size: int = 1,
    ) -> None:
        self.rank, self.count, self.timeout_s, self.sharding = rank, count, timeout_s, sharding
        self.team_size, self.teams, self.team = team_size, count // team_size, rank // team_size
        self.sharded = False
        """The network itself computes only if all ranks do: each must call it as often as any other."""
        self.held: Callable[[], AbstractContextManager[None]] = nullcontext
        """What an exchange is in: two of its messages must not be cut apart by a signal."""
        self._over = count == 1

    @property
    def main(self) -> bool:
        """It writes what the run leaves, and speaks for all."""
        return self.rank == 0

    @property
    def first(self) -> bool:
        """It judges its team's clips, and speaks for it."""
        return self.rank % self.team_size == 0

    @property
    def frozen_spread(self) -> bool:
        """Whether frozen weights are, or will be, spread over the ranks."""
        return self.sharding is not None and self.sharding.frozen

    def share(self, n: int) -> list[int]:
        """Which of ``n`` things this rank's team does."""
        return list(range(self.team, n, self.teams))

    def merge(self, parts: Sequence[Sequence[T]]) -> list[T]:
        """Things in their order, from every team's share of them."""
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: len(parts)] = part
        return whole

    def exchange(self, own: T) -> list[T]:
        """What every rank has in the place of ``own``, which is JSON, by rank."""
        if self.count == 1:
            return [own]
        said = self._everyone({"value": own})
        ended = {rank: one for rank, one in enumerate(said) if "ended" in one}
        if ended:
            self._over = True
            rank, first = next(iter(ended.items()))
            raise RankEnded(f"rank {rank}: {first['ended']}", first["exit_code"])
        return [one["value"] for one in said]

    def of_teams(self, own: T) -> list[T]:
        """As ``exchange``, from the first of every team."""
        return self.exchange(own)[:: self.team_size]

    def of_main(self, own: T) -> T:
        """What rank 0 has in the place of ``own``, which is JSON."""
        return self.exchange(own if self.main else None)[0]  # pyright: ignore[reportReturnType]

    def collect(self, own: Sequence[T]) -> list[T]:
        """What all teams made of their shares, which is JSON, in the order of the things."""
        return self.merge(self.of_teams(list(own)))

    def scores(self, own: Scores, group_size: int) -> Scores:
        """The scores of all samples, from those of the groups that are this team's share.

        Args:
            own: of whole groups; of none, where this is not the first of its team.
            group_size: samples of each.
        """
        if self.count == 1:
            return own
        said = self.of_teams(
            {
                "raw": {name: values.view(-1, group_size).tolist() for name, values in own.raw.items()},
                "seconds": dict(own.seconds),
                "errors": dict(own.errors),
            }
        )
        raw = {name: self.merge([one["raw"][name] for one in said]) for name in own.raw}
        return Scores(
            raw={name: torch.tensor(groups, dtype=torch.float32).flatten() for name, groups in raw.items()},
            weights=own.weights,
            seconds={name: sum(one["seconds"][name] for one in said) for name in own.seconds},
            errors={name: error for one in said for name, error in one["errors"].items()},
        )

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all ranks into ``tensors``, which have one shape everywhere; in fp64."""
        if self.count == 1:
            return
        whole = torch.cat([tensor.detach().flatten().double().cpu() for tensor in tensors])
        with self._exchanging():
            self.exchange(None)  # who has left in the meantime says so here
            dist.all_reduce(whole)
        _fill(tensors, whole)

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Put rank 0's values into ``tensors``, which have one shape everywhere."""
        if self.count == 1:
            return
        whole = torch.cat([tensor.detach().flatten().float().cpu() for tensor in tensors])
        with self._exchanging():
            self.exchange(None)
            dist.broadcast(whole, src=0)
        _fill(tensors, whole)

    def to_main(self, own: Tensor) -> list[Tensor]:
        """On rank 0 every team's bytes ``own``, (n,) uint8, n as it may be; elsewhere nothing."""
        if self.count == 1:
            return [own]
        with self._exchanging():
            sizes = self.exchange(len(own))
            padded = torch.zeros(max(sizes), dtype=torch.uint8)
            padded[: len(own)] = own
            everyones = [torch.zeros_like(padded) for _ in sizes] if self.main else None
            dist.gather(padded, everyones)
        whole = [one[:size] for one, size in zip(everyones or [], sizes, strict=False)]
        return whole[:: self.team_size]

    def in_a_row(self, own: Tensor) -> Tensor:
        """(n * count,) on the CPU, every rank's ``own`` (n,) by rank."""
        parts = [torch.empty_like(own, device="cpu") for _ in range(self.count)]
        with self._exchanging():
            self.exchange(None)
            dist.all_gather(parts, own.detach().cpu())
        return torch.cat(parts)

    def check(self, num_scenes: int, num_heldout: int) -> None:
        """Raise ConfigError if there is no work for every rank, or not the same where there must be."""
        if num_scenes < self.teams:
            each = (
                "processes each samples" if self.team_size == 1 else f"teams of {self.team_size} each samples"
            )
            raise ConfigError(
                f"trainer.scenes_per_iteration is {num_scenes}, but of {self.teams} {each} "
                "whole groups: raise it, or start fewer"
            )
        for name, number in (("trainer.scenes_per_iteration", num_scenes), ("held-out scenes", num_heldout)):
            if self.frozen_spread and number % self.count:
                raise ConfigError(
                    f"{name}: {number} cannot be shared evenly by {self.count} processes, as they must be "
                    "where the weights are spread over them: give a multiple"
                )

    def shard(self, policy: Policy) -> None:
        """Let the ranks hold the policy's frozen weights together, or share a clip's tokens, where asked for.

        Raises:
            ConfigError: the policy cannot.
        """
        if self.sharding and self.sharding.frozen:
            self.sharding.shard(policy, self.count)
        if self.team_size > 1:
            if not isinstance(policy, SplitsTokens):
                raise ConfigError(
                    f"trainer.context_parallel is {self.team_size}, but {type(policy).__name__} has no "
                    "split_tokens(): give it one (rlnsp.protocols.SplitsTokens), or set 1"
                )
            policy.split_tokens(self.team_size)
        self.sharded = self.frozen_spread or self.team_size > 1

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A block in which a network or an optimiser that is spread may find out that a rank has ended."""
        try:
            yield
        except RuntimeError as error:
            if not (self.sharded or self.sharding) or not is_of_another(error):
                raise
            raise self._lost() from error

    def leave(self, reason: object, exit_code: int) -> bool:
        """Tell the others, wherever they are, that this rank ends; once, and not after another has ended.

        Where the network is sharded they may wait for this rank within it, and learn of it by its end.

        Returns:
            Whether rank 0 leaves at the same place, and so says why.
        """
        if self._over or self.sharded:
            return self.main
        self._over = True
        try:
            return "ended" in self._everyone({"ended": str(reason), "exit_code": exit_code})[0]
        except RankEnded:
            return self.main

    def close(self) -> None:
        """The end; nothing can be exchanged any more."""
        if self.count > 1:
            dist.destroy_process_group()

    def _everyone(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        text = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
        with self._exchanging():
            sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.count)]
            dist.all_gather(sizes, torch.tensor([len(text)]))
            padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
            padded[: len(text)] = text
            texts = [torch.zeros_like(padded) for _ in sizes]
            dist.all_gather(texts, padded)
        return [json.loads(one[:size].numpy().tobytes()) for one, size in zip(texts, sizes, strict=True)]

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        with self.held():
            try:
                yield
            except RankEnded:
                raise
            except RuntimeError as error:
                raise self._lost() from error

    def _lost(self) -> RankEnded:
        self._over = True
        return RankEnded(
            f"rank {self.rank}: another process of the run has ended, or did not answer for "
            f"{self.timeout_s:g} s (trainer.rank_timeout_s): see what it said itself",
            lost=True,
        )


def together(work: Callable[[Ranks], int], timeout_s: float, team_size: int = 1) -> int:
    """``work`` by this rank, joined with the others, none of whom is left waiting, however it ends.

    Args:
        work: gives the exit code.
        timeout_s: as for ``join``.
        team_size: as for ``join``.

    Returns:
        The exit code; where another rank has ended, that one's.

    Raises:
        ConfigError: the input is wrong; by one rank alone, where all find it so.
    """
    ranks = join(timeout_s, team_size)
    try:
        return work(ranks)
    except RankEnded as error:
        if ranks.main or error.lost:
            sys.stderr.write(f"rlnsp: error: {error}\n")
        return error.exit_code
    except ConfigError as error:
        if ranks.leave(error, exit_code=2) and not ranks.main:
            return 2  # rank 0 says it
        raise
    except BaseException as error:
        ranks.leave(f"{type(error).__name__}: {error}", exit_code=1)
        raise
    finally:
        ranks.close()


def join(timeout_s: float, team_size: int = 1) -> Ranks:
    """The ranks that a launcher started, each on a GPU of its own where there are GPUs.

    Args:
        timeout_s: the longest that a rank waits for another.
        team_size: ranks that share the tokens of a clip.

    Raises:
        ConfigError: a machine has more processes than GPUs; the processes do not find each other; or they
            cannot make up such teams.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    sharding = asked_for()
    if count % team_size:
        raise ConfigError(
            f"trainer.context_parallel is {team_size}, but {count} processes are no multiple of it: start as "
            "many by accelerate launch or torchrun, or set 1"
        )
    if sharding and team_size > 1:
        raise ConfigError(
            f"trainer.context_parallel is {team_size} and accelerate's config spreads the weights: take one "
            "of them"
        )
    if count == 1:
        return Ranks()
    if torch.cuda.is_available():
        place, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= there:
            raise ConfigError(
                f"process {place} of this machine (counted from 0) has no GPU, since there are {there}: "
                "start one process a GPU"
            )
        torch.cuda.set_device(place)
    try:
        on_gpus = (sharding or team_size > 1) and torch.cuda.is_available()
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the {count} processes of the run do not find each other ({str(error).splitlines()[0]}): start "
            "them by accelerate launch or torchrun"
        ) from error
    return Ranks(dist.get_rank(), count, timeout_s, sharding, team_size)


def weight_hash(policy: Policy) -> str:
    """Of the trained weights, names and bits: 16 hexadecimal digits, equal where the weights are."""
    found = hashlib.blake2b(digest_size=8)
    for name, value in sorted(policy.named_trainable()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _fill(tensors: Sequence[Tensor], whole: Tensor) -> None:
    parts = whole.split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
