"""Functions that are called in Windows."""

import os
import subprocess
import sys
import tempfile
import time


def speak(text):
    """Write to both outputs, and have a child write too."""
    print(text, flush=True)
    print("error", file=sys.stderr)
    subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    print("end")


def squares(count):
    for number in range(count):
        yield number * number


def fail():
    raise KeyError("missing")


def die():
    os._exit(7)


def stay(mark):
    """Stay, with a child, until killed."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", mark])
    while True:
        time.sleep(0.05)
        assert child.poll() is None


def ask(callback, number):
    return callback(number) + 1


def wait_and_tell(path):
    try:
        with open(path, "w") as file:
            file.write("began")
        while True:
            time.sleep(0.05)
    finally:
        with open(path, "w") as file:
            file.write("ended")


def place():
    return os.getcwd(), os.environ["COLOUR"], os.environ["PATH"].split(os.pathsep)[0]


def nap(seconds):
    time.sleep(seconds)
    return os.getpid()


def batch_file():
    """Write a batch file, and return its folder."""
    folder = tempfile.mkdtemp()
    for name in ("batch.bat", "batch.cmd"):
        with open(os.path.join(folder, name), "w") as file:
            file.write("echo %1")
    return folder
