"""Sentences about images with the same content, and about near copies."""

from __future__ import annotations

from bloomery_trainer.prepare.copies import describe_copies, describe_near_copies
from bloomery_trainer.prepare.quality_queries import NearCopy, Picture


def picture(key: str, class_name: str = "rose", split: str = "train", reason: str | None = None) -> Picture:
    return Picture(0, key, class_name, split, reason)


def test_copies_that_stay_in_two_classes_and_splits_are_named() -> None:
    sentences = describe_copies([
        [picture("a"), picture("b")],
        [picture("c"), picture("d", "tulip"), picture("e", "tulip", "test")],
        [picture("f", split="validation"), picture("g")],
    ])  # fmt: skip

    assert sentences == [
        "4 images are exact copies of another one: 'a' and 'b'",
        "the same image is in two classes, so that one label must be wrong: "
        "'c' (rose) and 'd' (tulip); 'c' (rose) and 'e' (tulip)",
        "the same image is in two splits, so that the evaluation is too good: "
        "'c' (train) and 'e' (test); 'f' (validation) and 'g' (train)",
    ]


def test_copies_that_are_left_out_are_named_with_the_reason() -> None:
    conflict = [picture("a", reason="LabelConflict"), picture("b", "tulip", reason="LabelConflict")]
    sentences = describe_copies([conflict, [picture("c", reason="Leak"), picture("d", split="test")]])

    assert "all of its copies are left out until you exclude the wrong ones: 'a' (rose) and 'b'" in sentences[1]
    assert "its training copies are left out (rules.leaks): 'c' (train) and 'd' (test)" in sentences[2]
    assert len(sentences) == 3


def test_many_copies_are_counted_and_few_named() -> None:
    sentences = describe_copies([[picture(f"{'x' * 500}{number}") for number in range(1000)]])

    assert sentences[0].startswith("999 images are exact copies of another one: '…xxx")
    assert sentences[0].endswith("; and 996 more")
    assert len(sentences[0]) < 1000
    assert describe_copies([]) == []


def test_near_copies_across_splits_are_named_with_the_rule() -> None:
    held_out = picture("b", split="validation")
    sentences = describe_near_copies([
        NearCopy(picture("a"), held_out), NearCopy(picture("c", reason="NearLeak"), held_out)
    ])  # fmt: skip

    assert "rules.leaks: DropNear leaves them out): 'a' and 'b' (validation)" in sentences[0]
    assert sentences[1].endswith("are left out (rules.leaks): 'c' and 'b' (validation)")
