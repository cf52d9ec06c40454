"""The messages of a handshake, each sealed with a key that is used once. Called from Python alone; keeps nothing."""
