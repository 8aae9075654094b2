import asyncio

import pytest

from bioimg.cluster.coordinator import Coordinator, TrialEnded
from bioimg.experiment import StopReason

WHY = StopReason(2, 0.5, 0.75, (0.9, 0.75, 0.6))


async def _submitted(*keys: str) -> Coordinator:
    board = Coordinator(len(keys))
    for key in keys:
        await board.submit(key, {"seed": 0})
    return board


async def _soon(waiting) -> asyncio.Task:
    """A call to the board that has had every chance to be answered."""
    task = asyncio.create_task(waiting)
    for _ in range(10):
        await asyncio.sleep(0)
    return task


def test_trials_are_taken_in_the_order_of_their_submission_and_once_each():
    async def play():
        board = await _submitted("a", "b")
        await board.submit("a", {"seed": 0})
        return [(await board.next_trial(lane)).key for lane in (0, 1)]

    assert asyncio.run(play()) == ["a", "b"]


def test_the_trial_of_a_lost_lane_is_the_next_that_another_takes_and_knows_why():
    async def play():
        board = await _submitted("a", "b")
        await board.next_trial(0)
        await board.mark_lane_lost(0, "its machine was lost")
        job = await board.next_trial(1)
        return job.key, job.attempts, job.loss_reason

    assert asyncio.run(play()) == ("a", 2, "its machine was lost")


def test_attempts_are_counted_from_the_last_epoch_that_was_new():
    """So a trial that makes progress is never given up, however often it loses its machine."""

    async def play():
        board = await _submitted("a")
        await board.next_trial(0)
        await board.report_epoch(0, {"epoch": 1}, wait=False)
        await board.mark_lane_lost(0, "")
        first = (await board.next_trial(1)).attempts
        await board.report_epoch(1, {"epoch": 1}, wait=False)  # where it stands
        await board.mark_lane_lost(1, "")
        return first, (await board.next_trial(2)).attempts

    assert asyncio.run(play()) == (2, 3)


@pytest.mark.parametrize("before", [0, 1])
def test_three_lanes_lost_at_one_epoch_are_as_many_whether_one_of_them_came_to_it_or_not(before):
    """`lanes.ATTEMPTS` is compared with this number."""

    async def play():
        board = await _submitted("a")
        await board.next_trial(0)
        for number in range(before):
            await board.report_epoch(0, {"epoch": number + 1}, wait=False)
        for lane in (0, 1, 2):
            await board.mark_lane_lost(lane, "")
            job = await board.next_trial(lane + 1)
        return job.attempts

    assert asyncio.run(play()) == 4


def test_a_stopped_trial_that_begins_again_is_let_go_on_to_the_rung_where_it_was_stopped():
    """If its state was dropped and its lane lost before the row: otherwise the row would have another epoch's score."""

    async def play():
        board = await _submitted("a")
        await board.next_trial(0)
        report = await _soon(board.report_epoch(0, {"epoch": 2}, wait=True))
        await board.stop_trial("a", WHY)
        await report
        await board.mark_lane_lost(0, "")
        await board.next_trial(1)
        return await board.report_epoch(1, {"epoch": 1}, wait=False), await board.report_epoch(
            1, {"epoch": 2}, wait=True
        )

    assert asyncio.run(play()) == (None, WHY)


def test_a_lane_that_was_given_up_is_not_heard_any_more():
    async def play():
        board = await _submitted("a")
        await board.next_trial(0)
        await board.mark_lane_lost(0, "it hung")
        with pytest.raises(LookupError, match="lane 0 was given up"):
            await board.report_epoch(0, {"epoch": 1}, wait=False)
        with pytest.raises(LookupError, match="lane 0 was given up"):
            await board.end_trial(0, "completed")
        return await board.next_trial(0), (await board.next_trial(1)).key

    assert asyncio.run(play()) == (None, "a")


def test_a_lane_that_is_lost_while_it_waits_takes_nothing():
    async def play():
        board = Coordinator(1)
        waiting = await _soon(board.next_trial(0))
        await board.mark_lane_lost(0, "")
        await board.submit("a", {})
        return await waiting, (await board.next_trial(1)).key, await board.state()

    assert asyncio.run(play()) == (None, "a", (1, 0))


def test_at_a_rung_a_lane_waits_for_the_answer():
    async def play():
        board = await _submitted("a")
        await board.next_trial(0)
        report = await _soon(board.report_epoch(0, {"epoch": 2}, wait=True))
        assert await board.next_report("a") == {"epoch": 2}
        assert not report.done()
        await board.stop_trial("a", WHY)
        return await report

    assert asyncio.run(play()) == WHY


def test_the_answer_to_an_earlier_epoch_does_not_let_a_lane_past_its_rung():
    async def play():
        board = await _submitted("a")
        await board.next_trial(0)
        await board.report_epoch(0, {"epoch": 1}, wait=False)
        report = await _soon(board.report_epoch(0, {"epoch": 2}, wait=True))
        await board.acknowledge("a", (await board.next_report("a"))["epoch"])
        assert not (await _soon(asyncio.sleep(0))).cancelled()
        assert not report.done()
        await board.acknowledge("a", (await board.next_report("a"))["epoch"])
        return await report

    assert asyncio.run(play()) is None


def test_a_report_stays_until_it_is_answered_so_that_a_process_that_dies_loses_none():
    async def play():
        board = await _submitted("a")
        await board.next_trial(0)
        await board.report_epoch(0, {"epoch": 1}, wait=False)
        return await board.next_report("a"), await board.next_report("a")

    assert asyncio.run(play()) == ({"epoch": 1}, {"epoch": 1})


def test_a_lane_that_goes_on_at_an_answered_rung_waits_for_no_other_answer():
    async def play():
        board = await _submitted("a")
        await board.next_trial(0)
        await _soon(board.report_epoch(0, {"epoch": 2}, wait=True))
        await board.mark_lane_lost(0, "")
        await board.acknowledge("a", 2)
        await board.next_trial(1)
        return await asyncio.wait_for(board.report_epoch(1, {"epoch": 2}, wait=True), 1)

    assert asyncio.run(play()) is None


def test_a_trial_that_is_stopped_while_it_waits_is_taken_to_leave_its_row():
    async def play():
        board = await _submitted("a")
        await board.next_trial(0)
        await board.report_epoch(0, {"epoch": 2}, wait=False)
        await board.mark_lane_lost(0, "")
        await board.stop_trial("a", WHY)
        await board.next_trial(1)
        return await board.report_epoch(1, {"epoch": 2}, wait=True)

    assert asyncio.run(play()) == WHY


def test_a_lane_leaves_when_all_trials_that_are_left_are_taken():
    async def play():
        board = Coordinator(2)
        await board.submit("a", {})
        assert (await board.next_trial(0)).key == "a"
        second = await _soon(board.next_trial(1))
        assert not second.done(), "a trial is still to be submitted"
        await board.submit("b", {})
        assert (await second).key == "b"
        left = await board.next_trial(2)
        await board.end_trial(0, "completed")
        await board.report_epoch(1, {"epoch": 1}, wait=False)
        assert await board.next_report("a") == TrialEnded("completed")
        return left, await board.state()

    assert asyncio.run(play()) == (None, (1, 0))


def test_lanes_that_are_lost_before_they_took_anything_are_counted():
    async def play():
        board = await _submitted("a")
        await board.mark_lane_lost(0, "")
        await board.mark_lane_lost(1, "")
        before = await board.state()
        await board.next_trial(2)
        return before, await board.state()

    assert asyncio.run(play()) == ((1, 2), (1, 0))


@pytest.mark.parametrize(
    ("errors", "alike"), [(("x", "x"), True), (("x", "y"), False), (("x",), False)]
)
def test_an_error_is_the_trial_s_own_when_all_workers_raise_the_same(errors, alike):
    async def play():
        board = Coordinator(1)
        return await asyncio.gather(
            *(
                board.all_raised_same_error(0, rank, 2, error, 0.1)
                for rank, error in enumerate(errors)
            )
        )

    assert asyncio.run(play()) == [alike] * len(errors)
