import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from rlnsp.chat import Answer, AnswerCache, Question, Token
from rlnsp.settings import ConfigError

ANSWER = Answer(text="Páss\n", tokens=(Token(text=" P", likeliest=((" P", -0.1), ("F", -2.5))),))


def test_an_answer_comes_back_whole_in_another_process_s_hands(tmp_path):
    AnswerCache(tmp_path / "deep" / "answers.sqlite").put("a", ANSWER)
    again = AnswerCache(tmp_path / "deep" / "answers.sqlite")
    assert again.get("a") == ANSWER
    assert again.get("b") is None
    again.put("a", Answer(text="another"))
    assert again.get("a") == ANSWER


def test_what_was_put_survives_kill_9(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from rlnsp.chat.cache import AnswerCache; from rlnsp.chat.question import Answer\n"
        "cache = AnswerCache(Path(sys.argv[1]))\n"
        "for n in range(50): cache.put(str(n), Answer(text=str(n)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "answers.sqlite"
    done = subprocess.run([sys.executable, "-c", code, path], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    cache = AnswerCache(path)
    assert [cache.get(str(n)) for n in range(50)] == [Answer(text=str(n)) for n in range(50)]


def test_many_may_open_and_write_one_file_at_once(tmp_path):
    path = tmp_path / "answers.sqlite"

    def write(number):
        cache = AnswerCache(path)  # a connection of its own, as another process has
        for n in range(20):
            cache.put(f"{number} {n}", Answer(text=f"{number} {n}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    cache = AnswerCache(path)
    assert all(cache.get(f"{number} {n}") for number in range(8) for n in range(20))


def test_of_two_that_begin_a_file_at_once_each_gets_it(tmp_path, monkeypatch):
    """SQLite tells one of them at once that the file is locked, however long it would wait."""

    class Beginning(sqlite3.Connection):
        refused = 0

        def execute(self, sql, *more):
            if "journal_mode" in sql and Beginning.refused < 3:
                Beginning.refused += 1
                raise sqlite3.OperationalError("database is locked")
            return super().execute(sql, *more)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=Beginning))
    cache = AnswerCache(tmp_path / "answers.sqlite")
    assert Beginning.refused == 3
    cache.put("a", ANSWER)
    assert cache.get("a") == ANSWER


def test_a_file_that_is_no_cache_is_refused_by_name(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and no database\n" * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt: cannot be used as an answer cache .*; name another"):
        AnswerCache(path)
    assert path.read_text().startswith("these are my notes")


CLIP = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
OTHERS = [
    ({"model": "b"}, Question(content=[CLIP, "hi"], max_tokens=5)),
    ({"model": "a"}, Question(content=[CLIP, "hi!"], max_tokens=5)),
    ({"model": "a"}, Question(content=["hi", CLIP], max_tokens=5)),
    ({"model": "a"}, Question(content=[CLIP[:1], CLIP[1:], "hi"], max_tokens=5)),
    ({"model": "a"}, Question(content=[CLIP.reshape(1, 4, 2, 3), "hi"], max_tokens=5)),
    ({"model": "a"}, Question(content=[CLIP[::-1], "hi"], max_tokens=5)),
    ({"model": "a"}, Question(content=[CLIP, "hi"], max_tokens=6)),
    ({"model": "a"}, Question(content=[CLIP, "hi"], max_tokens=5, top_logprobs=1)),
    ({"model": "a"}, Question(content=[CLIP, "h", "i"], max_tokens=5)),
]


def test_a_key_tells_apart_whatever_could_change_the_answer():
    same = Question(content=[CLIP.copy(), "hi"], max_tokens=5).key({"model": "a"})
    assert same == Question(content=[CLIP, "hi"], max_tokens=5).key({"model": "a"})
    keys = {question.key(asked) for asked, question in OTHERS}
    assert len({same, *keys}) == len(OTHERS) + 1
