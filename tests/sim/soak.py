"""Random schedules for as long as told: `python -m tests.sim.soak --seconds 600 [--seed N]`.

With --datagram these are passages of datagram connections instead of carriers of sessions. With --seed exactly that
schedule is played, once. A failure prints the seed and how to replay it; exit status 1.
"""

import argparse
import random
import sys
import time
import traceback

from tests.sim import passage, schedule


def main(arguments=None):
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--seed", type=int, help="play this schedule only")
    parser.add_argument("--kind", help="of session schedules this one only, as early-answer (default: any)")
    parser.add_argument("--carriers", choices=("bytes", "packets", "changing"), default="bytes",
                        help="of which kind carriers are (default bytes, as over TCP)")
    parser.add_argument("--datagram", action="store_true", help="connections over datagrams")
    parser.add_argument("--from", dest="first", type=int, help="first seed; the rest follow (default: a random one)")
    options = parser.parse_args(arguments)
    play = passage.play if options.datagram else lambda seed: schedule.play(seed, options.kind, options.carriers)
    first = options.first if options.first is not None else random.SystemRandom().randrange(1 << 40)
    seeds = [options.seed] if options.seed is not None else range(first, first + (1 << 40))
    start = shown = time.monotonic()
    count = 0
    for seed in seeds:
        now = time.monotonic()
        if options.seed is None and now - start >= options.seconds:
            break
        if now - shown >= 60:
            shown = now
            print(f"{count} schedules in {now - start:.0f} s", flush=True)
        try:
            play(seed)
        except AssertionError as error:
            traceback.print_exception(error)
            print(f"FAILED after {count} schedules: {str(error).splitlines()[0]}")
            return 1
        count += 1
    print(f"{count} schedules passed in {time.monotonic() - start:.0f} s, first seed {seeds[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
