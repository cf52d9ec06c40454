"""Asking for places where sproxy listens, and for targets of datagrams, and answering: _asking.pxd."""

from mproxy._listening import (
    answer_associate, answer_listen, ask_associate, ask_listen, end_asking, end_associating,
)
from mproxy.endpoint._endpoint cimport Endpoint


def ask_for_places(Endpoint endpoint not None, places):
    """cproxy, when a carrier is active: have sproxy listen at these, {number: text}, and nowhere else."""
    for number, text in places.items():
        ask_listen(endpoint.session, number, text)
    end_asking(endpoint.session)
    endpoint.loop.schedule(&endpoint.work)


def answer_place(Endpoint endpoint not None, int number, bint listens, str text):
    """sproxy: whether it listens there; `text`: where, or why not."""
    answer_listen(endpoint.session, number, listens, text.encode(errors="replace"))
    endpoint.loop.schedule(&endpoint.work)


def ask_for_targets(Endpoint endpoint not None, targets):
    """cproxy, when a carrier is active: have sproxy send datagrams to these, {number: text}, and nowhere else."""
    for number, text in targets.items():
        ask_associate(endpoint.session, number, text)
    end_associating(endpoint.session)
    endpoint.loop.schedule(&endpoint.work)


def answer_target(Endpoint endpoint not None, int number, bint goes, str text):
    """sproxy: whether it sends datagrams there; `text`: where to, or why not."""
    answer_associate(endpoint.session, number, goes, text.encode(errors="replace"))
    endpoint.loop.schedule(&endpoint.work)
