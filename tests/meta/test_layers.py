"""Imports point down only, and what lies at the bottom of it all knows no clock and no socket."""

import re

import pytest

from tests.meta.sources import PACKAGE, ROOT, externs, imports, module_name, source_files

# From the ground up. A module or package imports from the rows below its own and from itself, never from a neighbour
# in its row. docs/architecture.md explains the rows.
LAYERS = [
    ["mproxy", "mproxy.errors"],
    ["mproxy.config", "mproxy._wire", "mproxy._pool", "mproxy._wipe"],
    ["mproxy._ring", "mproxy.words"],
    ["mproxy._frames", "mproxy._stream", "mproxy._liveness",
     "mproxy.datagram.config", "mproxy.datagram._packet", "mproxy.datagram._ranges",
     "mproxy.datagram._rtt", "mproxy.datagram._sent", "mproxy.datagram._congestion", "mproxy.datagram._pace",
     "mproxy.datagram._states", "mproxy.datagram._impair", "mproxy.datagram._hash"],
    ["mproxy._transmit", "mproxy.datagram._outflow", "mproxy.datagram._inflow", "mproxy.datagram._acks",
     "mproxy.datagram._cubic", "mproxy.datagram._bbr"],
    ["mproxy._streams", "mproxy.datagram._listener", "mproxy.datagram._mtu", "mproxy.datagram._recovery"],
    ["mproxy._session", "mproxy.handshake", "mproxy.datagram._channel"],
    ["mproxy._pysession", "mproxy.datagram._path"],
    ["mproxy.datagram._setup"],
    ["mproxy.datagram._connection"],
    ["mproxy.datagram._pyconnection"],
    ["mproxy.net"],
    ["mproxy.relay", "mproxy.datagram"],
    ["mproxy.policy"],
    ["mproxy.relay.supervisor", "mproxy.relay.kernel"],
    ["mproxy.programs"],
    ["mproxy.__main__"],
]
ROW = {room: row for row, rooms in enumerate(LAYERS) for room in rooms}

# The sans-I/O core: everything it needs comes in as an argument.
PURE = ["_wire", "_ring", "_frames", "_stream", "_liveness", "_transmit", "_streams", "_session", "_pysession",
        "handshake", "relay/_gather", "relay/_runs", "relay/_sessions"]
PURE += [f"datagram/{name}" for name in (
    "config", "_packet", "_ranges", "_rtt", "_sent", "_outflow", "_inflow", "_acks", "_pace", "_mtu", "_congestion",
    "_cubic", "_bbr", "_recovery", "_listener", "_states", "_channel", "_path", "_setup", "_connection",
    "_pyconnection")]
PURE_FILES = [path for name in PURE for path in sorted(PACKAGE.glob(f"{name}.p[yx]*")) if path.suffix != ".pyi"]
# No errno: there is no system call that could set it. cpython: what handles objects and memory, not signals or files.
PURE_IMPORTS = re.compile(
    r"cython|mproxy(\..*)?|enum|struct|hmac|hashlib"
    r"|libc\.(string|stdlib|stdint|stddef)(\..*)?"
    r"|cpython\.(bytes|bytearray|buffer|mem|object|ref|unicode)(\..*)?")
PURE_HEADERS = {"stdint.h", "stddef.h", "stdlib.h", "string.h", "sys/uio.h"}  # uio.h: for struct iovec alone


def room_of(module):
    """The longest entry of LAYERS that `module`, or the name in a module, belongs to."""
    return max((room for room in ROW if f"{module}.".startswith(f"{room}.")), key=len)


def own_room(path):
    """Like `room_of` for a file; a file nobody gave a place to is an error, not ground."""
    room = room_of(module_name(path))
    assert room != "mproxy" or path.name.startswith("__init__"), f"{path.relative_to(ROOT)} has no row in LAYERS"
    return room


@pytest.mark.parametrize("path", source_files(".py", ".pyi", ".pyx", ".pxd"), ids=module_name)
def test_imports_point_down(path):
    room = own_room(path)
    wrong = []
    for found in imports(path):
        assert not found.name.startswith("."), f"{found}: write it absolute"
        if found.name.split(".")[0] != "mproxy":
            continue
        target = room_of(found.name)
        if target != room and ROW[target] >= ROW[room]:
            wrong.append(f"{found}: from {room} (row {ROW[room]}) to {target} (row {ROW[target]})")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_in_a_circle():
    """Within a room too: a circle has no first module to read."""
    modules = {module_name(path) for path in source_files(".py", ".pyx")} - {"mproxy"}
    graph = {}
    for path in source_files(".py", ".pyx", ".pxd"):
        edges = graph.setdefault(module_name(path), set())
        for found in imports(path):
            target = found.name if found.name in modules else found.name.rpartition(".")[0]
            if target in modules and target != module_name(path):
                edges.add(target)
    while free := [module for module, edges in graph.items() if not edges & graph.keys()]:
        for module in free:
            del graph[module]
    assert not graph, "in or above a circle: " + "; ".join(
        f"{module} -> {', '.join(sorted(edges & graph.keys()))}" for module, edges in sorted(graph.items()))


def test_every_pure_module_is_there():
    assert {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PURE_FILES} == set(PURE)


@pytest.mark.parametrize("path", PURE_FILES, ids=lambda path: path.name)
def test_core_is_pure(path):
    wrong = [str(found) for found in imports(path) if not PURE_IMPORTS.fullmatch(found.name)]
    wrong += [f"{path.name} uses <{header}>" for header in externs(path) if header not in PURE_HEADERS]
    assert not wrong, "the sans-I/O core takes the time and the bytes as arguments:\n" + "\n".join(wrong)
