"""Answers are remembered for a while, and no longer."""

from __future__ import annotations

from bloomery_operator.answers import RecentAnswers


def test_an_answer_holds_for_a_while_from_when_it_came() -> None:
    now = 100.0
    answers: RecentAnswers[str, int] = RecentAnswers(10, clock=lambda: now)
    assert answers.get("a") is None
    assert answers.put("a", 1) == 1
    now = 105.0
    answers.put("b", 2)
    answers.put("a", 3)
    now = 114.9
    assert (answers.get("a"), answers.get("b")) == (3, 2)
    now = 115.0
    assert (answers.get("a"), answers.get("b")) == (None, None)
    assert not answers._entries
