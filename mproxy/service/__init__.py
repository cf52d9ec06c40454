"""What every program does as a service: its log, its place in the background, its rights, the service manager.

Read first: `run.py`, a program from its command line to its exit status; then `exit.py`, how all end, and `log.py`.
"""
