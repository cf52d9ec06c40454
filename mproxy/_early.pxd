"""What cproxy says of its stream behind HELLO, before it knows whether there will be a session (docs/protocol.md,
section 5, Early words). Who calls: `programs/introduction`, which knows to which HELLO the answer belongs.

    words, length = early_words(streams)        into the flight of HELLO; nothing has changed by that
    note_early(streams, length, epoch)          this HELLO was answered: what was said then counts as sent
"""
