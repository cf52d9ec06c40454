"""Imports point down only, and the modules at the bottom use neither clock nor socket."""

import re

from tests.meta.sources import PACKAGE, ROOT, externs, imports, module_name, source_files

# From the ground up; docs/architecture.md has the same table. A room imports from the rows below its own and from
# itself, never from a neighbour in its row. Where it lists its modules, each imports only from those before it: so they
# are read in this order.
LAYERS = [
    {"ground": ["mproxy", "mproxy._wire", "mproxy.ground", "mproxy._pool", "mproxy._ring"]},
    {"session": ["mproxy._frames", "mproxy._state", "mproxy._disorder", "mproxy._stream", "mproxy._liveness",
                 "mproxy._datagrams", "mproxy._transmit", "mproxy._streams", "mproxy._early", "mproxy._rest",
                 "mproxy._resume", "mproxy._session", "mproxy._listening", "mproxy._parcel_reader",
                 "mproxy._inherit", "mproxy._dump", "mproxy.handshake"],
     "engine": [f"mproxy.transport.{name}" for name in (
         "datagram_config", "_packet", "_rtt", "_sent", "_states", "_pacer", "_congestion", "_cubic", "_bbr",
         "_outflow", "_inflow", "_acks", "_mtu", "_parcels", "_recovery", "_veil", "_channel", "_listener", "_ids",
         "_path", "_setup", "_connection")]},
    {"io": ["mproxy.io"]},
    {"transport": ["mproxy.transport"], "emulator": ["mproxy.emulator"]},
    {"carrier": ["mproxy.carrier"]},
    {"endpoint": ["mproxy.endpoint"], "transfer": ["mproxy.transfer"], "relay": ["mproxy.relay"]},
    {"policy": ["mproxy.policy"], "keeper": ["mproxy.keeper"]},
    {"service": ["mproxy.service"]},
    {"supervisor": ["mproxy.relay.kernel", "mproxy.relay.worker_keeper", "mproxy.relay.worker_pool",
                    "mproxy.relay.supervisor"], "web": ["mproxy.web"]},
    {"programs": ["mproxy.programs", "mproxy.__main__"]},
]
ROW = {room: number for number, row in enumerate(LAYERS) for room in row}
ROOM = {module: room for row in LAYERS for room, modules in row.items() for module in modules}
ORDER = {module: number for row in LAYERS for modules in row.values() for number, module in enumerate(modules)}
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()

# The sans-I/O core: everything it needs comes in as an argument.
PURE = ["_wire", "ground/_ranges", "_ring", "_frames", "_state", "_disorder", "_stream", "_liveness", "_datagrams",
        "_transmit", "_rest", "_streams", "_early", "_resume", "_session", "_listening", "_parcel_reader", "handshake",
        "carrier/_flight", "carrier/_frame_parcels", "relay/udp/_gather", "relay/udp/_runs", "relay/udp/_flow_table"]
PURE += [f"transport/{name}" for name in (
    "datagram_config", "_packet", "_rtt", "_sent", "_outflow", "_inflow", "_acks", "_pacer", "_mtu", "_congestion",
    "_cubic", "_bbr", "_parcels", "_recovery", "_veil", "_listener", "_states", "_channel", "_ids", "_path", "_setup",
    "_connection")]
PURE_FILES = [path for name in PURE for path in sorted(PACKAGE.glob(f"{name}.p[yx]*")) if path.suffix != ".pyi"]
# No errno: there is no system call that could set it. cpython: what handles objects and memory, not signals or files.
PURE_IMPORTS = re.compile(
    r"cython|mproxy(?!\.ground\._clock\.(?!NEVER$))(\..*)?"
    r"|enum|struct|hmac|hashlib|(__future__|typing|collections\.abc)\..*"
    r"|libc\.(string|stdlib|stdint|stddef)(\..*)?"
    r"|cpython\.(bytes|bytearray|buffer|mem|object|ref|unicode)(\..*)?")
PURE_HEADERS = {"stdint.h", "stddef.h", "stdlib.h", "string.h", "sys/uio.h"}  # uio.h: for struct iovec alone


def place_of(module):
    """The longest entry of LAYERS that `module`, or the name in a module, belongs to."""
    return max((place for place in ROOM if f"{module}.".startswith(f"{place}.")), key=len)


def own_place(path):
    """Like `place_of`, for a file; a file without a place of its own in the table is an error."""
    place = place_of(module_name(path))
    assert place != "mproxy" or path.name.startswith("__init__"), f"{path.relative_to(ROOT)} has no row in LAYERS"
    return place


def may_import(importer, imported):
    """Whether one place of LAYERS may import from another one."""
    if ROOM[importer] == ROOM[imported]:
        return ORDER[imported] <= ORDER[importer]
    return ROW[ROOM[imported]] < ROW[ROOM[importer]]


def imports_that_point_up(path):
    """A line for each import of a file that is not allowed."""
    place = own_place(path)
    for found in imports(path):
        assert not found.name.startswith("."), f"{found}: write it absolute"
        if found.name.split(".")[0] != "mproxy":
            continue
        target = place_of(found.name)
        if not may_import(place, target):
            yield f"{found}: from {place} ({ROOM[place]}) to {target} ({ROOM[target]})"


def test_imports_point_down():
    wrong = [line for path in source_files(".py", ".pyi", ".pyx", ".pxd") for line in imports_that_point_up(path)]
    assert not wrong, "\n".join(wrong)


def test_an_endpoint_knows_carriers_by_their_interface_alone():
    """Only the code that makes a carrier knows its kind."""
    files = source_files(".py", ".pyi", ".pyx", ".pxd", under=PACKAGE / "endpoint")
    found = {found.name.split(".")[2] for path in files for found in imports(path)
             if found.name.startswith("mproxy.carrier.")}
    assert found == {"_carrier"}


def test_the_page_has_the_same_table():
    """It lists the rooms from the top down, each with its contents."""
    rows = re.findall(r"^\| (\w+) \| ((?:`[\w/]+`(?:, )?)+) \|", ARCHITECTURE, re.MULTILINE)
    page = [(room, re.findall(r"`([\w/]+)`", holds)) for room, holds in rows]
    shown = [(room, [module.removeprefix("mproxy.").replace(".", "/") for module in modules])
             for row in reversed(LAYERS) for room, modules in row.items()]
    assert page == shown


def test_rooms_say_what_to_read_first():
    for directory in sorted({path.parent for path in source_files(".py", ".pyx")}):
        found = re.search(r"Read first: `([\w.]+)`", (directory / "__init__.py").read_text())
        assert found, f"{directory.name}/__init__.py: 'Read first: `FILE`' is missing"
        assert (directory / found[1]).exists(), f"{directory.name}/__init__.py: there is no {found[1]}"


def test_no_module_imports_itself_in_a_circle():
    """Not within a room either: in a circle there is no module to read first."""
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


def test_core_is_pure():
    wrong = [str(found) for path in PURE_FILES for found in imports(path) if not PURE_IMPORTS.fullmatch(found.name)]
    wrong += [f"{path.name} uses <{header}>" for path in PURE_FILES for header in externs(path)
              if header not in PURE_HEADERS]
    assert not wrong, "the sans-I/O core takes the time and the bytes as arguments:\n" + "\n".join(wrong)
