from contextlib import ExitStack

from rlnsp.chat.replicas import Replicas


def test_requests_go_where_the_fewest_are_open_and_by_turns_where_as_few_are():
    replicas = Replicas(["a", "b", "c"], rest_s=30)
    with ExitStack() as open_requests:
        taken = [open_requests.enter_context(replicas.next()).server for _ in range(7)]
    assert taken == ["a", "b", "c", "a", "b", "c", "a"]
    with replicas.next() as one, replicas.next() as other:
        assert one.server != other.server


def test_one_that_failed_rests_and_comes_back():
    now = [0.0]
    replicas = Replicas(["a", "b"], rest_s=30, now=lambda: now[0])
    with replicas.next() as failing:
        replicas.rest(failing)
    for _ in range(4):
        with replicas.next() as one:
            assert one.server == "b"
    now[0] = 31
    with replicas.next() as one, replicas.next() as other:
        assert {one.server, other.server} == {"a", "b"}


def test_where_all_have_failed_the_one_that_rested_longest_is_tried():
    now = [0.0]
    replicas = Replicas(["a", "b"], rest_s=30, now=lambda: now[0])
    for time in (1.0, 2.0):
        now[0] = time
        with replicas.next() as one:
            replicas.rest(one)
    with replicas.next() as one:
        assert one.server == "a"
