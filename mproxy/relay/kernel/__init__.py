"""Rules carried out by the kernel: nftables forwards, and no packet passes through a program.

Read first: `kernel_mode.py`, what is installed, watched and removed; then `nft.py`, the text of the table.
"""
