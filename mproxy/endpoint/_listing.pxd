"""What an endpoint's streams do, as JSON for `mproxy status`: read from the records in which it stands anyway.

A list of thousands is made in portions, and streams come and go between them: `stream_ids` names some of those that
there are now, and `say_streams` tells of some, as far as they are still there. Fields: docs/status.schema.json.
"""
