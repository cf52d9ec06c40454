"""The protocol's numbers for Python. They are defined in _wire.pxd, except those that only Python looks at."""


cpdef enum HelloFeature:
    RENAMES = 0x01       # this cproxy takes another instance id when it is told TWIN
    ADDRESSED = 0x02     # it reads an address behind WELCOME's fields
    STDIO = 0x40000000   # every stream comes from `cproxy --stdio`: nobody else will resume the session


cpdef enum WelcomeFeature:
    LISTENS = 0x01       # this sproxy knows LISTEN
    UDP = 0x02           # it takes carriers over UDP, too, at the port of the same number
    DATAGRAMS = 0x04     # this sproxy knows ASSOCIATE and DATAGRAM
