"""What every program does as a service: its log, its place in the background, its rights, the service manager.

Read first: `log.py`, what is said; then `log_rate.py`, how often.
"""
