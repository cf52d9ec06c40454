"""Command lines and configurations of the peers, each with the best settings known for it.

One process, one thread each: haproxy `nbthread 1`, nginx `worker_processes 1`. Logging is off everywhere.
Buffers of nginx (16 to 256 KiB) and socat (8 to 256 KiB) were tried, the best is used. haproxy runs three
times: as it comes (16 KiB buffers), with 256 KiB buffers, and with splice, because the three lie far apart in
bulk. `option splice-auto` in place of splice-request and -response made no difference that stood out of the
noise; other options of haproxy, `tcp-smart-connect` and `-accept` among them, are left at their defaults. nginx as a
UDP relay runs twice: as it comes, and with `multi_accept on`, which gives it a quarter more packets a CPU second.
"""

from __future__ import annotations

from pathlib import Path

from harness.chain import Hop
from harness.places import run

IDLE_LIMIT = "24h"  # no peer may end an idle connection during a run
MAX_CONNECTIONS = 9900  # two descriptors each, within the usual hard limit of 20,000 a process

HAPROXY = """
global
    nbthread 1
    maxconn {max_connections}
    {tuning}
defaults
    mode tcp
    timeout connect 10s
    timeout client {idle}
    timeout server {idle}
    {options}
listen hop
    bind {listen} {bind_options}
    server next {target} {server_options}
"""

NGINX_HEAD = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {work}/nginx-{port}.pid;
error_log {work}/nginx-{port}.err crit;
events {{ worker_connections 19900; {event_options} }}
stream {{
    access_log off;
"""

NGINX_STREAM = NGINX_HEAD + """\
    server {{
        listen {listen} backlog=4096;
        proxy_pass {target};
        proxy_buffer_size 256k;
        proxy_timeout {idle};
        tcp_nodelay on;
    }}
}}
"""

NGINX_UDP = NGINX_HEAD + """\
    server {{
        listen {listen} udp rcvbuf=4m;
        proxy_pass {target};
        proxy_buffer_size 64k;
        proxy_timeout 60s;
    }}
}}
"""

NGINX_ORIGIN = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {work}/origin.pid;
error_log {work}/origin.err crit;
events {{ worker_connections 19900; multi_accept on; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {{
        listen {listen} backlog=4096;
        location / {{ return 200 "ok\\n"; }}
    }}
}}
"""

STUNNEL = """
foreground = yes
pid =
syslog = no
debug = 3
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[hop]
client = {client}
cert = {certificate}
ciphersuites = TLS_AES_128_GCM_SHA256
sslVersion = TLSv1.3
accept = {listen}
connect = {target}
TIMEOUTidle = 86400
"""

SSHD = """
ListenAddress {listen}
HostKey {work}/ssh-key
AuthorizedKeysFile {work}/ssh-key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
AllowTcpForwarding yes
UseDNS no
Subsystem sftp internal-sftp
"""


MPROXY = Path(__file__).resolve().parents[2] / "bin" / "mproxy"


def mproxy_relay(listen: str, targets: str, work: Path, workers: int = 1) -> list[str]:
    """Our relay with one rule; `targets` as a rule has them."""
    config = work / f"relay-{listen.rpartition(':')[2]}.conf"
    config.write_text(f"{listen} -> {targets}\n")
    return [str(MPROXY), "relay", "--config", str(config), "--workers", str(workers)]


def relay_hop(hop: Hop, work: Path) -> list[str]:
    return mproxy_relay(hop.listen, hop.target, work)


def haproxy(hop: Hop, work: Path, *, tuning="", options="", bind_options="", server_options="") -> list[str]:
    config = work / f"haproxy-{hop.port}.cfg"
    config.write_text(
        HAPROXY.format(
            max_connections=MAX_CONNECTIONS,
            idle=IDLE_LIMIT,
            listen=hop.listen,
            target=hop.target,
            tuning=tuning,
            options=options,
            bind_options=bind_options,
            server_options=server_options,
        )
    )
    return ["haproxy", "-db", "-f", str(config)]


def haproxy_big_buffers(hop: Hop, work: Path) -> list[str]:
    return haproxy(hop, work, tuning="tune.bufsize 262144")


def haproxy_splice(hop: Hop, work: Path) -> list[str]:
    """No copy through user space at all; such a proxy can't look at, number or repeat what it forwards."""
    options = "option splice-request\n    option splice-response"
    return haproxy(hop, work, tuning="maxpipes 60\n    tune.pipesize 1048576", options=options)


def haproxy_tls(hop: Hop, work: Path) -> list[str]:
    """TLS 1.3, AES-128-GCM on the leg between the first and the last proxy only."""
    cipher = "ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256"
    if hop.is_last:
        return haproxy(hop, work, bind_options=f"ssl crt {certificate(work)} {cipher}")
    return haproxy(hop, work, server_options=f"ssl verify none {cipher}")


def nginx_stream(hop: Hop, work: Path) -> list[str]:
    config = work / f"nginx-{hop.port}.conf"
    config.write_text(NGINX_STREAM.format(
        work=work, port=hop.port, listen=hop.listen, target=hop.target, idle=IDLE_LIMIT,
        event_options="multi_accept on;"))
    return ["nginx", "-p", str(work), "-c", str(config)]


def nginx_origin(listen: str, work: Path) -> list[str]:
    """A tiny HTTP origin that answers at once, for wrk."""
    config = work / "origin.conf"
    config.write_text(NGINX_ORIGIN.format(work=work, listen=listen))
    return ["nginx", "-p", str(work), "-c", str(config)]


def socat(hop: Hop, _work: Path) -> list[str]:
    listen = f"TCP-LISTEN:{hop.port},bind={hop.listen_address},fork,reuseaddr,nodelay,backlog=4096"
    return ["socat", "-b", "262144", listen, f"TCP:{hop.target},nodelay"]


def nginx_udp(hop: Hop, work: Path, event_options: str = "") -> list[str]:
    config = work / f"nginx-udp-{hop.port}.conf"
    config.write_text(
        NGINX_UDP.format(work=work, port=hop.port, listen=hop.listen, target=hop.target, event_options=event_options)
    )
    return ["nginx", "-p", str(work), "-c", str(config)]


def nginx_udp_many(hop: Hop, work: Path) -> list[str]:
    """Reads all packets that are there when the loop tells it of some, instead of one; off unless asked for."""
    return nginx_udp(hop, work, "multi_accept on;")


def socat_udp(hop: Hop, _work: Path) -> list[str]:
    """A process for each client, which ends when nothing came for 10 s."""
    listen = f"UDP4-LISTEN:{hop.port},bind={hop.listen_address},fork,reuseaddr,rcvbuf=4194304"
    return ["socat", "-b", "65536", "-T", "10", listen, f"UDP4:{hop.target}"]


def stunnel(hop: Hop, work: Path) -> list[str]:
    config = work / f"stunnel-{hop.port}.conf"
    config.write_text(
        STUNNEL.format(
            client="no" if hop.is_last else "yes",
            certificate=certificate(work),
            listen=hop.listen,
            target=hop.target,
        )
    )
    return ["stunnel4", str(config)]


def sshd(hop: Hop, work: Path) -> list[str]:
    ssh_key(work)
    Path("/run/sshd").mkdir(exist_ok=True)
    config = work / f"sshd-{hop.port}.conf"
    config.write_text(SSHD.format(work=work, listen=hop.listen))
    return ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)]


def ssh_forward(hop: Hop, last: Hop, work: Path) -> list[str]:
    """Every forwarded connection is a channel of this one ssh connection."""
    address, _, port = hop.target.rpartition(":")
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    options += ["-o", "ExitOnForwardFailure=yes", "-o", "Compression=no", "-c", "aes128-gcm@openssh.com"]
    forward = f"{hop.listen}:{last.target}"
    return ["ssh", "-F", "none", "-N", "-i", str(ssh_key(work)), *options, "-p", port, "-L", forward, address]


def certificate(work: Path) -> Path:
    """A self-signed P-256 certificate with its key in one file."""
    path = work / "certificate.pem"
    if not path.exists():
        key = work / "certificate.key"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", "30", "-subj", "/CN=bench", "-keyout", str(key), "-out", str(path))  # fmt: skip
        path.write_text(path.read_text() + key.read_text())
    return path


def ssh_key(work: Path) -> Path:
    path = work / "ssh-key"
    if not path.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    return path
