"""PostgreSQL's protocol, as little of it as the truth run needs: frames, and a session of its own over simple queries."""
import hashlib
import socket
import struct

READY, ERROR, ROW, ROWS, COPY_IN, COPY_DATA, STATUS, TAG = b"Z", b"E", b"D", b"T", b"G", b"d", b"S", b"C"
QUERY = b"Q"
SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102


class Closed(Exception):
    """The other side hung up."""


class Frames:
    """A socket that is read frame by frame."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    def exactly(self, count):
        while len(self.buffer) < count:
            more = self.sock.recv(65536)
            if not more:
                raise Closed
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def startup(self):
        """A packet without a tag: its code and all its bytes."""
        length = self.exactly(4)
        rest = self.exactly(struct.unpack("!I", length)[0] - 4)
        return struct.unpack("!I", rest[:4])[0], length + rest

    def frame(self):
        """A tag and its body."""
        head = self.exactly(5)
        return head[:1], self.exactly(struct.unpack("!I", head[1:])[0] - 4)


def frame(tag, body):
    return tag + struct.pack("!I", len(body) + 4) + body


def fields(body):
    """The fields of an ErrorResponse: code letter to text."""
    return {part[:1]: part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}


class Outcome:
    """What a query string was answered: the first error, and what its rows were."""

    def __init__(self):
        self.code = None
        self.message = ""
        self.tags = []
        self.rows = hashlib.blake2b(digest_size=12)
        self.some_rows = []

    def take(self, tag, body):
        if tag == ERROR and self.code is None:
            error = fields(body)
            self.code, self.message = error.get(b"C", "?????"), error.get(b"M", "")
        elif tag in (ROW, COPY_DATA):
            self.rows.update(tag + body)
            if len(self.some_rows) < 3:
                self.some_rows.append(body[:120])
        elif tag == TAG:
            self.tags.append(body[:-1].decode("utf-8", "replace"))

    def same_answer(self, other):
        return self.code == other.code and self.tags == other.tags and self.rows.digest() == other.rows.digest()


class Session:
    """A session of our own, by the simple protocol. No password: the servers trust the loopback."""

    def __init__(self, port, user, database):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.frames = Frames(self.sock)
        parameters = b"".join(part + b"\0" for part in (b"user", user, b"database", database)) + b"\0"
        self.sock.sendall(struct.pack("!II", len(parameters) + 8, 196608) + parameters)
        outcome = self.answer()
        if outcome.code:
            raise Closed(outcome.message)

    def answer(self, rows=None):
        outcome = Outcome()
        while True:
            tag, body = self.frames.frame()
            self.status = body if tag == READY else b"?"
            outcome.take(tag, body)
            if tag == ROW and rows is not None:
                rows.append(row(body))
            elif tag == COPY_IN:
                self.sock.sendall(frame(b"f", b"truth\0"))
            elif tag == ERROR and fields(body).get(b"S") in ("FATAL", "PANIC"):
                return outcome
            elif tag == READY:
                return outcome

    def query(self, text):
        """The outcome of a query string, as it is."""
        self.sock.sendall(frame(QUERY, text + b"\0"))
        return self.answer()

    def rows(self, text):
        """The rows of a query that must not fail, each a list of bytes or None."""
        found = []
        self.sock.sendall(frame(QUERY, text.encode() + b"\0"))
        outcome = self.answer(found)
        if outcome.code:
            raise RuntimeError(f"{text}: {outcome.message}")
        return found

    def close(self):
        self.sock.close()


def row(body):
    count, at, values = struct.unpack("!H", body[:2])[0], 2, []
    for _ in range(count):
        length = struct.unpack("!i", body[at:at + 4])[0]
        at += 4
        values.append(None if length < 0 else body[at:at + length])
        at += max(length, 0)
    return values
