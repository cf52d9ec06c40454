"""Asking for places where sproxy listens, and answering: _asking.pxd."""

from mproxy._listening import answer_listen, ask_listen, end_asking
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
