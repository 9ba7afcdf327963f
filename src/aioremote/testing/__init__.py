"""For tests of code that uses this library: servers, fakes, checks, pytest fixtures.

`aioremote.testing.embedded` is a server in the test's own process, `aioremote.testing.sshd` a real OpenSSH,
`aioremote.testing.proxy` a link that can be slow or break, `aioremote.testing.fakes` transports that answer by script
or fail on purpose, `aioremote.testing.checks` looks for what is left behind, `aioremote.testing.plugin` holds the
pytest fixtures. Import what you need from there; this package itself imports nothing.
"""

__all__: list[str] = []
