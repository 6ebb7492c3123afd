"""Tiny folders for all tests of a session; a test that changes a policy loads its own from them."""

from pathlib import Path

import pytest
import torch

from policies.settings import Lora
from policies.unified import Unified
from policies.unified.model import UnifiedModel
from tests.policies.pipelines import NAMES, make_pipeline_folder
from tests.policies.tiny import make_model, make_policy_folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy_folder(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture(scope="session")
def pipeline_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny pipeline's folder for each policy that reads one."""
    root = tmp_path_factory.mktemp("pipelines")
    return {name: make_pipeline_folder(name, root / name) for name in NAMES}


@pytest.fixture
def model() -> UnifiedModel:
    return make_model()


@pytest.fixture
def policy(policy_folder: Path) -> Unified:
    return Unified(Unified.Config(folder=str(policy_folder), lora=Lora(rank=2, alpha=4.0)))


@pytest.fixture
def trained_policy(policy: Unified) -> Unified:
    """With an adapter that does something, as after some steps of RL."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, parameter in policy.named_trainable():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy
