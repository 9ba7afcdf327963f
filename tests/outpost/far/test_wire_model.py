"""The wire against a model: any order of calls at both ends, any pace of the bytes between them."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aioremote.outpost.far import frames
from aioremote.outpost.far.frames import Event, Limits
from aioremote.outpost.far.wire import Wire

SIDES = ("near", "far")
side_names = st.sampled_from(SIDES)
payloads = st.integers(0, 9000).map(lambda size: bytes(index % 251 for index in range(size)))


class Flow:
    """What one end has sent on a channel and what the other end has got of it."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.got = bytearray()
        self.ungranted = 0
        self.ended = False
        self.saw_end = False


class WireModel(RuleBasedStateMachine):
    """Promise 15."""

    @initialize(window=st.sampled_from([1024, 4096, 65_536]))
    def meet(self, window: int) -> None:
        self.ends = {side: Wire(Limits(window=window, max_channels=8), near=side == "near") for side in SIDES}
        self.under_way = {"near": bytearray(), "far": bytearray()}  # towards that side
        self.flows: dict[tuple[int, str], Flow] = {}  # by channel and sender
        self.known: dict[str, set[int]] = {side: set() for side in SIDES}
        self.given_up: dict[str, set[int]] = {side: set() for side in SIDES}
        self.over: set[int] = set()  # reset by either end
        self.settle()

    # what happens

    def other(self, side: str) -> str:
        return "far" if side == "near" else "near"

    def deliver(self, side: str, count: int) -> None:
        waiting = self.under_way[side]
        data = bytes(waiting[:count])
        del waiting[:count]
        for event in self.ends[side].receive(data, 0.0):
            self.take_in(side, event)

    def write(self, side: str) -> bool:
        data = b"".join(self.ends[side].take(0.0, 5000))
        self.under_way[self.other(side)] += data
        return bool(data)

    def settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for side in SIDES:
                moved |= self.write(side)
                self.deliver(self.other(side), 1 << 30)

    def take_in(self, side: str, event: Event) -> None:
        assert event.kind != frames.CLOSED, event.text
        number = event.channel
        assert number not in self.given_up[side], "delivered after this end's reset"
        if event.kind == frames.OPEN:
            self.known[side].add(number)
            self.flows.setdefault((number, side), Flow())
        elif event.kind in (frames.DATA, frames.MSG):
            flow = self.flows[number, self.other(side)]
            assert not flow.saw_end
            flow.got += event.data
            flow.ungranted += frames.cost(event.data)
            assert flow.sent.startswith(flow.got)
        elif event.kind == frames.EOF:
            self.flows[number, self.other(side)].saw_end = True
        elif event.kind in (frames.RESET, frames.REJECT):
            self.known[side].discard(number)
            self.given_up[side].add(number)

    # what the two programs do

    @precondition(lambda self: len(self.flows) < 16)
    @rule(side=side_names)
    def open(self, side: str) -> None:
        mine = [number for number in self.ends[side]._channels if number % 2 == (side == "near")]
        if len(mine) < 8:
            number = self.ends[side].open("model", b"header")
            self.known[side].add(number)
            self.flows[number, side] = Flow()
            self.flows[number, self.other(side)] = Flow()

    def pick(self, side: str, data: st.DataObject) -> int:
        known = sorted(self.known[side])
        return data.draw(st.sampled_from(known)) if known else 0

    @rule(side=side_names, data=st.data(), payload=payloads, message=st.booleans(), end=st.booleans())
    def send(self, side: str, data: st.DataObject, payload: bytes, message: bool, end: bool) -> None:
        number = self.pick(side, data)
        if not number or (flow := self.flows[number, side]).ended:
            return
        flow.sent += payload
        flow.ended = end
        wire = self.ends[side]
        (wire.send_message if message else wire.send)(number, payload, end=end)

    @rule(side=side_names, data=st.data())
    def consume(self, side: str, data: st.DataObject) -> None:
        if number := self.pick(side, data):
            flow = self.flows[number, self.other(side)]
            self.ends[side].grant(number, flow.ungranted)
            flow.ungranted = 0

    @rule(side=side_names, data=st.data())
    def eof(self, side: str, data: st.DataObject) -> None:
        if number := self.pick(side, data):
            self.ends[side].eof(number)
            self.flows[number, side].ended = True

    @rule(side=side_names, data=st.data(), reject=st.booleans())
    def give_up(self, side: str, data: st.DataObject, reject: bool) -> None:
        if number := self.pick(side, data):
            theirs = number % 2 != (side == "near")
            channel = self.ends[side]._channels.get(number)
            if reject and theirs and channel is not None and not channel.answered:
                self.ends[side].reject(number, 1, "no")
            else:
                self.ends[side].reset(number, 1, "enough")
            self.known[side].discard(number)
            self.given_up[side].add(number)
            self.over.add(number)

    @rule(side=side_names, data=st.data())
    def signal(self, side: str, data: st.DataObject) -> None:
        if number := self.pick(side, data):
            self.ends[side].signal(number, b"INT")

    @rule(side=side_names)
    def ping(self, side: str) -> None:
        self.ends[side].ping(0.0)

    @rule(side=side_names, count=st.integers(1, 20_000))
    def pass_some(self, side: str, count: int) -> None:
        self.write(side)
        self.deliver(side, count)

    # what holds at every moment

    @invariant()
    def credits_are_never_negative(self) -> None:
        for wire in getattr(self, "ends", {}).values():
            for channel in wire._channels.values():
                assert channel.credit >= 0
                assert channel.allowance >= 0

    def teardown(self) -> None:
        """Let everybody read to the end: each byte has come once, in order, and no channel is left."""
        if not hasattr(self, "ends"):
            return
        self.settle()
        for side in SIDES:
            for number in self.known[side]:
                self.ends[side].eof(number)
        self.settle()
        while self.grant_all():
            self.settle()
        for (number, _), flow in self.flows.items():
            assert number in self.over or flow.got == flow.sent
        for side in SIDES:
            assert not self.ends[side]._channels

    def grant_all(self) -> bool:
        """Use up what has come; returns whether there was any."""
        some = False
        for (number, side), flow in self.flows.items():
            self.ends[self.other(side)].grant(number, flow.ungranted)
            some |= bool(flow.ungranted)
            flow.ungranted = 0
        return some


TestWireModel = WireModel.TestCase
