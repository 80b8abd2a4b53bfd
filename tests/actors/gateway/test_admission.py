import pytest

from actors.gateway.admission import FIRST_ACTOR, Admission
from actors.gateway.protocol import Hello
from wm_distributed.errors import GatewayError


def test_no_two_clients_share_a_ticket_also_after_a_restart() -> None:
    tickets = []
    for _ in range(3):
        admission = Admission("secret", max_streams=10)
        tickets += [admission.admit(Hello("secret", "act", 1)) for _ in range(5)]
    assert len({incarnation for _, incarnation in tickets}) == 15
    assert [actor - FIRST_ACTOR for actor, _ in tickets] == [0, 1, 2, 3, 4] * 3


def test_the_next_client_takes_the_number_of_one_that_has_gone_as_its_next_incarnation() -> None:
    admission = Admission("", max_streams=10)
    gone, stays = (admission.admit(Hello("", "act", 1)) for _ in range(2))
    admission.release(gone)
    after = admission.admit(Hello("", "act", 1))
    assert after[0] == gone[0] != stays[0]
    assert after[1] > stays[1] > gone[1]


@pytest.mark.parametrize("token", ["", "secre", "secret ", "Secret", "sécret"])
def test_another_token_is_refused(token: str) -> None:
    admission = Admission("secret", max_streams=1)
    with pytest.raises(GatewayError, match="wrong token"):
        admission.admit(Hello(token, "act", 1))
    assert (admission.clients, admission.streams) == (0, 0)


def test_streams_are_limited_until_others_are_released() -> None:
    admission = Admission("", max_streams=3)
    first = admission.admit(Hello("", "act", 2))
    with pytest.raises(GatewayError, match=r"2 streams more than the 2.*max_streams is 3"):
        admission.admit(Hello("", "act", 2))
    admission.admit(Hello("", "act", 1))
    assert (admission.clients, admission.streams) == (2, 3)
    admission.release(first)
    admission.admit(Hello("", "insert", 2))
    with pytest.raises(GatewayError, match="max_streams"):
        admission.admit(Hello("", "act", 2**62))


def test_a_ticket_is_resumed_by_one_client_at_a_time_even_after_a_restart() -> None:
    before = Admission("", max_streams=3)
    ticket = before.admit(Hello("", "insert", 1))
    resuming = Hello("", "insert", 1, ticket)
    with pytest.raises(GatewayError, match="still there"):
        before.admit(resuming)
    before.release(ticket)
    assert before.admit(resuming) == ticket
    after = Admission("", max_streams=3)
    assert after.admit(resuming) == ticket


@pytest.mark.parametrize("ticket", [(0, 0), (FIRST_ACTOR - 1, 5), (FIRST_ACTOR, 2**63 - 1)])
def test_a_ticket_that_no_gateway_gave_out_is_refused(ticket: tuple[int, int]) -> None:
    with pytest.raises(GatewayError, match="no gateway has given"):
        Admission("", max_streams=1).admit(Hello("", "insert", 1, ticket))
