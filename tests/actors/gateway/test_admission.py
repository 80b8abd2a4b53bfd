from dataclasses import replace

import pytest

from actors.gateway.admission import FIRST_ACTOR, Admission
from actors.gateway.protocol import Hello, Mode
from wm_distributed.errors import GatewayError

KEY = b"a secret of the gateway"


def test_no_two_clients_share_a_ticket_also_after_a_restart() -> None:
    tickets = []
    for _ in range(3):
        admission = Admission("secret", KEY, max_streams=10)
        tickets += [admission.admit(Hello("secret", "act", 1)) for _ in range(5)]
    assert len({incarnation for _, incarnation in tickets}) == 15
    assert [actor - FIRST_ACTOR for actor, _ in tickets] == [0, 1, 2, 3, 4] * 3


def test_the_next_client_takes_the_number_of_one_that_has_gone_as_its_next_incarnation() -> None:
    admission = Admission("", KEY, max_streams=10)
    gone, stays = (admission.admit(Hello("", "act", 1)) for _ in range(2))
    admission.release(gone)
    after = admission.admit(Hello("", "act", 1))
    assert after[0] == gone[0] != stays[0]
    assert after[1] > stays[1] > gone[1]


@pytest.mark.parametrize("token", ["", "secre", "secret ", "Secret", "sécret"])
def test_another_token_is_refused(token: str) -> None:
    admission = Admission("secret", KEY, max_streams=1)
    with pytest.raises(GatewayError, match="wrong token"):
        admission.admit(Hello(token, "act", 1))
    assert (admission.clients, admission.streams) == (0, 0)


def test_streams_are_limited_until_others_are_released() -> None:
    admission = Admission("", KEY, max_streams=3)
    first = admission.admit(Hello("", "act", 2))
    with pytest.raises(GatewayError, match=r"2 streams more than the 2.*max_streams is 3"):
        admission.admit(Hello("", "act", 2))
    admission.admit(Hello("", "act", 1))
    assert (admission.clients, admission.streams) == (2, 3)
    admission.release(first)
    admission.admit(Hello("", "insert", 2))
    with pytest.raises(GatewayError, match="max_streams"):
        admission.admit(Hello("", "act", 2**62))


def given(admission: Admission, mode: Mode = "insert", num_streams: int = 1) -> Hello:
    """What a client would say that comes back after its connection has broken."""
    hello = Hello("", mode, num_streams)
    ticket = admission.admit(hello)
    return replace(hello, mode="insert", resume=ticket, proof=admission.proof(hello, ticket))


def test_a_ticket_is_resumed_by_one_client_at_a_time_even_after_a_restart() -> None:
    before = Admission("", KEY, max_streams=3)
    resuming = given(before)
    assert resuming.resume is not None
    with pytest.raises(GatewayError, match="still there"):
        before.admit(resuming)
    before.release(resuming.resume)
    assert before.admit(resuming) == resuming.resume
    after = Admission("", KEY, max_streams=3)
    assert after.admit(resuming) == resuming.resume


def test_only_what_this_gateway_gave_out_is_resumed() -> None:
    admission = Admission("", KEY, max_streams=9)
    mine, another = given(admission, num_streams=2), given(admission, num_streams=2)
    assert mine.resume is not None
    (actor, incarnation), proof = mine.resume, mine.proof
    for invented in (
        replace(mine, resume=(actor, incarnation - 1)),  # of the past, but nobody's
        replace(mine, resume=(actor + 1, incarnation)),
        replace(mine, resume=(actor, incarnation), proof=another.proof),
        replace(mine, proof=b""),
        replace(mine, proof=proof[:-1]),
        replace(mine, num_streams=3),  # more streams than it was given
        given(admission, mode="act"),  # whose streams are not inserted into
        given(Admission("", b"of another run", max_streams=9)),
        given(Admission("", b"", max_streams=9)),
    ):
        with pytest.raises(GatewayError, match="has not given this ticket"):
            Admission("", KEY, max_streams=9).admit(invented)
    assert Admission("", KEY, max_streams=9).admit(mine) == mine.resume
