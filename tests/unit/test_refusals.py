"""Which refusals end cproxy's session, and which only say that another sproxy has it."""

from types import SimpleNamespace

import pytest

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from mproxy.programs.refusals import KEY_REFUSED_US, Refusals

SITE, OTHER = 7, 8


class Clock:
    """Stands for the loop, whose time a test sets."""

    def __init__(self):
        self.us = 1

    def now(self):
        return self.us


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def refusals(clock):
    made = Refusals(clock, SimpleNamespace(session=SimpleNamespace(streams=SimpleNamespace(open_count=1))))
    made.site = SITE
    return made


def refusal(code, site=0):
    return PeerError(code, "no", site)


@pytest.mark.parametrize("code", [CloseCode.EXPIRED, CloseCode.REPLACED, CloseCode.LIMIT_ERROR])
def test_what_says_that_the_session_is_gone_ends_it(refusals, code):
    assert refusals.is_final(refusal(code))


@pytest.mark.parametrize("code", [CloseCode.BAD_PROOF, CloseCode.TOO_MANY, CloseCode.STALE_EPOCH])
def test_what_may_pass_does_not(refusals, code):
    assert not refusals.is_final(refusal(code))


def test_a_key_has_to_be_refused_for_a_while(refusals, clock):
    assert not refusals.is_final(refusal(CloseCode.KEY_REFUSED, SITE))
    clock.us += KEY_REFUSED_US - 1
    assert not refusals.is_final(refusal(CloseCode.KEY_REFUSED, SITE))
    clock.us += 1
    assert refusals.is_final(refusal(CloseCode.KEY_REFUSED, SITE))


def test_other_news_between_two_refusals_of_a_key_begin_the_while_anew(refusals, clock):
    refusals.is_final(refusal(CloseCode.KEY_REFUSED, SITE))
    clock.us += KEY_REFUSED_US
    refusals.forget()
    assert not refusals.is_final(refusal(CloseCode.KEY_REFUSED, SITE))


def test_another_site_cannot_refuse_a_key(refusals, clock):
    assert not refusals.is_final(refusal(CloseCode.KEY_REFUSED, OTHER))
    clock.us += KEY_REFUSED_US
    assert not refusals.is_final(refusal(CloseCode.KEY_REFUSED, OTHER))


@pytest.mark.parametrize(("site", "said", "elsewhere"), [
    (SITE, OTHER, True), (SITE, SITE, False), (SITE, 0, False), (0, OTHER, False)])
def test_a_session_is_elsewhere_only_if_both_sites_are_known_and_differ(refusals, site, said, elsewhere):
    refusals.site = site
    error = refusal(CloseCode.UNKNOWN_SESSION, said)
    assert refusals.is_elsewhere(error) is elsewhere
    assert refusals.is_final(error) is not elsewhere


def test_a_session_without_streams_need_not_be_found(refusals):
    refusals._endpoint.session.streams.open_count = 0
    assert refusals.is_final(refusal(CloseCode.UNKNOWN_SESSION, OTHER))
