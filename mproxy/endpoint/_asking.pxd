"""What the two sides say about places where sproxy listens for a cproxy, given to an endpoint's session."""
