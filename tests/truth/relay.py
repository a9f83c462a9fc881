"""Between psql and the primary: passes everything on, and tries each query string on the standby, too.

psql reads the files of the suites as it always does, so that the statements are what PostgreSQL really gets: with
psql's variables, its own catalog queries, COPY data and several statements in one string.
"""
import select
import socket
import threading

from trial import Trial
from wire import (CANCEL_REQUEST, GSS_REQUEST, QUERY, READY, SSL_REQUEST, STATUS, Closed, Frames, Outcome, frame, fields)

IN_FAILED_TRANSACTION = b"E"


class Relay:
    """A port for psql, which asks one thing at a time, over more than one connection while it changes to another."""

    def __init__(self, pair, judge, account):
        self.pair, self.judge, self.account = pair, judge, account
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.error = None
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.one, args=(client,), daemon=True).start()

    def one(self, client):
        try:
            Connection(self, client).run()
        except (Closed, OSError):
            pass
        except BaseException as error:  # for the main thread to end the run with
            self.error = error
        finally:
            client.close()


class Connection:
    """One connection of psql."""

    def __init__(self, relay, client):
        self.relay = relay
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client = Frames(client)
        self.server = Frames(socket.create_connection(("127.0.0.1", relay.pair.primary.port)))
        self.server.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.status = b"I"
        self.reported = {}
        self.trial = None

    def run(self):
        try:
            while True:
                code, packet = self.client.startup()
                if code not in (SSL_REQUEST, GSS_REQUEST):
                    break
                self.client.sock.sendall(b"N")
            self.server.sock.sendall(packet)
            if code == CANCEL_REQUEST:
                return
            words = packet[8:].split(b"\0")
            parameters = dict(zip(words[::2], words[1::2]))
            self.trial = Trial(self.relay, parameters[b"user"], parameters.get(b"database") or parameters[b"user"])
            self.loop()
        finally:
            self.server.sock.close()
            if self.trial:
                self.trial.close()

    def loop(self):
        pending, outcome = None, None
        while True:
            if pending is None and self.from_client_ready():
                tag, body = self.client.frame()
                if tag == QUERY:
                    pending, outcome = self.trial.judge(body[:-1], self.status, self.reported), Outcome()
                self.server.sock.sendall(frame(tag, body))
                continue
            if pending is not None and not self.server.buffer and not self.wait(self.server):
                tag, body = self.client.frame()  # COPY data, or a Terminate
                self.server.sock.sendall(frame(tag, body))
                continue
            tag, body = self.server.frame()
            if outcome is not None:
                outcome.take(tag, body)
            if tag == STATUS:
                name, value, _ = body.split(b"\0")
                self.reported[name.decode()] = value.decode("utf-8", "replace")
            if tag == READY:
                self.status = body
                if pending is not None:
                    settings = None if body == IN_FAILED_TRANSACTION else self.settings()
                    self.trial.compare(pending, outcome, settings)
                    pending = outcome = None
            self.client.sock.sendall(frame(tag, body))

    def from_client_ready(self):
        """Waits for either side; whether the client's is next."""
        return not self.server.buffer and (self.client.buffer or not self.wait(self.server))

    def wait(self, preferred):
        """Waits for either side; whether the preferred one has something."""
        other = self.client if preferred is self.server else self.server
        if other.buffer:
            return False
        ready, _, _ = select.select([self.client.sock, self.server.sock], [], [])
        return preferred.sock in ready

    def settings(self):
        """The settings that psql's session made, read in that session between two of its statements."""
        self.server.sock.sendall(frame(QUERY, Trial.SETTINGS + b"\0"))
        values = []
        while True:
            tag, body = self.server.frame()
            if tag == b"D":
                values.append(body)
            elif tag == b"E":
                values = None
                self.problem = fields(body)
            elif tag == READY:
                self.status = body
                return values
