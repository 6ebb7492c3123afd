"""``rlnsp plan`` on the embedded world's policy, whose weights are not read."""

import json
from dataclasses import replace

import pytest
import torch

from policies.unified import Unified
from rlnsp import cli, config
from rlnsp.plan import report
from rlnsp.plan.costs import Costs
from rlnsp.plan.estimate import GIB, RESERVE, Rates, estimate
from rlnsp.plan.remedies import Remedy, remedies
from rlnsp.plan.spread import Spread
from rlnsp.settings import ConfigError

GRPO = ["algorithm.use=grpo", "sampler.rule=cps", "sampler.window.size=3", "sampler.same_noise=true"]
SMALL = ["trainer.scenes_per_iteration=4", "trainer.group_size=8", "trainer.micro_batch_size=16"]


@pytest.fixture(scope="module")
def outline():
    return Unified.outline(Unified.Config())


@pytest.fixture(scope="module")
def costs(outline):
    return Costs(outline)


@pytest.fixture(scope="module")
def run():
    return config.load("world", [*GRPO, *SMALL])


def planned(run, costs, devices=1, memory=80.0 * GIB, spread: Spread = "none"):
    return estimate(run, costs, devices=devices, memory=memory, rates=Rates(), spread=spread)


def test_an_outline_has_the_sizes_of_the_policy(outline):
    policy = Unified(Unified.Config(device="cpu"))
    assert outline.trained == sum(value.numel() for _, value in policy.named_trainable())
    for name, own in {
        "comprehension": policy.model.comprehension.model,
        "connector": policy.model.connector,
        "VAE": policy.model.vae,
    }.items():
        assert outline.parts[name].parameters == sum(value.numel() for value in own.parameters())
        assert outline.parts[name].bytes == 4 * outline.parts[name].parameters
    assert outline.latent == tuple(policy.noise(1, torch.Generator()).shape[1:])
    condition = policy.model.encode_texts(["a ball"])
    assert outline.condition == tuple(condition.embeds.shape[1:])


def test_operations_grow_with_the_batch_and_double_with_guidance(costs):
    one, four = (costs.of_calls(batch, 1.0).flops for batch in (1, 4))
    assert four == 4 * one
    assert costs.of_calls(1, 3.0).flops == 2 * one
    trained = costs.of_training(1, 1.0).flops
    assert 2 * one < trained < 3 * one  # frozen weights have no gradient, the adapter's are small


def test_what_a_rollout_computes_once_a_group_is_not_counted_for_each_sample(run, costs):
    shared = planned(run, costs).flops["rollout"]
    apart = planned(replace(run, sampler=replace(run.sampler, same_noise=False)), costs).flops["rollout"]
    # 4 groups x 1 step + 32 samples x 7, in place of 32 x 8.
    assert shared / apart == pytest.approx((4 * 1 + 32 * 7) / (32 * 8))


def test_devices_share_the_groups_and_each_has_the_policy(run, costs):
    one, two = (planned(run, costs, devices=n) for n in (1, 2))
    assert two.samples == one.samples / 2
    assert two.flops["training"] == one.flops["training"] / 2
    assert two.stays["weights of the transformer"] == one.stays["weights of the transformer"]
    with pytest.raises(config.ConfigError, match="multiple of 3"):
        planned(run, costs, devices=3)


def test_only_the_best_and_worst_are_trained_on(run, costs):
    credit = {"credit": {"best_k": 1, "worst_k": 1}}
    chosen = replace(run, algorithm=replace(run.algorithm, config={**run.algorithm.config, **credit}))
    whole, few = planned(run, costs), planned(chosen, costs)
    assert few.flops["training"] == whole.flops["training"] * 2 / 8
    assert few.phases["training"]["their batch"] == whole.phases["training"]["their batch"] * 2 / 8


def test_the_optimiser_has_two_numbers_a_trained_parameter(run, costs):
    stays = planned(run, costs).stays
    assert (
        stays["optimiser"] == 2 * stays["adapter"] == 2 * stays["its gradient"] == 8 * costs.outline.trained
    )


def test_eight_bits_are_two_numbers_of_a_byte_and_a_scale_for_each_256(run, costs):
    small = replace(run, trainer=replace(run.trainer, optimizer="adamw_8bit"))
    assert planned(small, costs).stays["optimiser"] == costs.outline.trained * (2 + 2 * 4 / 256)


def test_a_run_that_shares_tokens_is_not_planned(run, costs):
    sharing = replace(run, trainer=replace(run.trainer, context_parallel=2))
    with pytest.raises(ConfigError, match="context_parallel is 2, of which a plan knows nothing"):
        planned(sharing, costs)


def test_a_peak_is_of_the_hungriest_phase_on_top_of_what_stays(run, costs):
    plan = planned(run, costs)
    phases = {name: sum(parts.values()) for name, parts in plan.phases.items()}
    assert plan.peak == sum(plan.stays.values()) + max(phases.values())
    assert phases[plan.worst_phase] == max(phases.values())
    tight = plan.peak / (1 - RESERVE)
    assert planned(run, costs, memory=tight * 1.001).fits
    assert not planned(run, costs, memory=tight * 0.999).fits


def test_a_part_that_waits_is_counted_while_it_is_used_alone(run, costs):
    waiting = Costs(Unified.outline(Unified.Config(offload=["comprehension", "vae"])))
    there, away = planned(run, costs), planned(run, waiting)
    for part, phase in (("comprehension", "reading"), ("VAE", "decoding")):
        name = f"weights of the {part}"
        assert away.phases[phase][name] == there.stays[name] == costs.outline.parts[part].bytes
        assert sum(name in place for place in (away.stays, *away.phases.values())) == 1
    assert {*there.stays} - {*away.stays} == {"weights of the comprehension", "weights of the VAE"}
    assert away.phases["reading"]["reading"] == there.phases["reading"]["reading"] > 0
    assert away.phases["training"] == there.phases["training"]
    assert away.flops == there.flops


def test_where_all_else_is_small_the_reader_is_told_to_wait(run):
    """Before iterations are made smaller, which train otherwise."""
    own = {**run.policy.config, "dtype": "bf16", "gradient_checkpointing": True, "decode_batch_size": 1}
    trainer = replace(run.trainer, scenes_per_iteration=2, group_size=2, micro_batch_size=2)
    tight = replace(run, policy=replace(run.policy, config=own), trainer=trainer)

    known = {}

    def plan_of(one, memory):
        waits = bool(one.policy.config["offload"])
        if waits not in known:
            known[waits] = Costs(Unified.outline(config.plugin_settings("policies", one.policy, "policy")))
        return planned(one, known[waits], memory=memory)

    memory = 0.95 * plan_of(tight, 1.0).peak / (1 - RESERVE)
    found = remedies(tight, lambda one, spread: plan_of(one, memory))
    assert [one.override for one in found] == ["policy.config.offload=[comprehension,vae]"]
    assert found[-1].plan.fits


def test_what_does_not_fit_is_made_to_by_settings_each_of_which_helps(run, costs):
    plan = planned(run, costs)
    target = sum(plan.stays.values()) + 0.3 * max(sum(p.values()) for p in plan.phases.values())
    memory = target / (1 - RESERVE)
    known = {json.dumps(run.policy.config): costs}

    def plan_of(one, spread="none"):
        policy = json.dumps(one.policy.config)
        if policy not in known:
            known[policy] = Costs(Unified.outline(config.plugin_settings("policies", one.policy, "policy")))
        return planned(one, known[policy], memory=memory)

    found = remedies(run, plan_of)
    peaks = [plan.peak, *(one.plan.peak for one in found)]
    assert len(found) >= 2
    assert peaks == sorted(peaks, reverse=True)
    assert found[-1].plan.fits
    again = config.load("world", [*GRPO, *SMALL, *(one.override for one in found)])
    assert plan_of(again).peak == pytest.approx(found[-1].plan.peak)


def test_no_remedy_leaves_a_device_without_a_scene(run, costs):
    """Twelve scenes of two devices may become six, but not three."""
    several = replace(run, trainer=replace(run.trainer, scenes_per_iteration=12))

    def plan_of(one, spread):
        return planned(one, costs, devices=2, memory=1.0)

    found = [one.override for one in remedies(several, plan_of)]
    assert "trainer.scenes_per_iteration=6" in found
    assert "trainer.scenes_per_iteration=3" not in found


def test_the_command_tells_what_would_fit_and_by_its_exit_code_whether_the_run_does(capsys):
    assert cli.main(["plan", *GRPO, *SMALL, "--memory-gb", "0.05", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"]
    assert found["remedies"]
    assert found["remedies"][-1]["peak"] <= found["memory"] * 0.9 < found["peak"]
    assert found["assumed"]["tflops"] == 312
    assert cli.main(["plan", *GRPO, *SMALL]) == 0
    said = capsys.readouterr().out
    assert "fits: 0." in said
    assert "assumed: 312 TFLOP/s" in said


def test_frozen_weights_that_are_spread_are_held_in_parts_and_gathered_where_the_denoiser_computes(
    run, costs
):
    one, spread = (planned(run, costs, devices=2, spread=how) for how in ("none", "weights"))
    whole = one.stays["weights of the transformer"]
    assert spread.stays["weights of the transformer"] == whole / 2
    alike = {**one.stays, "weights of the transformer": whole / 2}
    assert spread.stays == alike  # the adapter, its gradient and its optimiser too
    gathered = costs.spreadable.gathered("weights", trained=False)
    for phase, parts in one.phases.items():
        more = {"gathered weights": gathered} if phase in ("rollout", "training") else {}
        assert spread.phases[phase] == {**parts, **more}
    assert spread.phases["loading"] == {"weights that others will hold": whole / 2}  # to begin with


def test_blocks_and_what_is_outside_of_them_make_up_the_frozen_transformer(costs):
    policy = Unified(Unified.Config(device="cpu"))
    frozen = {name: p for name, p in policy.model.transformer.named_parameters() if not p.requires_grad}
    blocks = sum(4 * p.numel() for name, p in frozen.items() if "transformer_blocks" in name)
    held = costs.spreadable
    assert held.bytes == sum(4 * p.numel() for p in frozen.values())
    assert held.block == blocks / costs.outline.blocks
    assert held.outside == held.bytes - blocks


def test_spread_gradients_leave_frozen_weights_whole_on_each(run, costs):
    one, spread = (planned(run, costs, devices=2, spread=how) for how in ("none", "gradients"))
    assert spread.phases == one.phases
    assert spread.peak > one.peak


def test_several_devices_that_it_does_not_fit_on_are_told_to_spread_the_weights(run, costs):
    """Before iterations get smaller, and where a policy's may be spread."""
    least = replace(run, trainer=replace(run.trainer, micro_batch_size=1, rollout_batch_size=1))
    own = {**run.policy.config, "gradient_checkpointing": True, "decode_batch_size": 1, "dtype": "bf16"}
    least = replace(least, policy=replace(run.policy, config=own))  # no other setting is left
    plan = planned(least, costs, devices=2)

    def plan_of(one, spread):
        of_frozen = {"none": 1e9, "gradients": 1.2e9, "weights": 6e8}[spread]
        memory = (plan.peak + 6e8) / (1 - RESERVE) * 1.000001
        return replace(plan, memory=memory, stays={**plan.stays, "frozen": of_frozen})

    (one,) = remedies(least, plan_of, can_spread=True)
    assert one.override == "--spread weights"
    assert one.plan.fits
    assert remedies(least, plan_of, "gradients", can_spread=True)[0].override == "--spread weights"
    assert remedies(least, plan_of) == []


def test_a_run_that_nothing_makes_fit_is_told_so(run, costs):
    plan = planned(run, costs, memory=1.0)
    assert "that is not enough" in report.verdict(plan, Rates(), [])
    fits = Remedy(override="a=b", plan=planned(run, costs))
    assert "that is not enough" not in report.verdict(plan, Rates(), [fits])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--gpus", "0"], "--gpus must be at least 1"),
        (["--memory-gb", "-1"], "--memory-gb must be positive"),
        (["--mfu", "1.5"], "--mfu must be in (0, 1]"),
        (["policy.use=rlnsp.testing:ToyPolicy"], "cannot be planned with"),
        (["--spread", "weights"], "--spread weights: a device alone shares nothing"),
        (["policy.config.train_connector=true"], "counts the adapter's training alone"),
    ],
)
def test_what_cannot_be_planned_is_a_line(capsys, argv, says):
    assert cli.main(["plan", *argv]) == 2
    assert says in capsys.readouterr().err
