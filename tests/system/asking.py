"""What `mproxy status` says on a host of the lab, validated by its schema."""

import json

import jsonschema
from lab import until
from proxies import ROOT
from relays import MPROXY

SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "status.schema.json").read_text()))


def ask(host, *words, status=0, env=None):
    """What `mproxy WORDS` prints on `host`."""
    program = host.start(MPROXY, *words, env=env)
    assert program.wait() == status, str(program)
    return program.out.text


def facts(host, which, *options):
    """What `mproxy status --json` says of one program, validated by the schema."""
    found = json.loads(ask(host, "status", "--json", *options, which))
    SCHEMA.validate(found)
    return found


def session_of(host, which, *options):
    (session,) = facts(host, which, *options)["sessions"]
    return session


def streams_of(host, which):
    """The streams of the only session."""
    return session_of(host, which, "--streams")["stream_list"]


def until_stream(host, which, condition, what):
    """Waits until the only stream of the only session is as wanted; returns it."""
    return until(lambda: [stream for stream in streams_of(host, which) if condition(stream)], 30, what)[0]
