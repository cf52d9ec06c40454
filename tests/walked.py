"""What a walk through files and directories finds, all of it at once."""

from mproxy.transfer.walk import LINKS, Walk, check_named


def find_sources(paths, on_left_out, links=LINKS[0], rules=(), by_time=False, with_attributes=False, renamed=None):
    """The SourceFiles of a Walk, in its order; MproxyError for what cannot be sent."""
    check_named(paths)
    return list(Walk(paths, on_left_out, links, rules, by_time, with_attributes, renamed))


def find_in_runs(paths, on_left_out, *rest, **options):
    """The same, most small files in runs, as a search finds them."""
    check_named(paths)
    return list(Walk(paths, on_left_out, *rest, **options).in_runs())
