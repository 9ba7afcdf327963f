"""What a worker tells whom it works for."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .workers import Member

__all__ = ["Owner"]


class Owner(object):
    """What a worker works for: a pool, or one that has pinned it."""

    def on_started(self, member: "Member") -> "None":
        """It takes calls now."""

    def on_packet(self, member: "Member", kind: "bytes", number: "int", packet: "bytes") -> "None":
        """A whole packet."""

    def on_large(self, member: "Member", kind: "bytes", number: "int", head: "bytes") -> "None":
        """The head of a long packet; the body follows in pieces."""

    def on_piece(self, member: "Member", data: "bytes", last: "bool") -> "None":
        """A piece of the long packet's body."""

    def on_read(self) -> "None":
        """All that had come was told."""

    def on_question(self, member: "Member", kind: "bytes", body: "bytes") -> "None":
        """It wants a function or a module."""

    def on_output(self, member: "Member", which: "int", data: "bytes") -> "None":
        """It, or a child of it, has written something."""

    def on_drained(self, member: "Member") -> "None":
        """It has taken what was written to it."""

    def on_ended(self, member: "Member", status: "int", returned: "list[bytes]") -> "None":
        """It is gone; `returned` is what it had not taken from its queue."""
