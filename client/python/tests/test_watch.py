"""What a follower asks, and when. No sockets, no clock."""

from __future__ import annotations

import pytest

from hms_spine import SpineError
from hms_spine.message import Answer
from hms_spine.watch import Watch


def test_the_first_question_is_answered_at_once_and_the_next_waits_for_news() -> None:
    watch = Watch("photo")
    assert watch.ask(0.0).target == "/v1/health/service/photo"
    watch.answered(Answer(200, b"[]", 7))
    assert watch.ask(0.0).target == "/v1/health/service/photo?index=7&wait=20s"


def test_a_registry_that_began_again_is_followed_from_where_it_is() -> None:
    watch = Watch("photo")
    watch.answered(Answer(200, b"[]", 7))
    watch.answered(Answer(200, b"[]", 2))
    assert watch.ask(0.0).query == {"index": "2"}


def test_a_service_that_changes_without_end_is_not_asked_about_without_end() -> None:
    watch = Watch("photo")
    watch.ask(10.0)
    watch.answered(Answer(200, b"[]", 7))
    assert watch.pause(10.01) == pytest.approx(0.04)
    assert watch.pause(12.0) == 0.0


def test_an_answer_without_an_index_is_asked_for_now_and_then() -> None:
    watch = Watch("photo")
    watch.ask(10.0)
    watch.answered(Answer(200, b"[]", 0))
    assert watch.pause(10.0) == 5.0
    assert watch.ask(15.0).target == "/v1/health/service/photo"


def test_after_failures_it_waits_longer_each_time_up_to_a_bound() -> None:
    watch = Watch("photo")
    watch.answered(Answer(200, b"[]", 1))
    pauses = []
    for _ in range(20):
        watch.failed()
        pauses.append(watch.pause(0.0))
    assert 0.05 <= pauses[0] <= 0.1
    assert all(1.0 <= pause <= 2.0 for pause in pauses[5:])
    assert watch.ask(0.0).target == "/v1/health/service/photo", "that it is back is to be known at once"
    watch.answered(Answer(200, b"[]", 1))
    assert watch.pause(1.0) == 0.0


@pytest.mark.parametrize("body", [b"{}x", b'{"a": 1}', b"[1]", b'[{"Node": {}}]', b"null"])
def test_what_is_no_list_of_instances_is_refused(body: bytes) -> None:
    with pytest.raises(SpineError):
        Watch("photo").answered(Answer(200, body, 7))
