"""What the near end has sent for workers to ask for: functions by digest, modules by name."""

from .packets import packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .workers import Member

__all__ = ["Stock"]


class Stock(object):
    """Answers workers, at once or when what they ask for has come."""

    def __init__(self) -> "None":
        self._known: "dict[tuple[bytes, bytes], bytes]" = {}
        self._asked: "dict[tuple[bytes, bytes], list[Member]]" = {}

    def put(self, kind: "bytes", name: "bytes", content: "bytes") -> "None":
        """Take something in, and give it to those that wait for it."""
        self._known[kind, name] = content
        for member in self._asked.pop((kind, name), ()):
            member.write(packet(kind, 0, content))

    def ask(self, kind: "bytes", name: "bytes", member: "Member") -> "bool":
        """Answer a worker now or later; returns whether nobody has asked for this before."""
        if (kind, name) in self._known:
            member.write(packet(kind, 0, self._known[kind, name]))
            return False
        first = (kind, name) not in self._asked
        self._asked.setdefault((kind, name), []).append(member)
        return first
