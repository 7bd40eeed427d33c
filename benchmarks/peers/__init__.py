"""The limit and the peers: each is run as a program of its own."""
