import asyncio

from bioimg.cluster.board import Board, Ended
from bioimg.experiment import Stop

WHY = Stop(2, 0.5, 0.75, 3)


async def _submitted(*keys: str) -> Board:
    board = Board()
    for key in keys:
        await board.submit(key, {"seed": 0})
    return board


def test_trials_are_taken_in_the_order_of_their_submission_and_once_each():
    async def play():
        board = await _submitted("a", "b")
        await board.submit("a", {"seed": 0})
        return [(await board.take(lane)).key for lane in (0, 1)]

    assert asyncio.run(play()) == ["a", "b"]


def test_a_lane_that_was_restarted_gets_the_same_trial_again_with_its_attempts_counted():
    async def play():
        board = await _submitted("a", "b")
        return [((job := await board.take(0)).key, job.attempts) for _ in range(3)]

    assert asyncio.run(play()) == [("a", 1), ("a", 2), ("a", 3)]


def test_the_trial_of_a_lost_lane_is_the_next_that_another_takes():
    async def play():
        board = await _submitted("a", "b")
        await board.take(0)
        await board.give_back(0)
        return (await board.take(1)).key

    assert asyncio.run(play()) == "a"


def test_at_a_rung_a_lane_waits_for_the_answer():
    async def play():
        board = await _submitted("a")
        report = asyncio.create_task(board.report("a", {"epoch": 2}, wait=True))
        assert await board.next("a") == {"epoch": 2}
        assert not report.done()
        await board.stop("a", WHY)
        return await report

    assert asyncio.run(play()) == WHY


def test_a_closed_board_lets_lanes_go_when_nothing_waits():
    async def play():
        board = await _submitted("a")
        await board.close()
        assert (await board.take(0)).key == "a"
        await board.end(0, "a", "completed")
        await board.drained()
        assert await board.next("a") == Ended("completed")
        return await board.take(0)

    assert asyncio.run(play()) is None
