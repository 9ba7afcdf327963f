"""How bytes and processes reach a host. Each module here implements `aioremote.protocols.Transport`."""
