"""The protocol's numbers as Python sees them; their home is _wire.pxd, but for those that Python alone looks at."""


cpdef enum HelloFeature:
    STDIO = 0x40000000   # every stream comes from `cproxy --stdio`: nobody else will resume the session
