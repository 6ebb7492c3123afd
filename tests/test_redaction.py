import pytest

from rlnsp.config import ConfigError, load
from rlnsp.redaction import redacted, secrets_in

KEY = "sk-" + "a1B2" * 6


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"401 for {KEY}", "401 for [redacted]"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer [redacted]"),
        ("GET http://me:hunter22@judge/score", "GET http://[redacted]@judge/score"),
        ("GET /score?api_key=abcdefgh&n=1", "GET /score?api_key=[redacted]&n=1"),
        ("task-force of a hundred-and-twenty", "task-force of a hundred-and-twenty"),
        ("http://127.0.0.1:8000/score", "http://127.0.0.1:8000/score"),
    ],
)
def test_keys_are_cut_out_of_text_and_the_rest_stays(text, clean):
    assert redacted(text) == clean


def test_the_value_of_a_variable_named_like_a_key_is_cut_out(monkeypatch):
    monkeypatch.setenv("JUDGE_TOKEN", "plain-looking-words")
    monkeypatch.setenv("SHORT_TOKEN", "true")
    monkeypatch.setenv("HOME_TOWN", "something-long-enough")
    assert redacted("plain-looking-words true something-long-enough") == (
        "[JUDGE_TOKEN] true something-long-enough"
    )


def test_secrets_are_found_by_name_or_by_look_at_any_depth():
    settings = {
        "judge": {"config": {"api_key": "x", "max_tokens": "9", "token": "", "api_key_env": "JUDGE_KEY"}},
        "other": {"config": {"urls": ["http://judge", "http://me:hunter22@judge"], "note": KEY}},
    }
    found = ["rewards.judge.config.api_key", "rewards.other.config.urls.1", "rewards.other.config.note"]
    assert list(secrets_in(settings, "rewards")) == found


def test_a_config_with_a_key_in_it_is_refused_and_the_key_not_repeated(tmp_path):
    code = "class Judge:\n    class Config:\n        pass\n"
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ConfigError, match=r"rewards\.Judge\.config\.api_key: holds what looks like") as stop:
        load("world", [f"rewards.Judge.config.api_key={KEY}"], [f"{tmp_path / 'mine.py'}:Judge"])
    assert KEY not in str(stop.value)
    assert "api_key_env=NAME" in str(stop.value)
