"""Stages work at the same time, in order, with little in between, and end together."""

import random
import time
from _thread import interrupt_main
from threading import Event, active_count

import pytest

from icnet.deploy.demo.overlap import Overlap

PATIENCE = 30  # seconds; what is waited for comes at once unless something is broken


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    before = active_count()
    yield
    assert active_count() == before


def counted(count, closed=None):
    try:
        yield from range(count)
    finally:
        if closed:
            closed.set()


def test_every_item_comes_out_once_and_in_order():
    rng, seen = random.Random(0), {"main": [], "draw": [], "write": []}

    def stage(name):
        def work(item):
            seen[name].append(item)
            time.sleep(rng.random() / 500)
            return item + 1000

        return work

    Overlap(counted(50), stage("main"), stage("draw"), stage("write")).run()
    assert seen == {"main": [*range(50)], "draw": [*range(1000, 1050)], "write": [*range(2000, 2050)]}


def test_all_stages_are_at_work_on_other_items_at_once():
    """Each waits inside an item until the others are inside another one: one after the other, none would go on."""
    inside = {name: Event() for name in ("read", "main", "draw", "write")}

    def meet(name):
        inside[name].set()
        return all(event.wait(PATIENCE) for event in inside.values())

    def read():
        yield from range(3)
        assert meet("read")
        yield 3

    Overlap(
        read(),
        lambda item: item if item != 2 or meet("main") else 1 / 0,
        lambda item: item if item != 1 or meet("draw") else 1 / 0,
        lambda item: item if item != 0 or meet("write") else 1 / 0,
    ).run()


def test_little_is_read_ahead():
    read, most = [], []

    def source():
        for item in range(20):
            read.append(item)
            yield item

    def main(item):
        time.sleep(0.005)  # time enough to read all
        most.append(len(read) - item)
        return item

    Overlap(source(), main).run()
    assert len(most) == 20
    assert max(most) <= 4  # two that wait, one in the reader's hands, one here


@pytest.mark.parametrize("place", ["main", "draw", "write"])
def test_failure_of_a_stage_ends_all_and_is_raised_once(place):
    closed, written = Event(), []

    def stage(name):
        def work(item):
            if name == place and item == 5:
                raise ValueError(f"{name} fails at {item}")
            return item

        return work

    with pytest.raises(ValueError, match=rf"^{place} fails at 5$"):
        Overlap(counted(10_000, closed), stage("main"), stage("draw"), stage("write"), written.append).run()
    assert closed.is_set()
    assert written == [*range(len(written))]
    assert len(written) == 5 if place == "main" else len(written) <= 5


def test_what_was_read_before_a_failure_of_the_source_is_finished():
    written = []

    def source():
        yield from range(4)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        Overlap(source(), lambda item: item, written.append).run()
    assert written == [0, 1, 2, 3]


def test_interrupt_ends_the_reading_and_finishes_what_the_network_has_done():
    closed, done, written = Event(), [], []

    def main(item):
        done.append(item)
        if item == 6:
            interrupt_main()  # as Ctrl-C does
            time.sleep(PATIENCE)
        return item

    with pytest.raises(KeyboardInterrupt):
        Overlap(counted(10_000, closed), main, written.append).run()
    assert closed.is_set()
    assert done[-1] == 6
    assert written == [0, 1, 2, 3, 4, 5]
