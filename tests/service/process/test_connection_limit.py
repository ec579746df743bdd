"""Which connection goes when there is no room for another."""

from aaserve.service.process.connection_limit import SPARE, ConnectionLimit


class Connected:
    def __init__(self) -> None:
        self.gone = False

    def give_way(self) -> None:
        self.gone = True


def test_the_one_that_has_waited_longest_gives_way() -> None:
    room, guests = ConnectionLimit(3), [Connected() for _ in range(3)]
    for guest in guests:
        assert room.enter(guest)
    room.works(guests[0])
    room.waits(guests[0])  # it has been answered
    assert room.enter(Connected())
    assert [guest.gone for guest in guests] == [False, True, False]
    assert not any(room.is_spare(guest) for guest in guests)


def test_a_working_connection_stays_and_a_few_more_are_let_in() -> None:
    room, working, spare = ConnectionLimit(2), [Connected() for _ in range(2)], [Connected() for _ in range(SPARE)]
    for guest in working:
        assert room.enter(guest)
        room.works(guest)
    for guest in spare:
        assert room.enter(guest)
    assert all(room.is_spare(guest) for guest in spare)
    assert not any(guest.gone for guest in spare)  # each has time to ask
    assert room.enter(Connected())
    assert [guest.gone for guest in working + spare] == [False, False, True] + [False] * (SPARE - 1)


def test_if_all_work_there_is_an_end() -> None:
    room, guests = ConnectionLimit(2), [Connected() for _ in range(2 + SPARE)]
    for guest in guests:
        assert room.enter(guest)
        room.works(guest)
    assert not room.enter(Connected())
    room.leave(guests[0])
    assert room.enter(another := Connected())
    assert not room.is_spare(another)
    assert not any(guest.gone for guest in guests)


def test_a_connection_that_has_left_does_not_wait() -> None:
    room, guest = ConnectionLimit(1), Connected()
    room.enter(guest)
    room.leave(guest)
    room.waits(guest)
    assert room.enter(Connected())
    assert not guest.gone
