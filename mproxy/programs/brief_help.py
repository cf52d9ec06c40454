"""What --help prints: 24 lines at most, what most people need first. --help-all has every option.

Programs whose whole help is no longer than that have no text of their own here, and others need none: then --help is
the beginning of the whole.
"""

from __future__ import annotations

MOST_LINES = 24

BRIEF = {
    "cproxy": """\
usage: cproxy [options] PORT HOST PORT
       cproxy [options] -L PORT:HOST:PORT ... -D PORT ... -R ... HOST PORT
       cproxy [options] --stdio HOST PORT

Keep TCP connections alive while the network is gone or changes: listen on the
first PORT, and relay to the sproxy at HOST PORT.

  -L PORT:HOST:PORT  listen here as well, for the daemon at HOST:PORT, or /PATH
  -D PORT            listen here as well, as a SOCKS proxy
  -R PORT:HOST:PORT  have sproxy listen, for HOST:PORT as reached from here
  --udp PORT:HOST:PORT  take datagrams here, for those at HOST:PORT
  --stdio            one connection on standard input and output, for ssh
  --target HOST:PORT ask for this daemon instead of sproxy's default
  --via COMMAND      reach sproxy through a command, where only that leads to it
  --log-file FILE    append the log here; --log-level debug tells more

examples:
  cproxy 5200 server 6200          then: telnet 127.0.0.1 5200
  cproxy -L 8080:intranet:80 -D 1080 server 6200
  ssh -o ProxyCommand='cproxy --stdio %h 6200' user@server
  cproxy --via 'ssh -T server sproxy --attach' 5200

All options: cproxy --help-all. No session? mproxy doctor HOST PORT
""",
    "sproxy": """\
usage: sproxy [options] PORT [HOST:PORT]
       sproxy --attach [PORT]

Let cproxy in on PORT, and relay its connections to the daemon at HOST:PORT
(default 127.0.0.1:23). Without authorized_keys anyone who reaches PORT can use
the daemon: 'mproxy authorize' on the client, or --closed, ends that.

  --allow HOST:PORT  one more daemon that clients may ask for, or its /PATH
  --closed           let nobody in whose key is not in authorized_keys
  --bind ADDR        listen on this address only
  --user USER        give up root's rights once the port is open
  --source-per-key   an address of its own for each client, towards the daemon
  --send-proxy v1|v2 tell daemons which address the client has
  --attach           be a pipe to the sproxy that runs here, for cproxy --via
  --log-file FILE    append the log here; --log-level debug tells more

examples:
  sproxy 6200                      beside a telnet daemon
  sproxy --source-per-key 6200 127.0.0.1:22
  sproxy --allow intranet:80 --allow '*:443' 6200

All options: sproxy --help-all. What runs: mproxy status
""",
    "mproxy relay": """\
usage: mproxy relay [options] PORT HOST HOST_PORT [RULE_OPTION ...]
       mproxy relay [options] --config FILE
       mproxy relay check FILE
       mproxy relay reload|stop|status [--pidfile FILE]

Relay TCP connections, or UDP datagrams, from PORT to HOST HOST_PORT.

  --udp              datagrams, not connections
  --config FILE      read the rules from this file, one per line
  --workers N|auto   processes that relay; auto is one for each CPU
  --kernel           let the kernel relay, by nftables: faster, fewer options
  --daemon           run in the background; --pidfile FILE has its number
  --user USER        run the workers with this user's rights
  --log-file FILE    append the log here

examples:
  mproxy relay 80 192.168.0.2 8080 max=500 proxy=v2
  mproxy relay --udp 53 10.0.0.2 53
  mproxy relay --config /etc/mproxy/relay.conf --workers auto

All options, and those of a rule: mproxy relay --help-all
""",
    "mproxy copy": """\
usage: mproxy copy [options] FILE... [USER@]HOST:PATH
       mproxy copy [options] [USER@]HOST:FILE... PATH

Copy files and directories to another host, or from there, as scp does: ssh
starts the other end, the data go over UDP. Copied again after an interruption,
it continues where it stopped. HOST needs mproxy installed.

  -P PORT            sshd's port; --ssh COMMAND is ssh with any options
  --links            symbolic links as links; --copy-links: what they lead to
  --exclude PATTERN  leave out what matches, as rsync does; --include before it
  --update           skip by size and time what is there (--checksum: by hash)
  --no-clobber       leave files alone that exist and are different
  --limit RATE       such as 20Mbit; --dry-run only names what would be copied

examples:
  mproxy copy movie.mkv photos/ ann@server:incoming/
  mproxy copy 'server:logs/*.gz' .

exit status: 0 all has arrived, 8 all but what was named; --help-all has more
All options: mproxy copy --help-all
""",
    "mproxy send": """\
usage: mproxy send [options] FILE... HOST PORT
       mproxy send [options] FILE...      prints a code for mproxy recv CODE

Send files and directories to 'mproxy recv' at HOST PORT, over UDP. FILE '-' is
standard input. Sent again after an interruption, a file continues where it
stopped, as long as it has not changed.

  --key FILE         a secret that both sides have, or a key of mproxy keygen
  --own-key          the key that 'mproxy keygen' makes by default
  --peer SHA256:...  the key that the receiver must have
  --timeout TIME     give up after this long without an answer (default 1m)
  --quiet            no progress bar; --json: one JSON object per file

examples:
  mproxy send --key secret movie.mkv photos/ server 7000
  tar c . | mproxy send --key secret - server 7000

exit status: 0 all has arrived, 6 no answer, 7 the keys do not agree, 8 all but
links and devices has arrived; the others are in --help-all
All options: mproxy send --help-all
""",
    "mproxy recv": """\
usage: mproxy recv [options] PORT [-o FILE|DIR|-]
       mproxy recv [options] CODE [HOST PORT]     CODE is of mproxy send FILE...

Receive what 'mproxy send' sends to UDP port PORT. A file gets its name only
once all of it has arrived and its hash matches.

  -o FILE|DIR|-      where to: a file, a directory, or standard output
                     (default: the current directory)
  --key FILE         a secret that both sides have, or a key of mproxy keygen
  --own-key          the key that 'mproxy keygen' makes; senders are those in
                     authorized_keys
  --open             without keys: take files from anyone who reaches the port
  --once             end after the first sender
  --force            replace files that exist
  --user USER        write files with this user's rights

examples:
  mproxy recv --key secret 7000 -o incoming/
  mproxy recv --once --key secret 7000 -o - | tar x

All options: mproxy recv --help-all
""",
    "mproxy impair": """\
usage: mproxy impair [options] PORT HOST PORT

A bad network in a box: relay UDP packets from the first PORT to HOST PORT and
back, and lose, damage, reorder and delay them. A value holds for both ways; A/B
is A to the server and B to the client.

  --profile NAME     dsl, hotel-wifi, lte-train or geo-satellite
  --loss P           lose P % of the packets; --duplicate, --corrupt, --reorder
  --burst-loss P:N   lose P %, in bursts of N
  --outage 30s/5s    lose everything for 5 s of each 30 s
  --rebind TIME      other ports for the server this often
  --delay TIME       in one direction; --jitter TIME varies it
  --rate RATE        of the link, such as 100Mbit; --queue SIZE waits for it
  --mtu N            drop larger packets
  --seed N           the same losses for the same packets, every time

examples:
  mproxy impair --loss 5/0 --delay 10ms --rate 100Mbit 7001 127.0.0.1 7000
  mproxy impair --profile lte-train 7001 server 7000
  mproxy impair set --loss 100                 changes it while it runs

SIGUSR1 prints the statistics so far. All options: mproxy impair --help-all
""",
    "mproxy doctor": """\
usage: mproxy doctor [options] HOST PORT
       mproxy doctor [options] --via COMMAND

Find out why cproxy has no session with the sproxy at HOST PORT, or how good the
path to it is, and what to do. Existing sessions are not affected.

  --session          begin a session as well, and show what the daemon says
  --long             the same, and leave it idle for a minute: does it survive?
  --json             one JSON object at the end
  --proxy URL, --via COMMAND  the way to it, as with cproxy
  --connect-timeout TIME  how long each step waits for an answer (default 5s)
  --state-dir DIR    where the keys are; --key, --known-hosts and
                     --host-fingerprint as with cproxy

exit status: 0 a session is possible, 1 something prevents it

example: mproxy doctor server 6200
All options: mproxy doctor --help-all
""",
    "mproxy authorize": """\
usage: mproxy authorize [options] [USER@]HOST

Run ssh once: add this client's key to authorized_keys of the sproxy that USER
runs on HOST, and the key of that sproxy to known_hosts here. Safe to repeat.

  --port PORT        where sproxy listens (default 6200)
  --name HOST        the server's name for cproxy, if ssh uses another one
  --ssh COMMAND      the ssh command, with any options (default ssh)
  --options LIST     what the key may do: target=, from=, expiry=, max-streams=
  --comment TEXT     comment after the key

examples:
  mproxy authorize ann@server
  mproxy authorize --ssh 'ssh -p 2222' --options 'max-streams=50' server

All options: mproxy authorize --help-all
""",
    "mproxy wait": """\
usage: mproxy wait [--for STATE] [--timeout TIME] [PROGRAM|NAME|PID]

Wait until a cproxy or sproxy is in a state; for scripts.

  --for connected    a session has a carrier (the default)
  --for away         a session has lost its carrier and waits for the next
  --for ended        no session is left, or the program has ended
  --timeout TIME     give up after this long (default never)

exit status: 0 the state is reached, 1 --timeout has expired, or nothing that
could end has that name

example: mproxy wait --for connected --timeout 30s && make deploy
The whole story: mproxy wait --help-all
""",
    "mproxy top": """\
usage: mproxy top [--delay TIME] [--sort COLUMN] [PROGRAM|NAME|PID]

Watch every session of this user (as root: of this host) and the rates at which
bytes move; sort them, ask why one was away, and kill sessions and streams.

  arrows, Page Up/Down, Home, End   choose a session
  < and >, r     sort by the next column, the other way round
  Enter          why: outages with their reasons, and the session's streams
  k              kill it, after a question
  space          ask now
  q              quit

  --delay TIME   ask again after this long (default 2s)
  --sort COLUMN  such as outages, rtt, streams (default down/s)

example: mproxy top --sort outages sproxy
All columns: mproxy top --help-all
""",
}


def brief_help(program: str, whole: str) -> str:
    """What `program --help` prints; `whole` is what --help-all does."""
    if program in BRIEF:
        return BRIEF[program]
    lines = whole.splitlines()
    if len(lines) <= MOST_LINES:
        return whole
    return "\n".join([*lines[:MOST_LINES - 2], "", f"... and more: {program} --help-all", ""])
