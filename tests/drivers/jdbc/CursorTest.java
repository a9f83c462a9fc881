import java.sql.CallableStatement;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Statement;
import java.sql.Types;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.postgresql.PGConnection;

/** Results that come in parts, that are scrolled and written through, and cursors that functions open. */
class CursorTest extends Told {
    @BeforeEach
    void table() throws Exception {
        make("CREATE TABLE t AS SELECT g AS a, 'row ' || g AS b FROM generate_series(1, 100) g", "ALTER TABLE t ADD PRIMARY KEY (a)");
    }

    private static String some(ResultSet rows, int most) throws Exception {
        StringBuilder found = new StringBuilder();
        for (int count = 0; count < most && rows.next(); count++) {
            found.append(rows.getRow()).append(' ').append(rows.getString(1)).append(", ");
        }
        return found.toString();
    }

    @ParameterizedTest
    @ValueSource(strings = {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"})
    void rowsComeInParts(String mode) throws Exception {
        connect("preferQueryMode=" + mode, "prepareThreshold=2", "defaultRowFetchSize=7");
        for (boolean committing : new boolean[] {true, false}) {
            c.setAutoCommit(committing);
            for (int round = 0; round < 4; round++) {
                for (int size : new int[] {0, 1, 3, 99, 100, 101}) {
                    try (PreparedStatement statement = c.prepareStatement("SELECT a FROM t WHERE a > ? ORDER BY a")) {
                        statement.setFetchSize(size);
                        statement.setInt(1, 0);
                        try (ResultSet rows = statement.executeQuery()) {
                            attempt("by " + size, () -> some(rows, 1000));
                        }
                    }
                }
            }
            if (!committing) {
                attempt("commit", c::commit);
            }
        }
    }

    @Test
    void manyAtATime() throws Exception {
        connect("prepareThreshold=1");
        c.setAutoCommit(false);
        ResultSet[] open = new ResultSet[5];
        for (int place = 0; place < open.length; place++) {
            Statement statement = c.createStatement();
            statement.setFetchSize(4 + place);
            open[place] = statement.executeQuery("SELECT a * " + (place + 1) + " FROM t ORDER BY a");
        }
        for (int round = 0; round < 12; round++) {
            for (ResultSet rows : open) {
                attempt("some", () -> some(rows, 3));
            }
            execute("UPDATE t SET b = b || '!' WHERE a = " + round);
        }
        open[0].close();
        attempt("fails in between", () -> c.createStatement().executeQuery("SELECT 1/0"));
        attempt("of a failed transaction", () -> some(open[1], 50));
        attempt("roll back", () -> c.rollback());
        attempt("after it", () -> some(open[2], 100));
        execute("SELECT 1");
    }

    @Test
    void endWithTheTransaction() throws Exception {
        connect();
        c.setAutoCommit(false);
        for (int held : new int[] {ResultSet.CLOSE_CURSORS_AT_COMMIT, ResultSet.HOLD_CURSORS_OVER_COMMIT}) {
            try (Statement statement = c.createStatement(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY, held)) {
                statement.setFetchSize(10);
                ResultSet rows = statement.executeQuery("SELECT a FROM t ORDER BY a");
                attempt("some", () -> some(rows, 5));
                attempt("commit", c::commit);
                attempt("after the commit", () -> some(rows, 200));
            }
        }
        try (Statement statement = c.createStatement()) {
            statement.setFetchSize(10);
            ResultSet rows = statement.executeQuery("SELECT a FROM t ORDER BY a");
            attempt("some", () -> some(rows, 5));
            attempt("savepoint", () -> c.rollback(c.setSavepoint()));
            attempt("after it", () -> some(rows, 20));
            attempt("other schema", () -> everything(statement, statement.execute("SET search_path = pg_catalog")));
            attempt("closed by that", () -> some(rows, 20));
        }
    }

    @Test
    void failHalfWay() throws Exception {
        connect("prepareThreshold=1");
        c.setAutoCommit(false);
        for (int round = 0; round < 3; round++) {
            try (PreparedStatement statement = c.prepareStatement("SELECT 10/(50 - g) FROM generate_series(1, 100) g WHERE g > ?")) {
                statement.setFetchSize(8);
                statement.setInt(1, 0);
                ResultSet rows = statement.executeQuery();
                attempt("all", () -> some(rows, 1000));
                attempt("more", () -> some(rows, 1));
                attempt("roll back", () -> c.rollback());
            }
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 10})
    void scrolls(int size) throws Exception {
        connect();
        c.setAutoCommit(false);
        try (Statement statement = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY)) {
            statement.setFetchSize(size);
            statement.setMaxRows(60);
            ResultSet rows = statement.executeQuery("SELECT a FROM t ORDER BY a");
            attempt("last", () -> rows.last() + " " + rows.getRow());
            attempt("relative", () -> rows.relative(-20) + " " + rows.getInt(1));
            attempt("absolute", () -> rows.absolute(-1) + " " + rows.getInt(1));
            attempt("before first", () -> {
                rows.beforeFirst();
                return some(rows, 3);
            });
        }
    }

    @Test
    void writesThrough() throws Exception {
        connect();
        c.setAutoCommit(false);
        try (Statement statement = c.createStatement(ResultSet.TYPE_SCROLL_SENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
            ResultSet rows = statement.executeQuery("SELECT a, b FROM t WHERE a < 5 ORDER BY a");
            attempt("update", () -> {
                rows.next();
                rows.updateString("b", "changed");
                rows.updateRow();
                return rows.getString("b");
            });
            attempt("insert", () -> {
                rows.moveToInsertRow();
                rows.updateInt("a", 1000);
                rows.updateString("b", "new");
                rows.insertRow();
                rows.moveToCurrentRow();
            });
            attempt("delete", () -> {
                rows.next();
                rows.deleteRow();
            });
            attempt("refresh", () -> {
                rows.first();
                rows.refreshRow();
                return rows.getString("b");
            });
            attempt("duplicate", () -> {
                rows.moveToInsertRow();
                rows.updateInt("a", 1000);
                rows.insertRow();
            });
        }
        attempt("roll back", () -> c.rollback());
        execute("SELECT count(*), min(b) FROM t");
    }

    @ParameterizedTest
    @ValueSource(strings = {"extended", "extendedCacheEverything"})
    void functionsOpenThem(String mode) throws Exception {
        make("CREATE FUNCTION opens(n int) RETURNS refcursor LANGUAGE plpgsql AS $$DECLARE c refcursor; BEGIN OPEN c FOR SELECT a FROM t WHERE a <= n ORDER BY a; RETURN c; END$$",
            "CREATE FUNCTION many() RETURNS SETOF refcursor LANGUAGE plpgsql AS $$DECLARE c refcursor := 'one'; d refcursor := 'two'; BEGIN"
            + " OPEN c FOR SELECT a FROM t WHERE a < 3 ORDER BY a; RETURN NEXT c; OPEN d FOR SELECT b FROM t WHERE a < 4 ORDER BY a; RETURN NEXT d; END$$",
            "CREATE PROCEDURE gives(INOUT c refcursor) LANGUAGE plpgsql AS $$BEGIN OPEN c FOR SELECT b FROM t WHERE a > 95 ORDER BY a; END$$");
        connect("preferQueryMode=" + mode);
        c.setAutoCommit(false);
        for (int size : new int[] {0, 3}) {
            try (CallableStatement call = c.prepareCall("{? = call opens(?)}")) {
                call.registerOutParameter(1, Types.REF_CURSOR);
                call.setInt(2, 10);
                call.setFetchSize(size);
                call.execute();
                try (ResultSet rows = (ResultSet) call.getObject(1)) {
                    attempt("rows", () -> some(rows, 100));
                }
            }
        }
        try (Statement statement = c.createStatement(); ResultSet cursors = statement.executeQuery("SELECT many()")) {
            while (cursors.next()) {
                attempt("one of many", () -> rows((ResultSet) cursors.getObject(1)));
            }
        }
        attempt("commit", c::commit);
        try (CallableStatement call = c.prepareCall("call gives(?)")) {
            call.setNull(1, Types.REF_CURSOR);
            call.registerOutParameter(1, Types.REF_CURSOR);
            attempt("procedure", () -> {
                call.execute();
                return rows((ResultSet) call.getObject(1));
            });
        }
        attempt("roll back", () -> c.rollback());
        c.setAutoCommit(true);
        attempt("without a transaction", () -> {
            try (CallableStatement call = c.prepareCall("{? = call opens(?)}")) {
                call.registerOutParameter(1, Types.REF_CURSOR);
                call.setInt(2, 10);
                call.execute();
                return rows((ResultSet) call.getObject(1));
            }
        });
    }

    @Test
    void declaredInText() throws Exception {
        connect();
        execute("BEGIN");
        execute("DECLARE k SCROLL CURSOR FOR SELECT a FROM t ORDER BY a");
        execute("FETCH 3 FROM k");
        execute("FETCH BACKWARD 1 FROM k");
        execute("MOVE LAST IN k");
        execute("UPDATE t SET b = 'x' WHERE CURRENT OF k");
        execute("COMMIT");
        execute("FETCH 1 FROM k");
        execute("DECLARE held CURSOR WITH HOLD FOR SELECT a FROM t ORDER BY a");
        execute("FETCH 2 FROM held");
        execute("INSERT INTO t VALUES (200, 'y')");
        execute("FETCH 2 FROM held");
        execute("CLOSE held");
        execute("FETCH 1 FROM held");
    }

    @Test
    void sizesAreAdapted() throws Exception {
        connect("adaptiveFetch=true", "defaultRowFetchSize=2", "maxResultBuffer=10K");
        c.setAutoCommit(false);
        for (int round = 0; round < 3; round++) {
            attempt("round", () -> {
                try (Statement statement = c.createStatement(); ResultSet rows = statement.executeQuery("SELECT repeat('z', 100 + a) FROM t")) {
                    int count = 0;
                    while (rows.next()) {
                        count++;
                    }
                    return count;
                }
            });
        }
        attempt("adaptive", () -> c.unwrap(PGConnection.class).getAdaptiveFetch());
        attempt("too much", () -> {
            try (Statement statement = c.createStatement()) {
                statement.setFetchSize(0);
                return statement.executeQuery("SELECT repeat('z', 100000)");
            }
        });
        execute("SELECT 1");
    }
}
