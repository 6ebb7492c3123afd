"""The connector's start, by number."""

import math

import pytest
import torch

from policies.unified.connector import Connector, new_connector, with_added_queries


@pytest.fixture
def connector():
    return new_connector(num_queries=3, width=32, out=24)


def test_it_starts_at_the_papers_numbers(connector):
    assert connector.norm.weight.tolist() == pytest.approx([math.sqrt(5.5)] * 24)
    assert connector.scale.tolist() == pytest.approx([0.01])
    assert connector.config["hidden"] == 24


@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_its_output_starts_at_one_size_whatever_qwens(connector, size):
    """RMSNorm makes the root mean square 1: times sqrt(5.5) times 0.01 it is 0.02345."""
    hidden = size * torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    rms = connector(hidden).pow(2).mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.full((2, 3), 0.01 * math.sqrt(5.5)), rtol=1e-3, atol=0)


def test_it_is_linear_silu_linear_norm_scale(connector):
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    inside = x @ connector.proj_in.weight.T + connector.proj_in.bias
    y = (inside * torch.sigmoid(inside)) @ connector.proj_out.weight.T + connector.proj_out.bias
    expected = y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * connector.norm.weight * connector.scale
    torch.testing.assert_close(connector(x), expected)


def test_every_parameter_learns(connector):
    connector(connector.queries[None] * 3).pow(3).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in connector.parameters())


def test_the_seed_alone_decides_and_the_global_generator_stays(connector):
    state = torch.random.get_rng_state()
    again, other = (new_connector(num_queries=3, width=32, out=24, seed=s) for s in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(again.queries, connector.queries)
    assert not torch.equal(other.queries, connector.queries)


def test_it_comes_back_from_a_folder(connector, tmp_path):
    connector.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    loaded = Connector.from_pretrained(tmp_path)
    for name, value in connector.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_added_queries_come_last_and_change_nothing_else(connector):
    added = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    state = torch.random.get_rng_state()
    made = with_added_queries(connector, added)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert made.config["num_queries"] == 5
    assert torch.equal(made.queries, torch.cat([connector.queries, added]))
    x = torch.randn(1, 3, 32)
    assert torch.equal(made(x), connector(x))
    assert len(connector.queries) == 3
