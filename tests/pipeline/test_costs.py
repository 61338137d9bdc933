"""What a pipeline writes."""

import pytest

from perdure import Batch, Pending, Pipeline

WRITES = {"start", "append", "finish", "park", "wake", "take", "add_blob", "notify_parent", "claim"}


def writes(lab, pipeline) -> list[list[str]]:
    """The rows that a run's commits write, by the statements that write them."""
    seen = []

    def probe(when, batch):
        if when == "before_commit":
            seen.append([name for operation in batch for name, _ in operation.lines if name not in {"fence", "guard"}])

    async def main():
        async with lab.worker(pipeline, probe=probe) as app:
            await (await app.start("p", 0, id="warm")).result()
            seen.clear()
            await (await app.start("p", 0, id="r")).result()
            return list(seen)

    found = lab.play(main)
    assert {name for rows in found for name in rows} <= WRITES
    return found


def test_one_stage(lab):
    """A run of one stage writes more than four rows in two commits."""
    assert writes(lab, Pipeline("p").stage("a", lambda: 1)) == [["start"], ["append", "append", "finish"]]


@pytest.mark.parametrize("stages", [3, 10])
def test_sequential_stages(lab, stages):
    """Each stage of a long pipeline costs more than one commit of one row."""
    pipeline = Pipeline("p")
    for number in range(stages):
        pipeline = pipeline.stage(f"s{number}", lambda: 1)
    assert writes(lab, pipeline) == [["start"], *[["append"]] * (stages - 1), ["append", "append", "finish"]]


def test_stages_side_by_side(lab):
    """The stages of a group cost a commit each."""
    pipeline = Pipeline("p").parallel({f"s{number}": lambda: 1 for number in range(10)})
    found = writes(lab, pipeline)
    assert sum(rows.count("append") for rows in found) == 11
    assert len(found) <= 12


def test_a_check_of_a_batch(lab):
    """A batch that is asked for often costs more each time."""

    def rows_of(checks: int) -> int:
        counts = []

        def check(stage, batch) -> int | Pending:
            counts.append(1)
            return Pending(60) if len(counts) % checks else 1

        return sum(len(rows) for rows in writes(lab, Pipeline("p").stage("b", Batch(lambda: 1, check, output=int))))

    two, six = rows_of(2), rows_of(6)
    assert (six - two) / 4 <= 4
