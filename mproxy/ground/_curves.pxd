"""Curve25519 for key files, certificates and Noise handshakes. Nothing in it is called from other Cython modules.

It keeps nothing: every call makes libcrypto's form of a key and frees it, which wipes it. The bytes of a private key
belong to the caller, who wipes them.
"""
