"""Reaching a host by ssh, through asyncssh, which nothing outside this folder knows but the embedded server in testing.

Importing this package does not import asyncssh: `transport.SshTransport` does that in a thread when it first connects.
"""

from aioremote.transports.ssh.settings import SshSettings
from aioremote.transports.ssh.transport import SshTransport

__all__ = ["SshSettings", "SshTransport"]
