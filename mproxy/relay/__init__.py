"""The relay: rules, the engines that carry them out, and the processes these run in.

Read first: `rules.py`, what a rule can say; then `supervisor.py`, which has it carried out, `worker.py`, which does it,
and the two engines, `_tcp.pxd` and `_udp_flow.pxd`; `kernel.py` leaves it to the kernel.
"""
