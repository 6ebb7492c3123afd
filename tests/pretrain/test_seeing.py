import numpy as np
import pytest
import torch

from policies.settings import Source
from policies.unified.comprehension import Comprehension
from policies.unified.files import policy_folder
from policies.unified.settings import Limits
from policies.unified.weights import load_comprehension
from pretrain import seeing
from pretrain.judge_clips import true_clips
from pretrain.judge_turns import shown
from pretrain.seeing import LENGTH, learn_to_see, tokens_of, words_shown
from rlnsp.settings import ConfigError
from rlnsp.world.events import COLOURS


@pytest.fixture
def comprehension() -> Comprehension:
    place = policy_folder("world") / "comprehension"
    return load_comprehension(Source(path=str(place)), limits=Limits(clip_frames=2))


def frame(**squares: tuple[slice, slice]) -> np.ndarray:
    """(1, 64, 64, 3): grey, but for squares of the world's colours."""
    made = np.full((1, 64, 64, 3), 90, np.uint8)
    for colour, (rows, columns) in squares.items():
        made[0, rows, columns] = COLOURS[colour]
    return made


def test_a_token_is_to_say_the_colours_it_shows_and_what_has_them(comprehension: Comprehension) -> None:
    picture = frame(
        red=(slice(0, 8), slice(0, 16)),
        blue=(slice(8, 16), slice(0, 8)),
        green=(slice(16, 24), slice(40, 48)),
        cyan=(slice(60, 64), slice(58, 64)),  # a quarter of what fills a token
    )
    target = words_shown(comprehension, picture, {"red": "ball", "blue": "box", "green": "star"})
    assert target.shape == (16, len(comprehension.tokenizer))
    torch.testing.assert_close(target.sum(-1), torch.ones(16))

    def said(token: int) -> dict[str, float]:
        words = target[token].nonzero()[:, 0].tolist()
        names = [str(comprehension.tokenizer.convert_ids_to_tokens(word)).strip("Ġ") for word in words]
        return {name: float(target[token, word]) for name, word in zip(names, words, strict=True)}

    third = pytest.approx(1 / 3)
    sixth = pytest.approx(1 / 6)
    assert said(0) == {"red": third, "ball": third, "blue": sixth, "box": sixth}
    part = pytest.approx(64 / 96 / 2)
    assert said(6) == {"green": part, "star": part, "room": third}
    assert said(15) == {"cyan": pytest.approx(0.25), "room": pytest.approx(0.75)}
    assert all(said(token) == {"room": 1} for token in range(16) if token not in (0, 6, 15))


@pytest.mark.parametrize("token", [1, 6, 12])
@torch.no_grad()
def test_the_models_tokens_are_in_the_order_of_the_targets(comprehension: Comprehension, token: int) -> None:
    row, column = divmod(token, 4)
    cell = (slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16))
    change = tokens_of(comprehension, frame(red=cell)) - tokens_of(comprehension, frame())
    assert int(change.norm(dim=-1).argmax()) == token


def test_what_is_where_is_learned_in_words_that_stay_what_they_are(
    comprehension: Comprehension, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeing, "CLIPS", 2)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    events, clips = true_clips("train", 2, rng)
    true = shown(clips, events)
    before = {name: value.clone() for name, value in comprehension.model.state_dict().items()}
    losses = learn_to_see(comprehension, clips, true, steps=40, seed=0)
    assert np.mean(losses[-5:]) < 0.4 * np.mean(losses[:5])
    changed = {
        name for name, value in comprehension.model.state_dict().items() if (value != before[name]).any()
    }
    assert changed
    assert all(".visual." in name for name in changed)
    with torch.no_grad():
        length = tokens_of(comprehension, true[0].of(clips)).norm(dim=-1).mean()
    assert float(length) == pytest.approx(LENGTH, rel=0.3)


def test_clips_in_which_something_fails_teach_nothing(comprehension: Comprehension) -> None:
    events, clips = true_clips("train", 1, np.random.default_rng(0))
    clips[:] = clips[:, :1]
    with pytest.raises(ConfigError, match="none of the clips"):
        learn_to_see(comprehension, clips, shown(clips, events), steps=1, seed=0)
