import asyncio

import pytest

from bioimg.cluster.coordinator import Coordinator, TrialEnded
from bioimg.config import TrialConfig
from support.experiments import stop_reason

STOP_REASON = stop_reason(2)


async def _coordinator_with(*keys: str) -> Coordinator:
    coordinator = Coordinator(len(keys))
    for key in keys:
        await coordinator.submit(key, TrialConfig())
    return coordinator


async def _started(call) -> asyncio.Task:
    """Start a call to the coordinator, and give it every chance to be answered."""
    task = asyncio.create_task(call)
    for _ in range(10):
        await asyncio.sleep(0)
    return task


def test_submitted_trials_are_assigned_once_in_order():
    async def scenario():
        coordinator = await _coordinator_with("a", "b")
        await coordinator.submit("a", TrialConfig())
        return [(await coordinator.next_trial(lane)).key for lane in (0, 1)]

    assert asyncio.run(scenario()) == ["a", "b"]


def test_trial_of_lost_lane_is_assigned_next():
    async def scenario():
        coordinator = await _coordinator_with("a", "b")
        await coordinator.next_trial(0)
        await coordinator.mark_lane_lost(0, "its machine was lost")
        job = await coordinator.next_trial(1)
        return job.key, job.attempts, job.loss_reason

    assert asyncio.run(scenario()) == ("a", 2, "its machine was lost")


def test_new_epoch_resets_attempts():
    """Then a trial that makes progress is never given up, however often it loses its machine."""

    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.next_trial(0)
        await coordinator.report_epoch(0, {"epoch": 1}, wait=False)
        await coordinator.mark_lane_lost(0, "")
        first = (await coordinator.next_trial(1)).attempts
        await coordinator.report_epoch(1, {"epoch": 1}, wait=False)  # known already
        await coordinator.mark_lane_lost(1, "")
        return first, (await coordinator.next_trial(2)).attempts

    assert asyncio.run(scenario()) == (2, 3)


@pytest.mark.parametrize("epochs", [0, 1])
def test_three_lanes_lost_at_one_epoch_are_counted(epochs):
    """`MAX_ATTEMPTS` is compared with this number, whether epochs were reported or not."""

    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.next_trial(0)
        for number in range(epochs):
            await coordinator.report_epoch(0, {"epoch": number + 1}, wait=False)
        for lane in (0, 1, 2):
            await coordinator.mark_lane_lost(lane, "")
            job = await coordinator.next_trial(lane + 1)
        return job.attempts

    assert asyncio.run(scenario()) == 4


def test_restarted_stopped_trial_continues_to_its_rung():
    """Its state was deleted, and its lane lost before the row was written.

    Otherwise the row would have the score of another epoch.
    """

    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.next_trial(0)
        report = await _started(coordinator.report_epoch(0, {"epoch": 2}, wait=True))
        await coordinator.stop_trial("a", STOP_REASON)
        await report
        await coordinator.mark_lane_lost(0, "")
        await coordinator.next_trial(1)
        return await coordinator.report_epoch(
            1, {"epoch": 1}, wait=False
        ), await coordinator.report_epoch(1, {"epoch": 2}, wait=True)

    assert asyncio.run(scenario()) == (None, STOP_REASON)


def test_lane_that_was_given_up_is_refused():
    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.next_trial(0)
        await coordinator.mark_lane_lost(0, "it hung")
        with pytest.raises(LookupError, match="lane 0 was given up"):
            await coordinator.report_epoch(0, {"epoch": 1}, wait=False)
        with pytest.raises(LookupError, match="lane 0 was given up"):
            await coordinator.end_trial(0, "completed")
        return await coordinator.next_trial(0), (await coordinator.next_trial(1)).key

    assert asyncio.run(scenario()) == (None, "a")


def test_lane_lost_while_waiting_gets_no_trial():
    async def scenario():
        coordinator = Coordinator(1)
        call = await _started(coordinator.next_trial(0))
        await coordinator.mark_lane_lost(0, "")
        await coordinator.submit("a", TrialConfig())
        return await call, (await coordinator.next_trial(1)).key, await coordinator.state()

    assert asyncio.run(scenario()) == (None, "a", (1, 0))


def test_messages_of_lanes_are_taken_once():
    async def scenario():
        coordinator = Coordinator(1)
        await coordinator.add_message("half done")
        return await coordinator.take_messages(), await coordinator.take_messages()

    assert asyncio.run(scenario()) == (["half done"], [])


def test_lane_waits_for_the_decision_at_a_rung():
    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.next_trial(0)
        report = await _started(coordinator.report_epoch(0, {"epoch": 2}, wait=True))
        assert await coordinator.next_report("a") == {"epoch": 2}
        assert not report.done()
        await coordinator.stop_trial("a", STOP_REASON)
        return await report

    assert asyncio.run(scenario()) == STOP_REASON


def test_earlier_acknowledgement_does_not_pass_a_rung():
    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.next_trial(0)
        await coordinator.report_epoch(0, {"epoch": 1}, wait=False)
        report = await _started(coordinator.report_epoch(0, {"epoch": 2}, wait=True))
        await coordinator.acknowledge("a", (await coordinator.next_report("a"))["epoch"])
        assert not (await _started(asyncio.sleep(0))).cancelled()
        assert not report.done()
        await coordinator.acknowledge("a", (await coordinator.next_report("a"))["epoch"])
        return await report

    assert asyncio.run(scenario()) is None


def test_report_stays_until_it_is_acknowledged():
    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.next_trial(0)
        await coordinator.report_epoch(0, {"epoch": 1}, wait=False)
        return await coordinator.next_report("a"), await coordinator.next_report("a")

    assert asyncio.run(scenario()) == ({"epoch": 1}, {"epoch": 1})


def test_lane_resuming_at_acknowledged_rung_does_not_wait():
    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.next_trial(0)
        await _started(coordinator.report_epoch(0, {"epoch": 2}, wait=True))
        await coordinator.mark_lane_lost(0, "")
        await coordinator.acknowledge("a", 2)
        await coordinator.next_trial(1)
        return await asyncio.wait_for(coordinator.report_epoch(1, {"epoch": 2}, wait=True), 1)

    assert asyncio.run(scenario()) is None


def test_trial_stopped_while_queued_is_assigned_and_stops():
    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.next_trial(0)
        await coordinator.report_epoch(0, {"epoch": 2}, wait=False)
        await coordinator.mark_lane_lost(0, "")
        await coordinator.stop_trial("a", STOP_REASON)
        await coordinator.next_trial(1)
        return await coordinator.report_epoch(1, {"epoch": 2}, wait=True)

    assert asyncio.run(scenario()) == STOP_REASON


def test_lane_ends_when_no_trial_is_left():
    async def scenario():
        coordinator = Coordinator(2)
        await coordinator.submit("a", TrialConfig())
        assert (await coordinator.next_trial(0)).key == "a"
        second = await _started(coordinator.next_trial(1))
        assert not second.done(), "a trial is still to be submitted"
        await coordinator.submit("b", TrialConfig())
        assert (await second).key == "b"
        job = await coordinator.next_trial(2)
        await coordinator.end_trial(0, "completed")
        await coordinator.report_epoch(1, {"epoch": 1}, wait=False)
        assert await coordinator.next_report("a") == TrialEnded("completed")
        return job, await coordinator.state()

    assert asyncio.run(scenario()) == (None, (1, 0))


def test_idle_losses_are_counted_until_a_trial_is_assigned():
    async def scenario():
        coordinator = await _coordinator_with("a")
        await coordinator.mark_lane_lost(0, "")
        await coordinator.mark_lane_lost(1, "")
        before = await coordinator.state()
        await coordinator.next_trial(2)
        return before, await coordinator.state()

    assert asyncio.run(scenario()) == ((1, 2), (1, 0))


@pytest.mark.parametrize(
    ("errors", "is_same"), [(("x", "x"), True), (("x", "y"), False), (("x",), False)]
)
def test_same_error_must_be_raised_by_all_workers(errors, is_same):
    async def scenario():
        coordinator = Coordinator(1)
        return await asyncio.gather(
            *(
                coordinator.all_raised_same_error(0, rank, 2, error, 0.1)
                for rank, error in enumerate(errors)
            )
        )

    assert asyncio.run(scenario()) == [is_same] * len(errors)
