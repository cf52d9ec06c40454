"""What supervisor and workers say to each other, as JSON: words and numbers, nothing that runs.

A worker reads what strangers send, and may have fewer rights than its supervisor: whatever it says is checked before it
is believed. Which messages there are: worker.py.
"""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_network

from mproxy.relay.counters import NAMES
from mproxy.relay.rules import Rule, RuleOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from mproxy.relay.counters import Values

    Down = dict[int, list[tuple[str, int]]]  # by rule: HOST:PORT and errno of addresses that are left out
    Report = (
        tuple[Literal["ready"]]
        | tuple[Literal["counters"], int, dict[int, Values], int, int]  # number, what changed, connections, flows
        | tuple[Literal["down"], Down]
        | tuple[Literal["removed"], dict[int, Values]]
        | tuple[Literal["crowded"], list[int]])
    KeeperReport = tuple[Literal["started"], int] | tuple[Literal["ended"], int, int]

_DEFAULTS = {field.name: field.default for field in fields(RuleOptions)}
_NETWORKS = {"allow", "deny"}
_NOT_FOR_WORKERS = {"check"}  # the supervisor checks
_COUNTERS = {name for names in NAMES.values() for name in names}
_LARGEST = 1 << 64
_MOST_ADDRESSES = 1024   # of a rule: 64 targets of 8 addresses each
_LONGEST_TARGET = 512    # HOST:PORT at ADDRESS
_LARGEST_ERRNO = 4095


class WorkerMessageError(Exception):
    """What came is not one of the messages of a worker."""


# ---- to workers

def pack_rule(rule: Rule) -> list[Any]:
    """A Rule as JSON, without options that have their default values, or are none of a worker's business."""
    options = {}
    for name, default in _DEFAULTS.items():
        value = getattr(rule.options, name)
        if value != default and name not in _NOT_FOR_WORKERS:
            options[name] = [str(network) for network in value] if name in _NETWORKS else value
    return [rule.number, rule.protocol, rule.listen_host, rule.listen_port, rule.targets, options]


def unpack_rule(packed: list[Any]) -> Rule:
    """The Rule of `pack_rule`."""
    number, protocol, host, port, targets, options = packed
    for name in options.keys() & _NETWORKS:
        options[name] = map(ip_network, options[name])
    options = {name: tuple(value) if isinstance(_DEFAULTS[name], tuple) else value for name, value in options.items()}
    return Rule(number, protocol, host, port, tuple(map(tuple, targets)), RuleOptions(**options))


# ---- from workers

def check_report(message: list[Any]) -> Report:
    """What a worker said; WorkerMessageError if it is not a message that it may send."""
    match message:
        case ["ready"]:
            return ("ready",)
        case ["counters", int(number), list(changed), int(connections), int(flows)]:
            _check_number(number, connections, flows)
            return "counters", number, _check_counters(changed), connections, flows
        case ["down", list(changed)]:
            return "down", _check_down(changed)
        case ["removed", list(changed)]:
            return "removed", _check_counters(changed)
        case ["crowded", list(keys)] if all(isinstance(key, int) for key in keys):
            _check_number(*keys)
            return "crowded", keys
    raise WorkerMessageError("not a message of a worker")


def check_keeper(message: list[Any]) -> KeeperReport:
    """What a worker's keeper said; WorkerMessageError if it is not a message that it may send."""
    match message:
        case ["started", int(pid)]:
            _check_number(pid)
            return "started", pid
        case ["ended", int(status), int(serial)]:
            _check_number(status, serial)
            return "ended", status, serial
    raise WorkerMessageError("not a message of a keeper")


def pack_counters(counters: dict[int, Values]) -> list[tuple[int, Values]]:
    """Counters as pairs: JSON would make strings of the keys of an object."""
    return list(counters.items())


def _check_counters(packed: list[Any]) -> dict[int, Values]:
    found = {}
    for entry in packed:
        match entry:
            case [int(key), dict(values)] if values.keys() <= _COUNTERS:
                _check_number(key, *values.values())
                found[key] = values
            case _:
                raise WorkerMessageError("not the counters of a rule")
    return found


def _check_down(packed: list[Any]) -> Down:
    found = {}
    for entry in packed:
        match entry:
            case [int(key), list(addresses)] if len(addresses) <= _MOST_ADDRESSES:
                _check_number(key)
                found[key] = [_check_address(address) for address in addresses]
            case _:
                raise WorkerMessageError("not the addresses of a rule")
    return found


def _check_address(address: object) -> tuple[str, int]:
    match address:
        case [str(text), int(error)] if len(text) <= _LONGEST_TARGET and 0 < error <= _LARGEST_ERRNO:
            return text, error
    raise WorkerMessageError("not an address that is down")


def _check_number(*values: int) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value < _LARGEST:
            raise WorkerMessageError("not a count")
