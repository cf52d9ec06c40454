"""What the two sides say about places where sproxy listens for a cproxy, and about targets of datagrams, given to an
endpoint's session."""
