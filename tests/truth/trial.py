"""One psql session's double on the standby: the same settings, the same text, and what came of it."""
import time

from text import Words, doubtful_backslash
from wire import Closed, Session, row

# What says that a standby can't, and a primary could.
REFUSED = {"25006"}
REFUSED_BY_TEXT = {"55000", "0A000", "XX000"}
RECOVERY_WORDS = ("recovery", "hot standby", "read-only")


def refused(outcome):
    """Whether a standby refused for being one."""
    return outcome.code in REFUSED or (
        outcome.code in REFUSED_BY_TEXT and any(word in outcome.message for word in RECOVERY_WORDS))


class Trial:
    """Tries what psql's session ran."""

    # Transaction settings are the transaction's, and a standby can't have serializable ones
    SETTINGS = rb"""SELECT s.name, s.setting FROM pg_catalog.pg_settings s
        WHERE s.source OPERATOR(pg_catalog.=) ANY (ARRAY['session','client']) AND NOT s.name OPERATOR(pg_catalog.=) ANY (ARRAY[
        'application_name','statement_timeout','lock_timeout','transaction_timeout','idle_session_timeout',
        'idle_in_transaction_session_timeout','default_transaction_isolation','default_transaction_read_only',
        'transaction_isolation','transaction_read_only','transaction_deferrable'])
        UNION ALL SELECT 'role', pg_catalog.current_setting('role') UNION ALL SELECT 'session_authorization', session_user
        ORDER BY 1"""
    LIMITS = b"SET statement_timeout = '4s'; SET lock_timeout = '1s'"

    def __init__(self, relay, user, database):
        self.pair, self.judgement, self.account = relay.pair, relay.judge, relay.account
        self.database = database
        self.sessions = {}
        self.applied = {}
        self.catalog_known = False
        self.watch = [Session(server.port, b"postgres", b"postgres") for server in (self.pair.primary, self.pair.standby)]
        self.replayed = b"0/0"

    def close(self):
        for session in [*self.sessions.values(), *self.watch]:
            session.close()

    def judge(self, sql, status, reported):
        """What the proxy says of a text, before it runs."""
        words = Words(sql)
        if not self.catalog_known:
            self.learn()
        scs = reported.get("standard_conforming_strings", "on") == "on"
        encoding = reported.get("client_encoding", "UTF8")
        verdict = self.judgement.verdict(sql, scs, encoding)
        other = None
        if doubtful_backslash(sql):
            other = self.judgement.verdict(sql, not scs, encoding)
        if words.first() in ("create", "alter", "drop", "do", "call", "import", "rollback", "commit", "abort", "end"):
            self.catalog_known = False
        return {"sql": sql, "words": words, "verdict": verdict, "other": other, "status": status.decode(), "scs": scs,
                "encoding": encoding}

    def learn(self):
        self.catalog_known = True
        try:
            self.judgement.learn(self.session("twin"))
        except (Closed, OSError, RuntimeError):
            self.drop("twin")

    def compare(self, pending, primary, settings):
        """Runs the text on the standby and enters what came of it."""
        standby = None
        if settings is not None and pending["words"].tokens:
            try:
                self.catch_up()
                standby = self.double("standby", pending["sql"], settings)
                twin = None
                if not refused(standby) and not standby.same_answer(primary) and self.may_run_again(pending):
                    standby, twin = self.again(pending["sql"], settings)
                self.account.enter(pending, primary, standby, twin)
                return self.flipped(pending, settings)
            except (Closed, OSError):
                self.drop("standby")
                self.drop("twin")
        self.account.enter(pending, primary, None, None)

    def again(self, sql, settings):
        """The standby's answer and two of the primary's, of sessions that did nothing before."""
        self.drop("standby")
        self.drop("twin")
        return self.double("standby", sql, settings), [self.double("twin", sql, settings) for _ in range(2)]

    def may_run_again(self, pending):
        """Only what may be a read is run on the primary again."""
        return pending["words"].is_read()

    def flipped(self, pending, settings):
        """The same text under the other standard_conforming_strings, where it goes to a replica by it."""
        other = pending["other"]
        if other and "replica" in (other["text"]["route"], other["catalog"]["route"]):
            session = self.mirrored("standby", settings)
            if session:
                session.query(f"SET standard_conforming_strings = {'off' if pending['scs'] else 'on'}".encode())
                outcome = session.query(pending["sql"])
                self.applied["standby"] = None
                self.account.enter_flipped(pending, refused(outcome))

    def double(self, name, sql, settings):
        session = self.mirrored(name, settings)
        if session is None:
            raise Closed
        outcome = session.query(sql)
        if b"\x00" in sql or outcome.code in ("57P01", "57P02", "57P03", "08P01"):
            self.drop(name)
        # what it did to the session goes; an error outside of a transaction did nothing
        if session.status != b"I":
            session.query(b"ROLLBACK")
            self.applied[name] = None
        elif outcome.code is None and Words(sql).first() not in ("select", "values", "table", "explain", "show"):
            self.applied[name] = None
        return outcome

    def mirrored(self, name, settings):
        session = self.session(name)
        if self.applied.get(name) != settings:
            session.query(b"ROLLBACK")
            session.query(b"RESET SESSION AUTHORIZATION")
            session.query(b"DISCARD ALL")
            session.query(self.LIMITS)
            values = [row(body) for body in settings]
            late = {b"role", b"session_authorization"}
            first = [set_one(setting, value) for setting, value in values if setting not in late]
            if session.query(b"SELECT " + b", ".join(first)).code:
                for one in first:
                    session.query(b"SELECT " + one)
            for setting, value in reversed(values):
                if setting in late:
                    session.query(b"SELECT " + set_one(setting, value))
            self.applied[name] = settings
        return session

    def session(self, name):
        """The double's connection: `standby`, or `twin`, another session on the primary."""
        if name not in self.sessions:
            server = self.pair.standby if name == "standby" else self.pair.primary
            self.sessions[name] = Session(server.port, b"postgres", self.database)
            self.applied[name] = None
        return self.sessions[name]

    def drop(self, name):
        session = self.sessions.pop(name, None)
        if session:
            session.close()

    def catch_up(self):
        """Waits until the standby has replayed what the primary has written."""
        primary, standby = self.watch
        position, flushed = primary.rows("SELECT i, i <= f FROM pg_current_wal_insert_lsn() i, pg_current_wal_flush_lsn() f")[0]
        if position == self.replayed:
            return
        if flushed != b"t":
            position = primary.rows("SELECT pg_logical_emit_message(false, 'truth', '', true)")[0][0]
        behind = f"SELECT pg_last_wal_replay_lsn() < '{position.decode()}', pg_last_wal_replay_lsn(), pg_sleep(0.0005)"
        deadline = time.monotonic() + 60
        while (told := standby.rows(behind)[0])[0] == b"t":
            if time.monotonic() > deadline:
                raise RuntimeError(f"the standby stays at {told[1]}, behind {position}")
        self.replayed = position


def set_one(name, value):
    text = (value or b"").replace(b"\\", b"\\\\").replace(b"'", b"''")
    return b"pg_catalog.set_config('" + name + b"', E'" + text + b"', false)"
