"""Many cproxies in one process: crowd.py COUNT HOST PORT [OPTION...]

Each is what `cproxy --no-keeper OPTION... 0 HOST PORT` is, with a session of its own; they share a loop, because a
process for each would be memory and time for Python alone. Prints `ports P...` when they listen, then `NUMBER EVENT
SESSION WHY` for what each logs of its session. Ends with its standard input.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mproxy.programs.cproxy import make_program
from mproxy.programs.cproxy_options import parse_cproxy
from mproxy.service.log import Log
from mproxy.service.run import make_loop, raise_descriptor_limit

TOLD = {"connected", "lost", "resumed", "ended", "internal-error"}


class CrowdLog(Log):
    """Of one cproxy: only what the crowd is asked for."""

    def __init__(self, number: int) -> None:
        super().__init__("error", "text")
        self.number = number

    def info(self, event: str, /, **fields: object) -> None:
        self._tell(event, fields)

    warning = error = info

    def _tell(self, event: str, fields: dict[str, object]) -> None:
        if event in TOLD:
            print(self.number, event, fields.get("session"), fields.get("why", ""), flush=True)


def main(count: str, host: str, port: str, *options: str) -> None:
    raise_descriptor_limit()
    words = ["--no-keeper", "--bind", "127.0.0.1", *options, "0", host, port]
    loop = make_loop(parse_cproxy(words))[0]
    programs = []
    for number in range(int(count)):
        program = make_program(parse_cproxy(words), CrowdLog(number), loop)
        program.open()
        program.start()
        programs.append(program)
    places = [place for program in programs for place in program.inspect()["listening"]]
    print("ports", *(place.rpartition(":")[2] for place in places), flush=True)
    loop.watch(0, lambda _events: loop.stop() if not sys.stdin.buffer.read1(1) else None)
    loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
