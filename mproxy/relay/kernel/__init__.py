"""Rules carried out by the kernel: nftables forwards, and not one packet passes a program.

Read first: `kernel_mode.py`, what is installed, watched and taken back; then `nft.py`, the words.
"""
