"""Latent queries and the connector that tames Qwen's variance for LTX.

Shapes: B rows, Q queries, W comprehension width, D caption channels of the DiT.
"""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

NORM_WEIGHT = math.sqrt(5.5)
SCALE = 0.01


class Connector(ModelMixin, ConfigMixin):
    """Linear -> SiLU -> Linear -> RMSNorm -> learnable scale, and the queries (arXiv 2512.13015).

    Qwen's hidden states vary orders of magnitude more than those of the text encoder LTX was trained with.
    RMSNorm's weight starts at sqrt(5.5) and the scale at 0.01, so that every output starts at root mean
    square 0.0235.
    """

    @register_to_config
    def __init__(self, num_queries: int, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, width) / math.sqrt(width))
        self.proj_in = nn.Linear(width, hidden)
        self.act = nn.SiLU()
        self.proj_out = nn.Linear(hidden, out)
        self.norm = nn.RMSNorm(out, eps=1e-6)
        self.scale = nn.Parameter(torch.tensor([SCALE]))
        nn.init.constant_(self.norm.weight, NORM_WEIGHT)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, Q, D) fp32 of the queries' last hidden states (B, Q, W)."""
        x = hidden_states.to(self.proj_in.weight.dtype)
        # The norm stays in fp32 under autocast: the DiT sees nothing but what leaves it.
        return self.norm(self.proj_out(self.act(self.proj_in(x))).float()) * self.scale


def new_connector(
    *,
    num_queries: int,
    width: int,
    out: int,
    hidden: int | None = None,
    seed: int = 0,
    vocabulary: Tensor | None = None,
) -> Connector:
    """A connector with fresh weights, the same for the same seed; torch's global generator is left as it was.

    Args:
        num_queries: latent queries; the paper has 256.
        width: the comprehension model's hidden size.
        out: the DiT's ``caption_channels``.
        hidden: width between the two linear layers; ``out`` if None.
        seed: of the weights and queries.
        vocabulary: (V, width) embeddings of the comprehension model's tokens; queries start as some of them,
            which prompt tuning found better than noise (arXiv 2104.08691, section 3.2).  None: as noise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        connector = Connector(num_queries=num_queries, width=width, hidden=hidden or out, out=out)
        if vocabulary is not None:
            drawn = torch.randint(len(vocabulary), (num_queries,))
            connector.queries.data.copy_(vocabulary[drawn])
    return connector


def with_added_queries(connector: Connector, queries: Tensor) -> Connector:
    """A copy with ``queries`` (K, width) after its own, whose reading they do not change."""
    config, state = connector.config, connector.state_dict()
    state["queries"] = torch.cat([state["queries"], queries.to(state["queries"])])
    with torch.random.fork_rng(devices=[]):
        made = Connector(
            num_queries=len(state["queries"]),
            width=config["width"],
            hidden=config["hidden"],
            out=config["out"],
        )
    made.load_state_dict(state)
    return made
