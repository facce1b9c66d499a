"""The load: a sink that takes and echoes, and clients that measure.

Every connection opens with one header that says what follows, so one sink serves
all.  A bulk transfer ends with the sink's one-byte receipt, not with a half-close:
some peers do not pass half-closes on, and the clock must stop when the *last byte
has arrived*.
"""

import multiprocessing
import socket
import struct
import threading
import time

CHUNK = 256 << 10  # large enough that Python's share does not show
BULK, ECHO = b"B", b"E"
HEADER = struct.Struct("!cQ")  # kind, bytes to come
MESSAGE = 64
STALLED_SECONDS = 20  # no progress for so long: give up


class Stalled(Exception):
    pass


def start_sink(path):
    """A process of its own, so that the two ends do not share one interpreter's lock."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(128)
    multiprocessing.Process(target=_serve, args=(listener,), daemon=True).start()


def _serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(connection,), daemon=True).start()


def _serve_one(connection):
    with connection:
        try:
            opening = connection.recv(HEADER.size, socket.MSG_WAITALL)
            if len(opening) < HEADER.size:
                return  # someone only looked whether we listen
            kind, left = HEADER.unpack(opening)
            if kind == BULK:
                buffer = memoryview(bytearray(CHUNK))
                while left:
                    got = connection.recv_into(buffer, min(left, CHUNK))
                    if not got:
                        return
                    left -= got
                connection.sendall(b"!")
            else:
                while message := connection.recv(MESSAGE, socket.MSG_WAITALL):
                    connection.sendall(message)
        except OSError:
            pass  # the client gave up; it says so itself


def _open(path, kind, size=0):
    connection = socket.socket(socket.AF_UNIX)
    # Kernel timeouts: unlike settimeout() they cost no poll() per call.
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", STALLED_SECONDS, 0))
    connection.connect(path)
    connection.sendall(HEADER.pack(kind, size))
    return connection


def bulk(path, streams, size):
    """Seconds to get `size` bytes across, spread over `streams` connections."""
    chunk = memoryview(bytes(range(256)) * (CHUNK // 256))
    failures = []

    def send(share):
        try:
            with _open(path, BULK, share) as connection:
                while share:
                    share -= connection.send(chunk[:min(share, CHUNK)])
                if connection.recv(1) != b"!":
                    failures.append("the end of the stream was lost")
        except OSError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=send, args=(size // streams,)) for _ in range(streams)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Stalled(failures[0])
    return time.perf_counter() - start


def shares(path, streams, seconds):
    """Bytes that each of so many connections gets across in the same time, all sending as much as they can."""
    counters = [multiprocessing.Value("Q", lock=False) for _ in range(streams)]

    def send(counter):
        chunk = bytes(CHUNK)
        with _open(path, BULK, 1 << 50) as connection:
            while True:
                counter.value += connection.send(chunk)

    def look():
        return [counter.value for counter in counters]

    # processes: threads would take turns with the interpreter's lock
    senders = [multiprocessing.Process(target=send, args=(counter,), daemon=True) for counter in counters]
    try:
        for sender in senders:
            sender.start()
        deadline = time.monotonic() + STALLED_SECONDS
        while min(look()) < 16 << 20:  # what is on its way is the same from here on
            if time.monotonic() > deadline:
                raise Stalled("a stream does not get on")
            time.sleep(0.02)
        before = look()
        time.sleep(seconds)
        return [late - early for early, late in zip(before, look())]
    finally:
        for sender in senders:
            sender.kill()
            sender.join()


def _echo(connection):
    """One small message there and back."""
    connection.send(bytes(MESSAGE))
    if len(connection.recv(MESSAGE, socket.MSG_WAITALL)) < MESSAGE:
        raise Stalled("the echo ended")


def connections(path, count, at_once=4):
    """Seconds for `count` connections, one message there and back in each, so many at once."""
    failures = []

    def work(share):
        try:
            for _ in range(share):
                with _open(path, ECHO) as connection:
                    _echo(connection)
        except (OSError, Stalled) as error:
            failures.append(str(error))

    threads = [threading.Thread(target=work, args=(count // at_once,)) for _ in range(at_once)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Stalled(failures[0])
    return time.perf_counter() - start


def idle(path, count):
    """So many connections that have exchanged one message each, open."""
    opened = []
    try:
        for _ in range(count):
            connection = _open(path, ECHO)
            opened.append(connection)
            _echo(connection)
    except OSError as error:
        raise Stalled(str(error)) from error
    return opened


def round_trips_under_bulk(path, count):
    """As `round_trips`, while another connection sends as much as it can."""
    stop, ready = multiprocessing.Event(), multiprocessing.Event()

    def send():
        chunk = bytes(CHUNK)
        with _open(path, BULK, 1 << 50) as connection:
            ready.set()
            while not stop.is_set():
                connection.sendall(chunk)

    # a process of its own: in a thread it would hold the interpreter's lock when an answer comes
    sender = multiprocessing.Process(target=send, daemon=True)
    sender.start()
    try:
        if not ready.wait(STALLED_SECONDS):
            raise Stalled("no connection for the bulk")
        time.sleep(0.2)
        return round_trips(path, count)
    finally:
        stop.set()
        sender.join(STALLED_SECONDS)
        sender.kill()


def round_trips(path, count):
    """Seconds of each of `count` round trips of one small message."""
    times = []
    try:
        with _open(path, ECHO) as connection:
            for _ in range(count):
                start = time.perf_counter()
                _echo(connection)
                times.append(time.perf_counter() - start)
    except OSError as error:
        raise Stalled(str(error)) from error
    return times
