"""What every program does as a service: its log, its place in the background, its rights, the service manager.

Read first: `run.py`, a program from command line to exit status; then `exit.py`, how all programs end, and `log.py`.
"""
