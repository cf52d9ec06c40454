"""What `mproxy status` prints for a person, of what the programs told."""

from __future__ import annotations

from collections.abc import Iterator

from mproxy.ground.config import format_host_port
from mproxy.ground.words import counted, escaped, printable, say_duration
from mproxy.programs.relay_status import say_bytes, say_status
from mproxy.service.status import say_carrier_between

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]

# Characters of a line: whose they are is not known.
LONGEST_LINE = 1000


def say_programs(found: list[Facts], which: str | None = None) -> Iterator[str]:
    """Line by line; programs are apart by an empty one. `which`: what was asked for."""
    if not found:
        yield say_nothing(which)
    for number, facts in enumerate(found):
        if number:
            yield ""
        yield from map(clean, _say_one(facts))


def say_missing(which: str | None) -> str:
    """That nobody has answered to `which`."""
    return "nothing is running" if which is None else f"nothing called {printable(which)} is running"


def say_nothing(which: str | None) -> str:
    """The same, and what was looked for."""
    return f"{say_missing(which)}: no cproxy, sproxy, relay, recv or send of this user has a control socket here"


def _say_one(facts: Facts) -> Iterator[str]:
    program = facts["program"]
    if program in ("recv", "send"):
        return _say_transfers(facts)
    return _say_relay(facts) if program == "relay" else _say_program(facts)


def _say_relay(facts: Facts) -> Iterator[str]:
    yield (f"{facts['name']}  process {facts['pid']}, {facts['state']} for {say_duration(facts['uptime_s'])},"
           f" {facts['mode']} mode, {counted(len(facts['rules']), 'rule')} from {facts['rules_from']}")
    _first, *lines = say_status(facts, as_json=False).split("\n")
    yield from (f"  {line}" for line in lines if line)


def _say_program(facts: Facts) -> Iterator[str]:
    sessions = facts["sessions"]
    where = ", ".join(facts["listening"]) or "standard input and output"
    died = f", its worker died {counted(facts['deaths'], 'time')}" if facts.get("deaths") else ""
    died += f", upgraded {counted(facts['upgrades'], 'time')}" if facts.get("upgrades") else ""
    yield (f"{facts['name']}  process {facts['pid']}, {facts['state']} for {say_duration(facts['uptime_s'])}{died},"
           f" on {where}, {counted(len(sessions), 'session')}")
    if facts.get("open"):
        yield f"  open to {facts['open']['to']}: no key is asked for; to end that: {facts['open']['close']}"
    for place in facts.get("remote", ()):
        yield f"  listening at sproxy: {place}"
    for session in sessions:
        yield from say_session(session)


def say_session(session: Facts) -> Iterator[str]:
    """One session, with those of its streams that were asked for."""
    since = "" if session["since_s"] is None else f" for {say_duration(session['since_s'])}"
    state = f"{session['state']}{since}"
    if session["state"] != "connected":
        state += f": {session['why']}" if session["why"] else ""
        if session["next_try_s"] is not None:
            state += f"; next try in {say_duration(session['next_try_s'])}"
    who = session["peer"] + (f" ({session['comment']})" if session["comment"] else "")
    yield f"  session {session['session'] or '(none yet)'}  {who}  {state}"
    carrier = session["carrier"]
    if carrier is not None:
        facts = [say_carrier_between(carrier, "->")]
        if session["round_trip_ms"] is not None:
            facts.append(f"round trip {session['round_trip_ms']:.1f} ms")
        if session["last_heard_s"] is not None:
            facts.append(f"heard {session['last_heard_s']:.1f} s ago")
        yield f"    {', '.join(facts)}"
    moved = (f"{counted(session['streams'], 'stream')}, {say_bytes(session['sent_bytes'])} sent,"
             f" {say_bytes(session['received_bytes'])} received, {say_bytes(session['resent_bytes'])} resent,"
             f" {say_bytes(session['unacknowledged_bytes'])} not acknowledged")
    outages = session["outages"]
    if outages["count"]:
        moved += (f"; {counted(outages['count'], 'outage')}, the longest {outages['longest_s']:.1f} s,"
                  f" {outages['total_s']:.1f} s in all")
    yield f"    {moved}"
    known = [f"began {say_duration(session['age_s'])} ago"] if session["age_s"] is not None else []
    known += [f"heartbeat {session['heartbeat_s']:g} s", f"{say_bytes(session['memory_bytes'])} of memory"]
    if session["key"]:
        known.append(f"key {session['key']}")
    yield f"    {', '.join(known)}"
    if "datagrams" in session:
        yield from _say_datagrams(session["datagrams"])
    streams = session.get("stream_list", [])
    for stream in streams:
        yield f"    {say_stream(session, stream)}"
    if streams and session["streams"] > len(streams):
        yield f"    and {counted(session['streams'] - len(streams), 'more stream')}: --streams shows all"


def _say_datagrams(facts: Facts) -> Iterator[str]:
    yield (f"    {counted(facts['flows'], 'flow')} of datagrams, {facts['sent']} sent, {facts['received']} received,"
           f" {facts['dropped']} dropped")
    for flow in facts["flow_list"]:
        peer = f"{format_host_port(*flow['peer'])} -> " if flow["peer"] else ""
        yield (f"    flow {flow['flow']}  {peer}{flow['target']}  idle for {say_duration(flow['idle_s'])}"
               f"  {flow['sent']} sent, {flow['received']} received")
    if facts["flows"] > len(facts["flow_list"]):
        yield f"    and {counted(facts['flows'] - len(facts['flow_list']), 'more flow')}"


SLOW = {"application": "waiting for the application", "path": "waiting for the path",
        "peer": "waiting for the application at the other end"}


def say_stream(session: Facts, stream: Facts) -> str:
    """One stream on one line."""
    age = f" for {say_duration(stream['age_s'])}" if stream["age_s"] is not None else ""
    words = [f"stream {session['session']}/{stream['stream']}  {stream['state']}{age}"]
    words += [f"to {stream['target']}"] if stream["target"] else []
    words += [say_application(stream["application"])] if stream["application"] else []
    moved = [f"{say_bytes(stream['sent_bytes'])} sent", f"{say_bytes(stream['received_bytes'])} received"]
    if stream["unacknowledged_bytes"]:
        moved.append(f"{say_bytes(stream['unacknowledged_bytes'])} not acknowledged")
    if stream["undelivered_bytes"]:
        moved.append(f"{say_bytes(stream['undelivered_bytes'])} not delivered")
    if stream["slow"]:
        moved.append(SLOW.get(stream["slow"], ""))
    return "  ".join([*words, ", ".join(moved)])


def say_application(application: Facts) -> str:
    """`127.0.0.1:40000 (ssh, process 4711)`."""
    text = format_host_port(*application["peer"])
    return f"{text} ({application['process']}, process {application['pid']})" if "pid" in application else text


def _say_transfers(facts: Facts) -> Iterator[str]:
    where = f", on {', '.join(facts['listening'])}" if "listening" in facts else ""
    yield (f"{facts['name']}  process {facts['pid']}, {facts['state']} for {say_duration(facts['uptime_s'])}{where},"
           f" {counted(len(facts['transfers']), 'transfer')}")
    for each in facts["transfers"]:
        done = each["moved_bytes"] + each["kept_bytes"]
        total = f" of {say_bytes(each['total_bytes'])}" if each["total_bytes"] is not None else ""
        left = f", {say_duration(each['left_s'])} left" if each["left_s"] is not None else ""
        yield (f"  {each['peer']}  {say_bytes(done)}{total}, {say_bytes(each['bytes_per_second'])}/s{left},"
               f" since {say_duration(each['age_s'])}")


def clean(text: str) -> str:
    """Text of a program that may be another user's, as a terminal may have it."""
    return "\n".join(escaped(line)[:LONGEST_LINE] for line in text.split("\n"))
