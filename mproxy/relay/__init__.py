"""The relay: rules, the engines that carry them out, and the processes these run in.

Read first: `rules.py`, what a rule can say; then `supervisor.py`, which directs the workers, `worker.py`, which relays,
and the two engines, `tcp/_tcp_relay.pxd` and `udp/_udp_relay.pxd`. `kernel/kernel_mode.py` leaves it all to the kernel.
"""
