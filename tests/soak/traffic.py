"""Clients and backends at both ends of the path. What is sent can be known by whoever receives it: a pattern that does
not repeat for a mebibyte, begun at another place by each connection and direction.

On the memory channel nobody breaks off, so every byte must arrive. On the control channel connections are reset at random
by either end, and what arrived until then must be what was sent."""

import os
import random
import select
import socket
import struct
import threading
import time

PERIOD = 1048573  # a prime, so that a loss of any usual size shows
PATTERN = random.Random(7).randbytes(PERIOD)
PATTERN += PATTERN[: 512 << 10]
PIECE = 256 << 10
HEADER = struct.Struct("!4sQQQBQ")  # magic, where up begins, where down begins, bytes up, who resets, bytes down
NOBODY, CLIENT, BACKEND = range(3)
SILENCE_SECONDS = 120


class Wrong(Exception):
    """Something arrived that was not sent, or did not arrive."""


def pattern_at(start, offset, length):
    begin = (start + offset) % PERIOD
    return memoryview(PATTERN)[begin : begin + min(length, PIECE)]


def send_pattern(stream, start, length, moved, stop=None):
    """Sends so many bytes; how many the kernel took, less than that if the peer was gone, or `stop` was set: nobody may
    close a socket while somebody waits for it, for poll(2) then keeps it open, and may wait for another of its number."""
    sent, room, deadline = 0, select.poll(), time.monotonic() + SILENCE_SECONDS
    room.register(stream, select.POLLOUT)
    while sent < length and not (stop and stop.is_set()):
        try:
            count = os.write(stream.fileno(), pattern_at(start, sent, length - sent))
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("nobody takes what is sent") from None
            room.poll(100)
            continue
        except (BrokenPipeError, ConnectionResetError):
            break
        sent += count
        deadline = time.monotonic() + SILENCE_SECONDS
        moved(count)
    return sent


def receive_pattern(stream, start, most, moved):
    """Receives until the end, or `most` bytes; how many, and whether that was an end in good order."""
    buffer = bytearray(PIECE)
    view = memoryview(buffer)
    received = 0
    while most is None or received < most:
        try:
            count = stream.recv_into(view[: PIECE if most is None else min(PIECE, most - received)])
        except ConnectionResetError:
            return received, False
        if count == 0:
            return received, True
        if not PATTERN.startswith(view[:count], (start + received) % PERIOD):
            raise Wrong(f"bytes {received} to {received + count} are not what was sent")
        received += count
        moved(count)
    return received, False


class Traffic:
    def __init__(self, finding, rng):
        self.finding, self.rng = finding, rng
        self.lock = threading.Lock()
        self.present = {}
        # Connections that nobody has answered yet, by key: a listener that is closed takes those along whose TCP
        # handshake is not complete, so it is not closed before.
        self.young = {}
        self.running = threading.Event()
        self.workers = []
        self.open = 0
        self.served = 0
        # By channel: bytes that kernels took from clients and backends, and gave to them.
        self.books = {channel: dict.fromkeys(("up_sent", "up_received", "down_sent", "down_received"), 0)
                      for channel in ("0", "49152")}
        self.counts = {"connections": 0, "resets": 0}

    def add(self, channel, what, count):
        with self.lock:
            self.books[channel][what] += count

    def adder(self, channel, what):
        return lambda count: self.add(channel, what, count)

    def count(self, what, more=1):
        with self.lock:
            self.counts[what] += more

    def sums(self):
        with self.lock:
            return {**self.counts, **{channel: dict(book) for channel, book in self.books.items()}}

    def moved(self):
        with self.lock:
            return sum(book["up_received"] + book["down_received"] for book in self.books.values())

    def connections(self):
        with self.lock:
            return self.open

    def fronts(self, fronts):
        """Where to connect from now on."""
        with self.lock:
            self.present = fronts

    def connect(self, channel):
        """To one of the sources; within the lock, so that its listener is not being removed. And by which key."""
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(SILENCE_SECONDS)
        with self.lock:
            key = self.rng.choice(list(self.present))
            stream.connect(self.present[key][channel])
            self.open += 1
            self.young.setdefault(key, set()).add(stream)
        return key, stream

    def has_grown(self, key, stream):
        with self.lock:
            self.young.get(key, set()).discard(stream)

    def wait_grown(self, key):
        """Until every connection of a key to which nobody connects any more is answered, or over."""
        deadline = time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < deadline:
            with self.lock:
                if not self.young.get(key):
                    self.young.pop(key, None)
                    return
            time.sleep(0.05)
        self.finding(f"a connection of {key} has no answer")

    # Backends

    def serve(self, path, channel):
        """A backend that is there for as long as we are: sessions outlive their listeners."""
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1024)

        def accept():
            while True:
                stream, _ = listener.accept()
                stream.settimeout(SILENCE_SECONDS)
                with self.lock:
                    self.served += 1
                threading.Thread(target=self.guarded, args=(self.answer, stream, channel), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def guarded(self, what, stream, *arguments):
        try:
            what(stream, *arguments)
        except Wrong as error:
            self.finding(f"{what.__name__}: {error}")
        except Exception as error:
            self.finding(f"{what.__name__}: {type(error).__name__}: {error}")
        finally:
            stream.close()
            with self.lock:
                if what == self.answer:
                    self.served -= 1

    def answer(self, stream, channel):
        head = b""
        while len(head) < HEADER.size:
            piece = stream.recv(HEADER.size - len(head))
            if not piece:
                if channel == "0":
                    return  # reset that early
                raise Wrong("the header did not arrive")
            head += piece
            self.add(channel, "up_received", len(piece))
        magic, up, down, up_length, resets, down_length = HEADER.unpack(head)
        if magic != b"soak":
            raise Wrong("another header than was sent arrived")
        stop = threading.Event()
        sender = threading.Thread(
            target=self.guarded_send, args=(stream, channel, down, down_length, resets, stop), daemon=True)
        sender.start()
        stops_at = self.below(up_length) if resets == BACKEND else None
        received, in_order = receive_pattern(stream, up, stops_at, self.adder(channel, "up_received"))
        if resets == BACKEND:
            stop.set()
            sender.join()
            stream.close()  # with bytes unread
        sender.join()
        if resets == NOBODY and (received != up_length or not in_order):
            raise Wrong(f"{received} of {up_length} bytes arrived, {'an end' if in_order else 'a reset'} behind them")
        if received > up_length:
            raise Wrong("more arrived than was sent")

    def guarded_send(self, stream, channel, start, length, resets, stop):
        try:
            sent = send_pattern(stream, start, length, self.adder(channel, "down_sent"), stop)
            if sent < length and resets == NOBODY:
                self.finding(f"a backend could send {sent} of {length} bytes only")
            if sent == length:
                stream.shutdown(socket.SHUT_WR)
        except OSError as error:
            if resets == NOBODY:
                self.finding(f"a backend could not send: {error}")

    # Clients

    def below(self, limit):
        with self.lock:
            return self.rng.randrange(max(limit, 1))

    def talk(self, channel, up_length, down_length, resets):
        """One connection, from its beginning to its end."""
        key, stream = self.connect(channel)
        self.count("connections")
        try:
            up, down = self.below(PERIOD), self.below(PERIOD)
            head = HEADER.pack(b"soak", up, down, up_length, resets, down_length)
            stream.sendall(head)
            self.add(channel, "up_sent", len(head))
            stops_at = self.below(down_length) if resets == CLIENT else None
            result = []

            def moved(count):
                self.has_grown(key, stream)
                self.add(channel, "down_received", count)

            def receive():
                try:
                    result.append(receive_pattern(stream, down, stops_at, moved))
                except (Wrong, OSError) as error:
                    result.append(error)
                if resets == CLIENT:
                    # wakes the sender, and leaves bytes unread
                    try:
                        stream.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        pass

            receiver = threading.Thread(target=receive, daemon=True)
            receiver.start()
            try:
                sent = send_pattern(stream, up, up_length, self.adder(channel, "up_sent"))
                if sent == up_length:
                    stream.shutdown(socket.SHUT_WR)
            except OSError:
                sent = None
            receiver.join()
            outcome = result[0]
            if isinstance(outcome, Wrong) or (isinstance(outcome, Exception) and resets == NOBODY):
                raise outcome
            if resets == NOBODY:
                received, in_order = outcome
                if sent != up_length or received != down_length or not in_order:
                    raise Wrong(f"sent {sent} of {up_length}, received {received} of {down_length} bytes, "
                                f"{'an end' if in_order else 'a reset'} behind them")
            else:
                self.count("resets")
        finally:
            self.has_grown(key, stream)
            stream.close()
            with self.lock:
                self.open -= 1

    def stream(self):
        """Full rate both ways, over and over; a new connection every few hundred mebibytes."""
        while self.running.is_set():
            self.attempt("49152", self.below(64 << 20) + (32 << 20), self.below(64 << 20) + (1 << 20), NOBODY)

    def churn(self):
        """Short ones, many of them reset by one end or the other; now and then one that is silent for a while."""
        while self.running.is_set():
            choice = self.below(10)
            if choice == 0:
                key, stream = self.connect("0")
                self.count("connections")
                self.count("resets")
                time.sleep(self.below(2000) / 1000)
                self.has_grown(key, stream)
                stream.close()
                with self.lock:
                    self.open -= 1
                continue
            resets = (NOBODY, CLIENT, BACKEND)[choice % 3]
            self.attempt("0", self.below(4 << 20), self.below(4 << 20), resets)

    def attempt(self, channel, *arguments):
        try:
            self.talk(channel, *arguments)
        except Exception as error:
            self.finding(f"a client on channel {channel}: {type(error).__name__}: {error}")
            time.sleep(1)

    def go_on(self, streams, churners):
        self.running.set()
        work = [self.stream] * streams + [self.churn] * churners
        self.workers = [threading.Thread(target=what, daemon=True) for what in work]
        for worker in self.workers:
            worker.start()

    def pause(self):
        self.running.clear()
        for worker in self.workers:
            worker.join(2 * SILENCE_SECONDS)
            if worker.is_alive():
                self.finding("a connection does not come to its end")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with self.lock:
                if self.served == 0:
                    return
            time.sleep(0.1)
        self.finding(f"{self.served} backends wait for an end that does not come")
