"""Values from the far end: exact where they can travel, refused where they cannot, and harmless whatever comes."""

import math
import pickle
import random
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.outpost.conftest import FAR, pythons

from aioremote.errors import ShipError
from aioremote.outpost import values
from aioremote.outpost.far.sections import ARRAY, BYTES, INTEGERS, JSON, PICKLE, TEXT, Lied, join, split
from aioremote.outpost.far.values import MAX_TEXT_BYTES, Unsendable, pack_up, unpack_down
from aioremote.outpost.values import Undecodable, pack_down, unpack_up

EDGES = """[
    None, True, False, 0, -1, 2**31, 2**63 - 1, -2**63, 2**63, 2**5000, -2**5000, [2**64] * 100,
    float("nan"), float("inf"), float("-inf"), -0.0, 1e308, 5e-324, complex(-0.0, float("inf")),
    "", "a" * 4096, "a" * 4097, "\\ud800", "\\udcff" * 5000, "\\x00\\u2028\\U0001f40d\\"\\\\", "{\\"~t\\": []}",
    [bytes(range(n)) for n in range(71)], b"\\xff" * 1023, b"\\x00" * 1024, bytearray(b"ab"), bytearray(b"ab" * 1000),
    (), (1,), ((((), [()]), {}),), [[]], [True] * 100, [True, 1, 1.0] * 100, [1] * 100, [1.5] * 100,
    list(range(-70000, 70000)), [-0.0, float("inf")] * 50, ["x" * 100] * 5000, [None, "x"] * 50000,
    {}, {"a": 1}, {"~": 1}, {"~t": []}, {"~t": [], "b": 1}, {1: 2}, {None: 3, True: 4, "x": 5},
    {(1, (2, "~x")): {b"k": 1}},
    {str(n): [n, (n,)] for n in range(20000)}, {n: str(n) for n in range(20000)},
    {"~" + str(n): "x" * 4000 for n in range(40)},
    set(), {1, "a", (2, 3)}, frozenset([1, frozenset([2])]), {frozenset([1]): set()}, set(range(50000)),
    tuple(range(100)),
    (list(range(100000)), tuple("abc" * 40000)),
]"""  # fmt: skip


def message(value: object) -> bytes:
    return b"".join(join(pack_up(value)))


def same(one: object, other: object) -> bool:
    """Whether two values are equal, with equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack(">d", one) == struct.pack(">d", other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, complex) and isinstance(other, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return one == other and {type(item) for item in one} == {type(item) for item in other}  # type: ignore[attr-defined]
    return one == other


@pytest.mark.parametrize("number", range(len(eval(EDGES))))
def test_what_travels_comes_back_with_its_types(number: int) -> None:
    """Promise 25."""
    value = eval(EDGES)[number]
    assert same(unpack_up(message(value)), value)


def test_every_far_python_says_the_same(tmp_path: Path) -> None:
    """Promise 25: from 3.6 to 3.13. The files that are shipped run there as they are."""
    (tmp_path / "outpost").symlink_to(FAR)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom outpost.values import pack_up\n"
        f"from outpost.sections import join\nsys.stdout.buffer.write(b''.join(join(pack_up({EDGES}))))"
    )
    wanted = eval(EDGES)
    for version, path in pythons().items():
        done = subprocess.run([path, "-B", "-c", script], capture_output=True, check=True)
        assert same(unpack_up(done.stdout), wanted), version


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
        lambda inner: (
            st.lists(inner)
            | st.lists(inner).map(tuple)
            | st.dictionaries(st.text() | st.integers() | st.booleans() | st.tuples(st.text(), st.integers()), inner)
            | st.frozensets(st.integers() | st.text())
        ),
        max_leaves=30,
    )
)
def test_any_plain_value_comes_back(value: object) -> None:
    assert same(unpack_up(message(value)), value)


class Odd(str):
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2, 3, sys.stderr]}, "result['a'][3]: an object of type "),
        ([(1, {"x": {1: object()}})], "result[0][1]['x'][1]: an object of type object "),
        ({(1, Odd("x")): 1}, "result: has a key that cannot travel: an object of type "),
        (Odd("x"), "result: an object of type tests.outpost.test_values.Odd cannot travel (<tests."),
        ([bytes(2**20)] * 3, "result[2]: is too large for one message"),
        (["x" * 100] * 100_000, "result: is too large for one message"),
    ],
)
def test_what_cannot_travel_is_refused_with_its_place(value: object, text: str) -> None:
    """Promise 30: no guess, such as a text in place of an object."""
    with pytest.raises(Unsendable) as caught:
        pack_up(value, 3 * 2**20 - 1 if isinstance(value, list) and isinstance(value[0], bytes) else 2**30)
    assert str(caught.value).startswith(text)


def test_what_holds_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append({"again": endless})
    with pytest.raises(Unsendable, match="nested too deeply, or holds itself"):
        pack_up(endless)


def test_arguments_arrive_as_they_are_and_large_ones_are_not_copied() -> None:
    """Promise 31: bytes stay bytes, and a bytearray can be changed there."""
    large, changeable, table = bytes(range(256)) * 256, bytearray(b"x" * 70000), array("d", [1.5] * 10000)
    arguments = ((large, changeable, b"small", [1, {2}]), {"table": table, "again": large})
    for protocol in (4, 5):
        sections = pack_down(arguments, protocol)
        assert (len(sections) > 1) == (protocol == 5)
        if protocol == 5:
            assert any(isinstance(data, memoryview) and data.obj is large for _, data in sections)
        (first, second, *_), keywords = got = unpack_down(split(b"".join(join(sections))))  # type: ignore[misc,str-unpack]
        assert got == arguments
        assert (type(first), type(second), type(keywords["again"])) == (bytes, bytearray, bytes)
    with pytest.raises(ShipError, match="cannot travel"):
        pack_down((sys.stderr,), 5)


# --- a far end that lies ----------------------------------------------------------------------------------------------


def lie(*sections: tuple[bytes, bytes]) -> bytes:
    return b"".join(join(list(sections)))


JUST_JSON: list[tuple[str, Callable[[], bytes]]] = [
    ("deep", lambda: b"[" * 10**6),
    ("deep tuples", lambda: b'{"~t":[' * 10**5 + b"]}" * 10**5),
    ("digits", lambda: b"1" * 10**6),
    ("negative digits", lambda: b"[-" + b"1" * 10**6 + b"]"),
    ("collisions", lambda: b'{"~d":[%s]}' % b",".join(b"[%d,0]" % (n * (2**61 - 1)) for n in range(40_000))),
    ("colliding set", lambda: b'{"~e":[%s]}' % b",".join(b"%d" % (n * (2**61 - 1)) for n in range(40_000))),
    ("tuples", lambda: b'{"~f":[%s]}' % b",".join(b'{"~t":[%d]}' % (n * (2**61 - 1)) for n in range(9))),
    ("parts", lambda: b'{"~o":[%s]}' % b",".join(b'{"~d":[[%d,0]]}' % (n * (2**61 - 1)) for n in range(40_000))),
    ("no key", lambda: b'{"~z":[]}'),
    ("no section", lambda: b'{"~":7}'),
    ("itself", lambda: b'{"~":0}'),
    ("wrong index", lambda: b'{"~":[]}'),
    ("not ASCII", lambda: b'"\xc3\xa9"'),
    ("unhashable", lambda: b'{"~e":[[]]}'),
    ("triples", lambda: b'{"~d":[[1,2,3]]}'),
    ("text for pairs", lambda: b'{"~d":["ab"]}'),
    ("not Latin-1", lambda: b'{"~b":"\\u2028"}'),
    ("a number for text", lambda: b'{"~b":7}'),
    ("no number", lambda: b'{"~i":"0x_g"}'),
    ("no complex", lambda: b'{"~c":[1]}'),
    ("list parts", lambda: b'{"~+":[1]}'),
    ("empty", lambda: b""),
    ("half", lambda: b'{"a":'),
    ("two", lambda: b"1 2"),
    ("long text", lambda: b'"%s"' % (b"x" * 2**20)),
]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in JUST_JSON])
def test_no_value_is_refused_quickly(make: Callable[[], bytes]) -> None:
    """Promise 28."""
    text = make()
    began = time.process_time()
    with pytest.raises(Undecodable):
        unpack_up(lie((JSON, text)))
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\1\0\0" + b"j" * 9,
        struct.pack(">IcQ", 1, b"j", 2**63),
        struct.pack(">IcQ", 1, b"j", 2) + b"1",
        struct.pack(">IcQ", 1, b"j", 1) + b"12",
        struct.pack(">IcQ", 1, b"x", 1) + b"1",
    ],
)
def test_a_lie_about_sections_is_refused_and_allocates_nothing(raw: bytes) -> None:
    """Promise 29."""
    tracemalloc.start()
    with pytest.raises(Undecodable):
        unpack_up(raw)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    with pytest.raises(Lied):
        split(raw)


@pytest.mark.parametrize(
    "sections",
    [
        [(BYTES, b"unused"), (JSON, b"1")],
        [(BYTES, b"x"), (JSON, b'[{"~":0},{"~":0}]')],
        [(JSON, b'{"~":1}'), (JSON, b"1")],
        [(PICKLE, pickle.dumps(1))],
        [(PICKLE, pickle.dumps(1)), (JSON, b'{"~":0}')],
        [(INTEGERS, b"1234567"), (JSON, b'{"~":0}')],
        [(TEXT, b"\xff"), (JSON, b'{"~":0}')],
        [(JSON, b"[%s]" % b",".join([b"[]"] * 300_000)) for _ in range(12)],
    ],
)
def test_sections_that_make_no_value_are_refused(sections: list[tuple[bytes, bytes]]) -> None:
    """Promise 29, and 26: a pickle is never read here."""
    with pytest.raises(Undecodable):
        unpack_up(lie(*sections))


def test_twelve_mebibytes_of_small_lists_are_refused_before_they_are_read() -> None:
    """Promise 27: one section of text is bounded, all of them together are, and what they become is."""
    text = b"[" + b"[]," * (2**20 // 3 - 2) + b"[]]"
    with pytest.raises(Undecodable, match="bytes of text"):
        unpack_up(lie((JSON, b"[" + b"[]," * (4 * 2**20) + b"[]]")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Undecodable, match="bytes of text"):
        unpack_up(lie(*[(JSON, text)] * 12))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 40 * MAX_TEXT_BYTES


def test_mutated_messages_do_nothing_here(tmp_path: Path) -> None:
    """Promise 26: 100,000 mutated messages; no import, no exec, no compile, no open, and nothing but Undecodable."""
    script = tmp_path / "decode.py"
    script.write_text(
        "import sys, random, json, pickle\n"
        "from aioremote.outpost.values import Undecodable, unpack_up\n"
        "from tests.outpost.test_values import seeds, mutate\n"
        "seen = []\n"
        "messages, dice = seeds(), random.Random(7)\n"
        "for message in messages: unpack_up(message)\n"
        "watched = ('import', 'exec', 'compile', 'open', 'marshal.loads', 'pickle.find_class', 'os.system',\n"
        "    'subprocess.Popen', 'socket.connect')\n"
        "sys.addaudithook(lambda event, args: seen.append(event) if event in watched else None)\n"
        "good = 0\n"
        "for _ in range(100_000):\n"
        "    data = mutate(dice.choice(messages), dice)\n"
        "    try: unpack_up(data); good += 1\n"
        "    except Undecodable: pass\n"
        "print(good, seen)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env={**_paths()})
    assert done.stderr == ""
    good, _, seen = done.stdout.partition(" ")
    assert seen == "[]\n"
    assert 1000 < int(good) < 90_000


def _paths() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in (str(Path(__file__).parents[2]), *sys.path) if path)}


def seeds() -> list[bytes]:
    """Return messages of every form, all short."""
    some = [1, -2.5, "text", None, b"\0\xff", (1, "x"), {"a": [1, {"b": (2,)}]}, {1: 2, (3,): 4}, {1, 2}, 2**80, 1j]
    some += [bytes(1100), "y" * 4100, list(range(70)), [0.5] * 64, bytearray(1100), frozenset([b"k"]), {"~": 1}]
    spread = lie((JSON, b'{"x":[1]}'), (JSON, b'{"~o":[{"~":0},{"y":2}]}'))
    return [*(message(value) for value in some), message(some[:11]), spread]


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Return a message that is a little wrong."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(changed))
        match dice.randrange(5):
            case 0:
                changed[at] = dice.randrange(256)
            case 1:
                changed[at : at + 1] = dice.choice([b"", b"{", b"[", b'"', b"~", b"9", b"e9", b"}]", b"\x80"])
            case 2:
                changed[at] ^= 1 << dice.randrange(8)
            case 3:
                changed[at : at + 4] = changed[: dice.randrange(8)]
            case _:
                changed = changed[:at] + changed[at // 2 :]
        if not changed:
            changed = bytearray(b"\0")
    return bytes(changed)


def test_a_long_list_is_decoded_in_short_steps() -> None:
    """Figure: the loop does not stall while a million integers come back; each step is one section."""
    sections = split(message(list(range(1_000_000))))
    assert max(len(data) for _, data in sections) <= 512 * 1024
    assert len(list(values.decode(sections))) == len(sections) >= 16
    texts = split(message([{"name": str(n)} for n in range(100_000)]))
    assert max(len(data) for _, data in texts) < 70_000


def test_bytes_that_have_been_put_together_are_not_copied_again() -> None:
    whole = bytes(2**20)
    steps = values.decode([(BYTES, whole), (JSON, b'{"~":0}')])
    assert [next(steps), next(steps)] == [None, None]
    with pytest.raises(StopIteration) as done:
        next(steps)
    assert done.value.value is whole


def test_changeable_bytes_are_ours() -> None:
    whole = bytearray(5000)
    assert unpack_up(message(whole)) == whole
    assert isinstance(unpack_up(lie((ARRAY, b"ab"), (JSON, b'{"~":0}'))), bytearray)
