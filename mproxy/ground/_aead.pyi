import enum

class AeadCipher(enum.IntFlag):
    AES_128_GCM = 1
    AES_256_GCM = 2
    CHACHA20_POLY1305 = 3

def use_multi_buffer(wanted: bool) -> bool: ...
