import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.InputStream;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.TestReporter;
import org.postgresql.core.BaseConnection;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

/**
 * What every test here has: connections, and an account of what the driver told it. An account is published when its test is over, and
 * java.py compares that of the run through the proxy with that of the direct run, line by line. So it has nothing that differs from run to
 * run: no process ids, no OIDs, no times.
 */
abstract class Told {
    static final String HOST = System.getenv("PGHOST");
    static final String PORT = System.getenv("PGPORT");
    static final String DATABASE = System.getenv("PGDATABASE");
    private static Connection maker;
    private final StringBuilder account = new StringBuilder();
    private final List<Connection> opened = new ArrayList<>();
    /** Whose transaction state {@link #attempt} tells. */
    Connection c;

    /** Anything that may fail, and what it gives. */
    interface Step {
        Object run() throws Exception;
    }

    /** Anything that may fail. */
    interface Deed {
        void run() throws Exception;
    }

    @BeforeEach
    void emptySchema() throws SQLException {
        make("DROP SCHEMA IF EXISTS public CASCADE", "CREATE SCHEMA public", "SET client_min_messages = warning");
    }

    @AfterEach
    void publish(TestReporter reporter) throws SQLException {
        for (Connection one : opened) {
            one.close();
        }
        reporter.publishEntry("told", account.toString());
    }

    /** Runs statements on a connection that is no part of the test, before the test's own connections are made. */
    static void make(String... statements) throws SQLException {
        if (maker == null) {
            maker = DriverManager.getConnection(url("preferQueryMode=simple"), properties());
        }
        try (Statement statement = maker.createStatement()) {
            for (String text : statements) {
                statement.execute(text);
            }
        }
    }

    static String url(String... parameters) {
        String all = String.join("&", parameters);
        return "jdbc:postgresql://" + HOST + ":" + PORT + "/" + DATABASE + (all.isEmpty() ? "" : "?" + all);
    }

    static Properties properties() {
        Properties found = new Properties();
        found.setProperty("user", System.getenv("PGUSER"));
        found.setProperty("password", System.getenv("PGPASSWORD"));
        return found;
    }

    /** A connection that is closed when the test is over; the first is {@link #c}. */
    Connection connect(String... parameters) throws SQLException {
        Connection made = DriverManager.getConnection(url(parameters), properties());
        opened.add(made);
        c = c == null ? made : c;
        return made;
    }

    void tell(String line) {
        for (char letter : line.replaceAll("@[0-9a-f]{5,8}\\b", "@…").toCharArray()) {
            account.append(letter == '\n' || letter == '\t' || letter >= ' ' && letter < '\ud800' ? letter : '?');
        }
        account.append('\n');
    }

    /** Does it, and tells what it gave or how it failed, its warnings not, and the state of the transaction after it. */
    void attempt(String what, Step step) {
        String came;
        try {
            came = shown(step.run());
        } catch (Throwable error) {
            came = error(error);
        }
        tell(what + ": " + came + state());
    }

    void attempt(String what, Deed deed) {
        attempt(what, () -> {
            deed.run();
            return "done";
        });
    }

    /** Runs a text by a Statement of its own. */
    void execute(String text) {
        attempt(text, () -> {
            try (Statement statement = c.createStatement()) {
                return everything(statement, statement.execute(text)) + warnings(statement.getWarnings());
            }
        });
    }

    /** Runs a text with parameters by a PreparedStatement of its own, which the driver's cache may know. */
    void prepared(String text, Object... values) {
        attempt(text + " " + Arrays.deepToString(values), () -> {
            try (PreparedStatement statement = c.prepareStatement(text)) {
                return once(statement, values);
            }
        });
    }

    static String once(PreparedStatement statement, Object... values) throws Exception {
        for (int place = 0; place < values.length; place++) {
            statement.setObject(place + 1, values[place]);
        }
        return everything(statement, statement.execute()) + warnings(statement.getWarnings());
    }

    static String everything(Statement statement, boolean rows) throws Exception {
        StringBuilder found = new StringBuilder();
        while (true) {
            if (rows) {
                found.append(shown(statement.getResultSet()));
            } else if (statement.getUpdateCount() >= 0) {
                found.append(statement.getUpdateCount()).append(" rows; ");
            } else {
                return found.toString();
            }
            rows = statement.getMoreResults();
        }
    }

    static String warnings(SQLWarning warning) {
        StringBuilder found = new StringBuilder();
        for (; warning != null; warning = warning.getNextWarning()) {
            found.append(" warned ").append(warning.getSQLState()).append(' ').append(warning.getMessage());
        }
        return found.toString();
    }

    String state() {
        try {
            return c == null ? "" : c.isClosed() ? " [closed]" : " [" + c.unwrap(BaseConnection.class).getTransactionState() + "]";
        } catch (SQLException error) {
            return " [" + error.getMessage() + "]";
        }
    }

    static String shown(Object value) throws Exception {
        if (value instanceof ResultSet) {
            return rows((ResultSet) value);
        } else if (value instanceof byte[]) {
            return "bytes " + Arrays.toString((byte[]) value);
        } else if (value instanceof Array) {
            return "array " + value;
        } else if (value instanceof Object[]) {
            return Arrays.deepToString((Object[]) value);
        } else if (value instanceof int[]) {
            return Arrays.toString((int[]) value);
        } else if (value instanceof InputStream) {
            return "stream " + Arrays.toString(((InputStream) value).readAllBytes());
        }
        return String.valueOf(value);
    }

    static String rows(ResultSet rows) throws Exception {
        ResultSetMetaData columns = rows.getMetaData();
        StringBuilder found = new StringBuilder("(");
        for (int column = 1; column <= columns.getColumnCount(); column++) {
            found.append(columns.getColumnLabel(column)).append(' ').append(columns.getColumnTypeName(column)).append(", ");
        }
        found.append(")");
        while (rows.next()) {
            found.append("\n   ");
            for (int column = 1; column <= columns.getColumnCount(); column++) {
                found.append(' ').append(shown(rows.getObject(column))).append(" |");
            }
        }
        return found.append('\n').toString();
    }

    /** Everything that a client can tell of an error, but for where it was raised in the server's source. */
    static String error(Throwable error) {
        StringBuilder found = new StringBuilder(error.getClass().getSimpleName()).append(' ').append(error.getMessage());
        if (error instanceof SQLException) {
            found.append(" (").append(((SQLException) error).getSQLState()).append(')');
            ServerErrorMessage server = error instanceof PSQLException ? ((PSQLException) error).getServerErrorMessage() : null;
            if (server != null) {
                found.append(" {").append(String.join(", ", Arrays.asList(String.valueOf(server.getSeverity()), "detail " + server.getDetail(),
                    "hint " + server.getHint(), "position " + server.getPosition(), "internal " + server.getInternalQuery(),
                    "where " + server.getWhere(), server.getSchema() + "." + server.getTable() + "." + server.getColumn(),
                    server.getDatatype() + " " + server.getConstraint(), String.valueOf(server.getRoutine())))).append('}');
            }
            SQLException next = ((SQLException) error).getNextException();
            if (next != null && next != error) {
                found.append(" next ").append(next.getMessage());
            }
        }
        return found.toString();
    }

    /** Waits until it is so. */
    static void await(Callable<Boolean> so) throws Exception {
        long deadline = System.nanoTime() + 20_000_000_000L;
        while (!so.call()) {
            assertTrue(System.nanoTime() < deadline, "it did not come to be so");
            Thread.sleep(5);
        }
    }

    /** Runs it on a thread of its own. */
    static Thread beside(Deed deed) {
        Thread thread = new Thread(() -> {
            try {
                deed.run();
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        });
        thread.start();
        return thread;
    }

    /** Until a statement whose text has `mark` in it runs on a backend. */
    static void awaitRunning(String mark) throws Exception {
        await(() -> {
            try (Statement statement = maker.createStatement(); ResultSet found = statement.executeQuery(
                    "/* pgha: primary */ SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%"
                    + mark + "%'")) {
                found.next();
                return found.getInt(1) > 0;
            }
        });
    }
}
