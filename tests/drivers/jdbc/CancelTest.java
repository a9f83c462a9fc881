import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.OutputStream;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.postgresql.PGConnection;

/** Cancels and time-outs, of either side. */
class CancelTest extends Told {
    /** Cancels until it is over; what isn't running yet, or no more, the driver leaves alone. */
    private void cancelled(String mark, Statement statement, Step step) throws Exception {
        AtomicBoolean over = new AtomicBoolean();
        Thread thread = beside(() -> {
            while (!over.get()) {
                Thread.sleep(20);
                statement.cancel();
            }
        });
        attempt(mark, step);
        over.set(true);
        thread.join();
        execute("SELECT 'after " + mark + "'");
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void statements(boolean committing) throws Exception {
        make("CREATE TABLE t (a int)");
        connect("prepareThreshold=1");
        c.setAutoCommit(committing);
        for (int round = 0; round < 5; round++) {
            String mark = "mark" + committing + round;
            try (Statement statement = c.createStatement()) {
                cancelled(mark, statement, () -> statement.executeQuery("SELECT '" + mark + "', pg_sleep(30)"));
                attempt("roll back", () -> c.rollback());
                cancelled(mark + "w", statement, () -> statement.executeUpdate("INSERT INTO t SELECT 1 FROM pg_sleep(30) /* " + mark + "w */"));
                attempt("roll back", () -> c.rollback());
            }
            try (PreparedStatement statement = c.prepareStatement("SELECT '" + mark + "p', pg_sleep(?)")) {
                statement.setInt(1, 30);
                cancelled(mark + "p", statement, statement::executeQuery);
                attempt("roll back", () -> c.rollback());
            }
        }
        execute("SELECT count(*) FROM t");
    }

    @Test
    void batchesAndCopies() throws Exception {
        make("CREATE TABLE t (a int)");
        connect();
        try (Statement statement = c.createStatement()) {
            statement.addBatch("INSERT INTO t VALUES (1)");
            statement.addBatch("INSERT INTO t SELECT 2 FROM pg_sleep(30) /* batchmark */");
            statement.addBatch("INSERT INTO t VALUES (3)");
            cancelled("batchmark", statement, statement::executeBatch);
            execute("SELECT count(*) FROM t");
            attempt("copy", () -> c.unwrap(PGConnection.class).getCopyAPI()
                .copyOut("COPY (SELECT repeat('x', 1000000), pg_sleep(0.1) FROM generate_series(1, 300)) TO STDOUT", new OutputStream() {
                    private boolean cancelled;

                    @Override
                    public void write(int one) {
                        throw new IllegalStateException("not by bytes");
                    }

                    @Override
                    public void write(byte[] some, int from, int length) throws IOException {
                        try {
                            if (!cancelled) {
                                c.unwrap(PGConnection.class).cancelQuery();
                            }
                            cancelled = true;
                        } catch (SQLException error) {
                            throw new IOException(error);
                        }
                    }
                }));
            execute("SELECT 'after the copy'");
        }
    }

    @Test
    void whenNothingRuns() throws Exception {
        connect();
        try (Statement statement = c.createStatement()) {
            for (int round = 0; round < 30; round++) {
                statement.cancel();
                attempt("round " + round, () -> rows(statement.executeQuery("SELECT 1")));
            }
            c.unwrap(PGConnection.class).cancelQuery();
            attempt("after it", () -> rows(statement.executeQuery("SELECT 2")));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"simple", "extended", "extendedCacheEverything"})
    void queryTimeouts(String mode) throws Exception {
        connect("preferQueryMode=" + mode);
        for (boolean committing : new boolean[] {true, false}) {
            c.setAutoCommit(committing);
            try (Statement statement = c.createStatement()) {
                statement.setQueryTimeout(1);
                attempt("too slow", () -> statement.executeQuery("SELECT pg_sleep(20)"));
                attempt("roll back", () -> c.rollback());
                attempt("fast enough", () -> rows(statement.executeQuery("SELECT 1")));
                attempt("and again", () -> statement.executeUpdate("DO $$BEGIN PERFORM pg_sleep(20); END$$"));
                attempt("roll back", () -> c.rollback());
                attempt("fast enough", () -> rows(statement.executeQuery("SELECT 2")));
                attempt("end", () -> c.rollback());
            }
        }
    }

    @Test
    void timeoutsOfTheServer() throws Exception {
        make("CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)");
        connect("options=-c%20statement_timeout=200ms");
        execute("SELECT pg_sleep(20)");
        execute("SELECT 1");
        execute("SET statement_timeout = 0");
        Connection other = connect();
        other.setAutoCommit(false);
        try (Statement statement = other.createStatement()) {
            statement.execute("LOCK TABLE t");
            execute("SET lock_timeout = '100ms'");
            execute("SELECT * FROM t FOR UPDATE");
            execute("UPDATE t SET a = 2");
            other.rollback();
        }
        execute("UPDATE t SET a = 2");
        c.setAutoCommit(false);
        execute("SET transaction_timeout = '200ms'");
        execute("SELECT pg_sleep(20)");
        attempt("roll back", () -> c.rollback());
    }

    @Test
    void idleTimeouts() throws Exception {
        connect();
        execute("SET idle_in_transaction_session_timeout = '100ms'");
        c.setAutoCommit(false);
        execute("SELECT 1");
        Thread.sleep(1000);
        attempt("after the time", () -> c.createStatement().execute("SELECT 2"));
        c = connect();
        execute("SET idle_session_timeout = '100ms'");
        Thread.sleep(1000);
        attempt("after the time", () -> c.createStatement().execute("SELECT 3"));
    }

    @Test
    void networkTimeouts() throws Exception {
        connect();
        c.setNetworkTimeout(Runnable::run, 300);
        attempt("too slow", () -> c.createStatement().executeQuery("SELECT pg_sleep(3)"));
        attempt("after it", () -> c.createStatement().executeQuery("SELECT 1"));
        c = connect("socketTimeout=1");
        attempt("too slow", () -> c.createStatement().executeQuery("SELECT pg_sleep(3)"));
    }

    @Test
    void aborts() throws Exception {
        make("CREATE TABLE t (a int)");
        connect();
        c.setAutoCommit(false);
        execute("INSERT INTO t VALUES (1)");
        Thread thread = beside(() -> {
            awaitRunning("abortmark");
            c.abort(Executors.newSingleThreadExecutor());
        });
        long begun = System.nanoTime();
        attempt("aborted", () -> c.createStatement().execute("SELECT 'abortmark', pg_sleep(5)"));
        thread.join();
        assertTrue(System.nanoTime() - begun < 4_000_000_000L);
        c = connect();
        execute("SELECT count(*) FROM t");
        execute("LOCK TABLE t");
        execute("DROP TABLE t");
    }

    @Test
    void closedWithATransactionOpen() throws Exception {
        make("CREATE TABLE t (a int)");
        for (int round = 0; round < 10; round++) {
            c = connect();
            c.setAutoCommit(false);
            execute("INSERT INTO t VALUES (1)");
            c.close();
        }
        c = connect();
        execute("SELECT count(*) FROM t");
    }
}
