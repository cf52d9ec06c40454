"""The groups of the bench, one module each.

To add a workload: a module in workloads/ with a `Workload` (its `peer` is whom the ratio column compares with), its
line in the group's `workloads`, its promises in the group's `targets`, its headline figure in `panels`. Contenders are
lines of `harness.contenders.TABLE`. To add a group: a module here, a line below, and markers in docs/performance.md
(see `harness.docs`).
"""

from groups import copy, datagram, fleet, many_sessions, outlive, paths, relay, session, ssh, tls, udp

GROUPS = (session.GROUP, relay.GROUP, tls.GROUP, datagram.GROUP, copy.GROUP, outlive.GROUP, paths.GROUP,
          ssh.GROUP, fleet.GROUP, udp.GROUP, many_sessions.GROUP)
ALL = {group.name: group for group in GROUPS}
