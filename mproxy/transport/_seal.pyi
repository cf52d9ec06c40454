import enum

class Cipher(enum.IntEnum):
    AESGCM = 1
    CHACHAPOLY = 2
