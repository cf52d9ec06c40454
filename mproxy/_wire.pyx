"""The protocol's numbers as Python sees them; their home is _wire.pxd, but for those that Python alone looks at."""


cpdef enum HelloFeature:
    RENAMES = 0x01       # this cproxy takes another instance id when it is told TWIN
    STDIO = 0x40000000   # every stream comes from `cproxy --stdio`: nobody else will resume the session
