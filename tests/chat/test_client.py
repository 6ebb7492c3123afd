# pyright: reportAttributeAccessIssue=false
# An answer is read as one: where it is an exception, the test fails.
import threading
import time

import numpy as np
import openai
import pytest

from rlnsp.chat import Answer, AnswerCache, ChatClient, ChatConfig, NoProbabilities, NoServer, Question, Token
from rlnsp.lane import in_background
from rlnsp.settings import ConfigError
from tests.chat_server import speaking
from tests.judge_server import serving

NOBODY = "http://127.0.0.1:9/v1"
"""The discard port, where nothing listens."""


def seen(text, images):
    """What reached the model."""
    return f"{text} of {[int(image[0, 0, 0]) for image in images]}"


@pytest.fixture
def server():
    with speaking(seen) as one:
        yield one


def client(*urls, cache=None, model="model", **settings):
    settings = {"retry_wait_s": 0.01, "retries": 3} | settings
    return ChatClient(ChatConfig(base_urls=[*urls], model=model, **settings), cache)


def ask(text="what?", frames=(7, 9), **settings):
    clip = np.zeros((len(frames), 4, 4, 3), np.uint8) + np.array(frames, np.uint8)[:, None, None, None]
    return Question(content=[clip, text], **({"max_tokens": 5} | settings))


def test_text_and_frames_arrive_as_they_were_asked_and_answers_in_order(server):
    questions = [ask(f"{n}?", (n, n + 1)) for n in range(20)]
    answers = client(server.url, concurrency=4).answers(questions)
    assert answers == [Answer(text=f"{n}? of [{n}, {n + 1}]") for n in range(20)]
    request = server.asked[0]
    assert (request["max_tokens"], request["temperature"]) == (5, 0)
    assert "logprobs" not in request


def test_the_same_question_is_asked_once(server):
    assert len(set(client(server.url).answers([ask()] * 9))) == 1
    assert server.requests == 1


def test_the_same_question_asked_meanwhile_waits_for_the_answer(tmp_path):
    def slow(text, images):
        time.sleep(0.05)
        return "well"

    cache = AnswerCache(tmp_path / "a.sqlite")
    with speaking(slow) as server:
        one = client(server.url, cache=cache)
        found = [in_background(one.ask(ask(text))) for text in ("a?", "b?", "a?", "a?")]
        assert {answer.result().text for answer in found} == {"well"}
        assert server.requests == one.answered == len(cache) == 2


def test_what_was_answered_before_is_not_asked_again(server, tmp_path):
    questions = [ask(), ask("why?")]
    first = client(server.url, cache=AnswerCache(tmp_path / "a.sqlite")).answers(questions)
    assert server.requests == 2
    assert client(NOBODY, cache=AnswerCache(tmp_path / "a.sqlite")).answers(questions) == first
    warmer = client(server.url, cache=AnswerCache(tmp_path / "a.sqlite"), temperature=0.5)
    assert warmer.answers(questions) == first
    assert server.requests == 4


def test_probabilities_are_told_where_they_are_asked_for():
    told = [[("Pass", -0.1), ("Fail", -2.4)], [(".", -0.01)]]
    with speaking(lambda text, images: ("Pass.", told)) as server:
        (answer,) = client(server.url).answers([ask(top_logprobs=2)])
        assert answer.tokens[0] == Token(text="Pass", likeliest=(("Pass", -0.1), ("Fail", -2.4)))
        assert (server.asked[0]["logprobs"], server.asked[0]["top_logprobs"]) == (True, 2)
        (few,) = client(server.url).answers([ask(top_logprobs=1)])
        assert few.tokens[0].likeliest == (("Pass", -0.1),)


def test_a_server_that_tells_no_probabilities_is_not_asked_in_vain(server):
    server.tells = False
    (found,) = client(server.url).answers([ask(top_logprobs=2)])
    assert isinstance(found, NoProbabilities)
    assert server.requests == 1


@pytest.mark.parametrize("fault", ["429", "500", "malformed", "empty", "slow"])
def test_a_fault_that_goes_away_costs_only_time(server, fault):
    server.fault, server.failures = fault, 2
    patience = 1.0 if fault == "slow" else 60.0
    assert client(server.url, timeout_s=patience).answers([ask()]) == [Answer(text="what? of [7, 9]")]
    assert server.requests == 3


def test_a_fault_that_stays_is_said_of_each_question_and_no_answer_is_made_up(server, tmp_path):
    cache = AnswerCache(tmp_path / "a.sqlite")
    server.fault = "500"
    found = client(server.url, retries=1, cache=cache).answers([ask(), ask("why?")])
    assert all(isinstance(one, openai.InternalServerError) for one in found)
    assert server.requests == 4
    server.fault = None
    assert client(server.url, cache=cache).answers([ask()]) == [Answer(text="what? of [7, 9]")]


def test_a_replica_that_fails_is_passed_over(server):
    with speaking(seen) as broken:
        broken.fault = "500"
        asked = client(broken.url, server.url, concurrency=1)
        found = asked.answers([ask(f"{n}?") for n in range(10)])
    assert [one.text[:2] for one in found] == [f"{n}?" for n in range(10)]
    assert broken.requests == 1
    assert server.requests == 10


def test_replicas_share_the_load_and_no_more_are_asked_at_once_than_allowed():
    under_way, most, lock = [0], [0], threading.Lock()

    def slow(text, images):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.05)
        with lock:
            under_way[0] -= 1
        return "well"

    with speaking(slow) as one, speaking(slow) as other:
        found = client(one.url, other.url, concurrency=4).answers([ask(f"{n}?") for n in range(16)])
        assert {answer.text for answer in found} == {"well"}
        assert one.requests + other.requests == 16
        assert min(one.requests, other.requests) >= 5  # neither is always as fast as the other
    assert most[0] == 4


def test_a_key_comes_from_the_environment_and_no_other_key_is_ever_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-another-vendor")
    client(server.url).answers([ask()])
    assert server.keys == {"Bearer none"}
    monkeypatch.setenv("JUDGE_KEY", "the-right-one")
    client(server.url, api_key_env="JUDGE_KEY").answers([ask("why?")])
    assert server.keys == {"Bearer none", "Bearer the-right-one"}


def test_a_key_that_is_not_set_is_asked_for_by_name(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match="environment variable JUDGE_KEY is not set"):
        client(NOBODY, api_key_env="JUDGE_KEY")


def test_the_only_model_of_a_server_need_not_be_named(server):
    asked = client(server.url, model="")
    asked.connect()
    assert asked.identity()["model"] == "model"


CONNECTING = [
    ("401", "", "wants a key: name its variable"),
    ("401", "JUDGE_KEY", r"refuses the key in JUDGE_KEY \(HTTP 401\)"),
    ("500", "", "answers with HTTP 500"),
    ("malformed", "", "is no OpenAI-compatible server"),
]


@pytest.mark.parametrize(("fault", "variable", "says"), CONNECTING)
def test_what_is_wrong_with_a_server_is_said_before_anything_is_asked(
    server, monkeypatch, fault, variable, says
):
    monkeypatch.setenv("JUDGE_KEY", "a-key-that-nobody-may-see")
    server.fault = fault
    with pytest.raises(ConfigError, match=says) as caught:
        client(server.url, api_key_env=variable).connect()
    assert "nobody-may-see" not in str(caught.value)
    assert server.requests == 0


def test_a_server_that_is_down_or_has_another_model_is_named(server):
    with pytest.raises(NoServer, match="no server answers at http://127.0.0.1:9/v1"):
        client(server.url, NOBODY).connect()
    with pytest.raises(ConfigError, match="has no 'judge'; it has model"):
        client(server.url, model="judge").connect()


def test_a_server_that_starts_again_is_found_again():
    with speaking(seen) as server:
        asked = client(server.url, retries=0, rest_s=0.0)
        asked.answers([ask()])
        url, port = server.url, int(server.host.split(":")[1])
    (lost,) = asked.answers([ask("why?")])
    assert isinstance(lost, openai.APIConnectionError)
    with serving(server, port):
        assert server.url == url
        (found,) = client(url, model="model").answers([ask("why?")])
    assert isinstance(found, Answer)
