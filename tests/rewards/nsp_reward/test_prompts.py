import shutil

import numpy as np
import pytest

from pretrain.turns import DESCRIBE, JUDGE
from rewards.nsp_reward.prompts import NEEDED, PACKAGED, read_prompts, with_clips
from rlnsp.chat.templates import filled
from rlnsp.settings import ConfigError


def test_the_world_s_prompts_are_what_the_world_s_judges_are_taught():
    prompts = read_prompts("world", "binary")
    assert prompts["caption"] == DESCRIBE
    assert filled(prompts["judge"], context="one", caption="two") == JUDGE.format(
        context="one", caption="two"
    )


@pytest.mark.parametrize("mode", NEEDED)
def test_the_paper_s_prompts_are_there_for_every_mode(mode):
    prompts = read_prompts("paper", mode)
    assert set(prompts.texts) == set(NEEDED[mode])
    assert mode != "checklist" or len(prompts.checklist) >= 4


def test_what_is_filled_in_is_not_looked_into():
    assert filled("{context} / {caption}", context="{caption}", caption="x") == "{caption} / x"


def test_clips_stand_where_the_template_has_them():
    first, second = np.zeros((1, 2, 2, 3), np.uint8), np.ones((1, 2, 2, 3), np.uint8)
    before, a, between, b = with_clips(
        "After {context}: {second}, or {first}", "{first}", first=first, second=second
    )
    assert (before, between) == ("After {first}: ", ", or ")
    assert a is second
    assert b is first


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(PACKAGED / "paper", tmp_path / "mine")


def test_a_folder_of_one_s_own_is_read_and_every_change_shows_in_its_hashes(folder):
    before = read_prompts(str(folder), "binary")
    assert before == read_prompts("paper", "binary")
    (folder / "judge.txt").write_text("{context} {caption} Pass or Fail?\n")
    after = read_prompts(str(folder), "binary")
    assert after["judge"] == "{context} {caption} Pass or Fail?"
    assert after.hashes["caption"] == before.hashes["caption"]
    assert after.hashes["judge"] != before.hashes["judge"]


WRONG = [
    (
        "judge.txt",
        "{contxt} {caption}",
        "binary",
        r"has a place {contxt}; did you mean 'context'\?; it may have",
    ),
    ("judge.txt", "{caption}", "soft", "has no place {context}; it must have: {context}, {caption}"),
    ("caption.txt", " \n", "binary", r"caption\.txt is empty"),
    ("checklist.txt", "a: Is it?\na: Is it so?", "checklist", "2 lines have 1 names"),
    ("checklist.txt", "Is it?", "checklist", "needs lines 'name: question'"),
    ("pairwise.txt", None, "pairwise", r"mode pairwise needs .*pairwise\.txt.*: binary, soft, checklist"),
]


@pytest.mark.parametrize(("name", "text", "mode", "says"), WRONG)
def test_what_is_wrong_with_a_prompt_is_said(folder, name, text, mode, says):
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_prompts(str(folder), mode)


def test_a_name_that_is_nothing_gets_the_nearest():
    with pytest.raises(ConfigError, match="no set and no folder 'papr'; did you mean 'paper'"):
        read_prompts("papr", "binary")
