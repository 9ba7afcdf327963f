"""Functions that tests call at the far end; they run on Python 3.6."""

import os
import sys
import time


def add(a, b=0, *, c=0):
    return a + b + c


def where_am_i():
    return os.getcwd(), os.environ.get("AIOREMOTE_WHERE"), os.environ.get("HOME"), os.environ.get("PATH", "")


def give_back(value):
    return value


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def report_pid(path):
    """Tell the test which process runs this."""
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)


def spin(path):
    report_pid(path)
    while True:
        pass


def sleep_long(path):
    report_pid(path)
    time.sleep(600)


def receive(path):
    import socket

    here, there = socket.socketpair()
    report_pid(path)
    here.recv(1)
    there.close()


def wait_for_event(path):
    import threading

    report_pid(path)
    threading.Event().wait()


def run_a_child(path):
    import subprocess

    child = subprocess.Popen(["sleep", "600"])
    report_pid(path)
    child.wait()


def hold_the_gil(path):
    report_pid(path)
    sum(range(10**14))


def swallow_everything(path):
    report_pid(path)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass


def read_a_fifo(path):
    os.mkfifo(path + ".fifo")
    report_pid(path)
    with open(path + ".fifo") as fifo:
        fifo.read()


async def sleep_in_a_loop(path):
    import asyncio

    report_pid(path)
    await asyncio.sleep(600)


def leave_a_mark(path):
    """Wait, and at the end leave a mark."""
    try:
        report_pid(path)
        time.sleep(600)
    finally:
        with open(path + ".finally", "w") as file:
            file.write("ran")


async def leave_a_mark_in_a_loop(path):
    import asyncio

    try:
        report_pid(path)
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.01)
        with open(path + ".finally", "w") as file:
            file.write("ran")


STUCK = {
    function.__name__: function
    for function in (
        spin,
        sleep_long,
        receive,
        wait_for_event,
        run_a_child,
        hold_the_gil,
        swallow_everything,
        read_a_fifo,
        sleep_in_a_loop,
    )
}


def leave_a_writer(folder):
    """Leave a process behind that writes when it is told to, and tells when it has."""
    import subprocess

    script = 'read word <"$1/go"; echo late; echo late >&2; echo written >"$1/done"'
    subprocess.Popen(["sh", "-c", script, "sh", folder])
    print("first")
    return os.getpid()


def let_it_write(folder):
    with open(folder + "/go", "w") as go:
        go.write("now\n")
    with open(folder + "/done") as done:
        word = done.read()
    print("second")
    return os.getpid(), word


def exit_in_a_child(argument):
    child = os.fork()
    if not child:
        sys.exit(argument)
    return os.WEXITSTATUS(os.waitpid(child, 0)[1])


def die(how):
    sys.stderr.write("last words\n")
    sys.stderr.flush()
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        import ctypes

        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(__import__("signal"), how))
    time.sleep(600)


def numbers(count, path=""):
    try:
        for number in range(count):
            if path:
                with open(path, "w") as file:
                    file.write(str(number))
            yield number
    finally:
        if path:
            with open(path + ".finally", "w") as file:
                file.write("ran")


async def async_numbers(count):
    for number in range(count):
        yield number


async def double_later(value):
    import asyncio

    await asyncio.sleep(0)
    return 2 * value


def print_everywhere():
    import ctypes

    print("printed é")
    os.write(1, b"written\n")
    os.system("echo from a child")
    libc = ctypes.CDLL(None)
    libc.printf(b"from C\n")
    libc.fflush(None)
    sys.stderr.write("an error\n")
    return "returned"


def print_much():
    sys.stdout.write("x" * 1048576)
    return len("x")


def apply(function, *args):
    return function(*args)


def total(items):
    return sum(items)
