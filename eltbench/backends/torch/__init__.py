"""The torch rooms: network, engine, ops. Importing this package loads nothing of torch."""

NETWORK_VERSION = 1
ENGINE_VERSION = 1
