"""The JAX rooms, under the names of the torch ones. Importing this package loads nothing of JAX."""

NETWORK_VERSION = 1
ENGINE_VERSION = 1
