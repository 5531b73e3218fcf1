"""Each command block of the pages says which test runs it, or why none does."""

from __future__ import annotations

import pytest

from tools.docs_blocks import ROOT, Block, blocks, pages

COMMANDS = [block for page in pages() for block in blocks(page) if block.language in ("sh", "bash", "console")]
FENCES = ("```sh", "```bash", "```console")


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.place)
def test_each_block_of_commands_is_marked(block: Block) -> None:
    assert block.is_marked, (
        f"{block.place}: put '<!-- run by TEST -->', '<!-- shown by TEST: what differs -->' or '<!-- not run: why -->' "
        "on the line before the block; tools/docs_blocks.py says what they mean"
    )


@pytest.mark.parametrize("block", [b for b in COMMANDS if b.test], ids=lambda block: block.place)
def test_the_test_that_a_block_names_is_there_and_reads_it(block: Block) -> None:
    path = ROOT / str(block.test)
    assert path.is_file()
    assert not block.runs_as_it_stands or "run_by(__file__)" in path.read_text(encoding="utf-8")


def test_no_block_of_commands_is_overlooked() -> None:
    lines = [line for page in pages() for line in page.read_text(encoding="utf-8").splitlines()]

    assert len(COMMANDS) == sum(line.strip() in FENCES for line in lines)
