"""Classes are composed: one inherits from another of ours only where several classes are variants of that one."""

import re

from tests.meta.sources import blank_strings, module_name, source_files

CLASS = re.compile(r"^(?:cdef )?class (\w+)(?:\(([^)]*)\))?:", re.MULTILINE)

# What has kinds. Observers and hosts, whose methods say nothing of their own, and errors are not listed.
BASES = {
    "ArrivingFile": "a file that comes: partly there, whole, or a pipe",
    "Carrier": "what carries a session's frames",
    "Check": "what a value that was read from JSON has to be",
    "CombinedDialer": "a dialer that has two others dial",
    "Config": "settings",
    "Congestion": "how much may be under way",
    "Conversation": "messages over a link, read alike by the sender and the receiver",
    "Datapath": "what carries a relay's rules out",
    "Destination": "where a receiver puts what comes",
    "FlowSide": "one side of a session's datagrams: by who sends them, or by where they go",
    "FrameParcels": "a session's frames in packets",
    "Guest": "who has connected to sproxy, and was not let in yet",
    "Inspected": "a program that says, when it is asked, what it does",
    "KeyExchange": "how both sides of a connection get their keys",
    "LinkHandler": "who is told of a link's events",
    "LogConfig": "settings of a program with a log",
    "Network": "what the demo can take away",
    "PathConfig": "what a bad network does, which can change while it runs",
    "Program": "what every program does from start to end",
    "ProgramConfig": "settings that cproxy and sproxy have in common",
    "Parcels": "what travels beside a connection's stream",
    "ProxyTunnel": "what is said to a proxy before there is a connection to sproxy",
    "Room": "for how many more there is room: in this process, or shared",
    "SessionFlow": "a flow of datagrams: who sends them, or a socket towards their target",
    "SingleDialer": "a dialer that tries in one way at a time",
    "TcpCarrier": "a carrier that is a stream socket",
    "_Opening": "what both sides of a handshake do",
}


def inheritance():
    """(class, base, module) of every class that has a base of the package."""
    found = [(match[1], [base.strip() for base in (match[2] or "").split(",")], module_name(path))
             for path in source_files(".py", ".pyx")
             for match in CLASS.finditer(blank_strings(path.read_text()))]
    ours = {name for name, _, _ in found}
    return [(name, base, module) for name, bases, module in found for base in bases if base in ours]


def is_listener_or_error(name):
    return name.endswith(("Observer", "Host", "Error"))


def test_what_is_inherited_from_has_kinds():
    wrong = [f"{module}: {name}({base})" for name, base, module in inheritance()
             if base not in BASES and not is_listener_or_error(base)]
    assert not wrong, "let it have one, or say in BASES what these are kinds of:\n" + "\n".join(wrong)


def test_the_list_of_bases_is_kept():
    gone = BASES.keys() - {base for _, base, _ in inheritance()}
    assert not gone, f"nothing inherits from these any more: {', '.join(sorted(gone))}"
