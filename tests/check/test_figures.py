"""The numbers that check shows, each against one that is known otherwise."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from rlnsp.check.cost import cost, trajectory_bytes
from rlnsp.check.examination import examine
from rlnsp.check.practice import Practice, reached
from rlnsp.check.report import Report, note, wrong
from rlnsp.check.scores import groups
from rlnsp.check.subject import Answer, kept
from rlnsp.check.weights import lora_modules, ranks
from rlnsp.distributed import Ranks, weight_hash
from rlnsp.settings import WindowConfig
from rlnsp.testing import ToyPolicy
from tests.check import faults
from tests.check.runs import subject_of


def test_the_clip_in_nats_is_the_clip_times_the_latents_dimensions():
    # 2 frames of 4 x 4 tokens with 3 channels
    figures = examine(subject_of(updates_per_rollout=2)).findings["clip"].figures
    assert figures["latent_dims"] == 96
    assert figures["clip_nats"] == pytest.approx(96e-4)


def test_a_clip_in_nats_is_shared_among_the_dimensions():
    one = subject_of(settings={"clip_nats": 0.96})
    assert one.clip == pytest.approx(0.01)


def test_the_piece_fills_a_micro_batch_and_has_no_more_scenes_than_an_iteration():
    # 48 transitions a micro-batch, 4 samples x 2 steps a scene: 6 scenes
    assert len(subject_of(micro_batch_size=48, scenes_per_iteration=8).scenes) == 6
    assert len(subject_of(micro_batch_size=48, scenes_per_iteration=3).scenes) == 3
    assert len(subject_of(micro_batch_size=1, scenes_per_iteration=8).scenes) == 4


def test_the_share_of_flat_groups_is_that_of_the_rewards_answers():
    one = subject_of(scenes_per_iteration=8)
    answer = one.answers["given"]
    assert isinstance(answer, Answer)
    answer.raw[:4] = 7.0
    finding = groups(one)
    assert finding.says == "1 of 4 groups of 4 have no spread"
    assert finding.figures["zero_variance_groups"] == 0.25
    answer.raw[:8] = 7.0
    assert groups(one).verdict == "note"


def test_the_cost_is_scaled_by_what_is_left_to_do():
    """4 of 8 scenes: 2 times the samples and transitions; two updates a rollout replay the anchors, too."""
    one = subject_of(scenes_per_iteration=8, updates_per_rollout=2, num_iterations=10)
    trajectory, rolling = one.timed_rollout
    made = len(trajectory.samples)
    assert made == 16
    one.answers["given"] = Answer(raw=torch.zeros(made), seconds=0.5)
    practice = Practice(transitions=len(one.batch) // 4, seconds=0.25, anchor_seconds=0.125)
    figures = cost(one, practice).figures
    assert figures["rollout_seconds"] == pytest.approx(2 * rolling)
    assert figures["reward_seconds"] == 1.0
    assert figures["optimise_seconds"] == (2 * 0.25 + 0.125) * 2 * 4
    assert figures["seconds"] == pytest.approx(2 * rolling + 1 + 5)
    assert figures["run_seconds"] == pytest.approx(10 * (2 * rolling + 6))
    assert figures["trajectory_bytes"] == 2 * trajectory_bytes(trajectory)


def test_the_bytes_of_a_rollout_are_its_latents_and_clips():
    one = subject_of(sampler={"window": WindowConfig(size=3)})
    # 16 samples: 96 latent dimensions in fp32, 1 final and 3 tensors of 3 steps; clips of 2 x 16 x 16 x 3
    latents, clips = 16 * 96 * 4 * (1 + 3 * 3), 16 * 2 * 16 * 16 * 3
    rest = 16 * 8 + (3 + 3 + 4) * 4  # group; sigma, sigma_next and levels
    assert trajectory_bytes(one.trajectory) == latents + clips + rest


@pytest.mark.parametrize(("other", "verdict"), [(None, "pass"), ("0123", "fail")])
def test_processes_that_a_launcher_started_must_begin_from_the_same_weights(other, verdict):
    class Two(Ranks):
        def exchange(self, own):
            return [own, other or own]

    found = ranks(replace(subject_of(), ranks=Two()))
    assert found.verdict == verdict
    assert found.figures["ranks"] == 2
    assert ("rank 1 are not those of rank 0" in found.says) == (other is not None)


def test_the_weight_hash_is_of_names_and_bits():
    policy, same = (ToyPolicy(ToyPolicy.Config()) for _ in range(2))
    assert weight_hash(policy) == weight_hash(same)
    next(same.named_trainable())[1].data[0, 0] += 1e-6
    assert weight_hash(policy) != weight_hash(same)
    half = ToyPolicy(ToyPolicy.Config())
    half.network.bfloat16()
    assert weight_hash(half) != weight_hash(policy)
    half.network.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))  # of no dimension
    assert weight_hash(half) == weight_hash(half)


def test_lora_modules_are_those_of_pefts_names():
    names = [
        "base.blocks.0.to_q.lora_A.default.weight",
        "base.blocks.0.to_q.lora_B.default.weight",
        "base.blocks.1.to_out.0.lora_A.default.weight",
        "connector.scale",
    ]
    assert lora_modules(names) == ["base.blocks.0.to_q", "base.blocks.1.to_out.0"]


def test_what_a_loss_reaches_is_every_leaf_with_a_path_to_it():
    used, unused, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), torch.ones(2)
    loss = (used * frozen + (unused * 2).detach()).sum()
    assert [id(leaf) for leaf in reached(loss)] == [id(used)]
    assert reached(frozen.sum()) == []


def test_kept_weights_come_back_even_from_an_error():
    policy = ToyPolicy(ToyPolicy.Config())
    before = weight_hash(policy)

    def change_and_fail():
        with kept(policy):
            for _, value in policy.named_trainable():
                value.data.add_(1)
            raise RuntimeError(weight_hash(policy))

    with pytest.raises(RuntimeError) as error:
        change_and_fail()
    assert str(error.value) != before
    assert weight_hash(policy) == before


def test_a_figure_that_is_not_finite_is_null_in_json():
    report = Report(findings={"a": note("x", figures={"n": float("nan"), "k": 1})}, seconds=1.0)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["checks"][0]["figures"] == {
        "n": None,
        "k": 1,
    }


def test_brackets_in_what_is_found_are_not_markup():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(Report(findings={"a": wrong("got [0, 1]", "give [red]")}, seconds=1.0).as_table("t"))
    said = console.export_text()
    assert "got [0, 1]" in said
    assert "give [red]" in said


def test_every_check_tells_its_name_as_it_begins():
    told: list[str] = []
    report = examine(subject_of(), say=told.append)
    assert [*told, "restored"] == list(report.findings)


def test_another_precision_is_tried_as_well():
    figures = examine(subject_of(policy=faults.Trained, learning_rate=1e-2)).findings["ratio moves"].figures
    assert set(figures) == {"movement_fp32", "movement_bf16"}
    assert min(float(value) for value in figures.values()) > 1e-6


def test_drift_is_measured_against_the_rollouts_own_means():
    one = subject_of()
    moved = replace(one.batch, rollout_mean=one.batch.rollout_mean + 0.01)  # pyright: ignore[reportOptionalOperand]
    vars(one)["batch"] = moved
    report = examine(one)
    assert report.failed == ["drift"]
