"""A transaction that is open when the primary dies, and what follows in one pipeline with one Sync. argv: conninfo.

Says `open`, waits for a line, and exits with 0 if all is as it should be."""

import sys

import psycopg

INSERT = "INSERT INTO ledger (id, part, client) VALUES (%s, 1, 'open')"

connection = psycopg.connect(sys.argv[1], autocommit=True)
connection.execute("BEGIN")
connection.execute(INSERT, (100,))
print("open", flush=True)
sys.stdin.readline()

states = []
try:
    with connection.pipeline():
        cursors = [connection.cursor() for _ in range(3)]
        for cursor in cursors:
            cursor.execute(INSERT, (101,))
except psycopg.Error as error:
    states.append(error.sqlstate)
assert states == ["40001"], states
assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
connection.execute("ROLLBACK")
with connection.transaction():
    connection.execute(INSERT, (102,))
assert not connection.closed
