import java.sql.BatchUpdateException;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Batches, which the driver pipelines and may rewrite, and the keys that they generate. */
class BatchTest extends Told {
    @BeforeEach
    void table() throws Exception {
        make("CREATE TABLE t (id serial PRIMARY KEY, n int UNIQUE, s text)");
    }

    static Stream<List<String>> ways() {
        List<List<String>> found = new ArrayList<>();
        for (String rewrite : new String[] {"true", "false"}) {
            for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
                for (String threshold : new String[] {"1", "5"}) {
                    for (String committing : new String[] {"auto", "manual"}) {
                        for (String save : new String[] {"never", "always", "conservative"}) {
                            found.add(List.of(rewrite, mode, threshold, committing, save));
                        }
                    }
                }
            }
        }
        return found.stream();
    }

    private void connectBy(List<String> way) throws Exception {
        connect("reWriteBatchedInserts=" + way.get(0), "preferQueryMode=" + way.get(1), "prepareThreshold=" + way.get(2), "autosave=" + way.get(4));
        c.setAutoCommit(way.get(3).equals("auto"));
    }

    /** What executeBatch gave, or how far it came. */
    private static Object run(Statement statement) throws Exception {
        try {
            return statement.executeBatch();
        } catch (BatchUpdateException error) {
            return "counts " + Arrays.toString(error.getUpdateCounts()) + " " + error(error);
        }
    }

    @ParameterizedTest
    @MethodSource("ways")
    void rowsGoIn(List<String> way) throws Exception {
        connectBy(way);
        try (PreparedStatement statement = c.prepareStatement("INSERT INTO t (n, s) VALUES (?, ?)")) {
            for (int size : new int[] {1, 2, 3, 7, 64, 200}) {
                for (int row = 0; row < size; row++) {
                    statement.setInt(1, size * 1000 + row);
                    statement.setString(2, "row " + row);
                    statement.addBatch();
                }
                attempt("batch of " + size, () -> run(statement));
            }
        }
        if (!c.getAutoCommit()) {
            c.commit();
        }
        execute("SELECT count(*), sum(n), max(s) FROM t");
    }

    @ParameterizedTest
    @MethodSource("ways")
    void oneFails(List<String> way) throws Exception {
        connectBy(way);
        for (int failing : new int[] {0, 5, 9}) {
            try (PreparedStatement statement = c.prepareStatement("INSERT INTO t (n, s) VALUES (?, ?)")) {
                for (int row = 0; row < 10; row++) {
                    statement.setInt(1, row == failing ? -1 : failing * 100 + row);
                    statement.setString(2, "row " + row);
                    statement.addBatch();
                }
                execute("INSERT INTO t (n) VALUES (-1) ON CONFLICT DO NOTHING");
                attempt("failing at " + failing, () -> run(statement));
                execute("SELECT count(*) FROM t");
                if (!c.getAutoCommit()) {
                    attempt("commit", c::commit);
                    execute("SELECT count(*) FROM t");
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("ways")
    void generateKeys(List<String> way) throws Exception {
        connectBy(way);
        try (PreparedStatement statement = c.prepareStatement("INSERT INTO t (n, s) VALUES (?, ?)", new String[] {"id", "s"})) {
            for (int row = 0; row < 130; row++) {
                statement.setInt(1, row);
                statement.setString(2, "key " + row);
                statement.addBatch();
            }
            attempt("batch", () -> run(statement));
            attempt("keys", statement::getGeneratedKeys);
        }
        try (PreparedStatement statement = c.prepareStatement("UPDATE t SET s = 'changed' WHERE n < ?", Statement.RETURN_GENERATED_KEYS)) {
            statement.setInt(1, 3);
            attempt("update", () -> statement.executeUpdate());
            attempt("keys", () -> rows(statement.getGeneratedKeys()));
        }
        try (Statement statement = c.createStatement()) {
            attempt("insert", () -> statement.executeUpdate("INSERT INTO t (n) VALUES (1000), (1001)", Statement.RETURN_GENERATED_KEYS));
            attempt("keys", () -> rows(statement.getGeneratedKeys()));
            attempt("delete", () -> statement.executeUpdate("DELETE FROM t WHERE n > 120", new String[] {"n"}));
            attempt("keys", () -> rows(statement.getGeneratedKeys()));
            attempt("no keys", () -> statement.executeUpdate("DELETE FROM t WHERE n = 0"));
            attempt("keys", () -> rows(statement.getGeneratedKeys()));
            attempt("bad column", () -> statement.executeUpdate("INSERT INTO t (n) VALUES (2000)", new String[] {"nothing"}));
        }
    }

    @ParameterizedTest
    @MethodSource("ways")
    void allSorts(List<String> way) throws Exception {
        connectBy(way);
        try (Statement statement = c.createStatement()) {
            for (String text : new String[] {"INSERT INTO t (n) VALUES (1)", "UPDATE t SET s = 'x'", "CREATE TABLE u (a int)", "INSERT INTO u SELECT generate_series(1, 5)",
                "DELETE FROM u WHERE a > 2", "DROP TABLE u", "SET extra_float_digits = 2", "INSERT INTO t (n) VALUES (3), (4)"}) {
                statement.addBatch(text);
            }
            attempt("all", () -> run(statement));
            statement.addBatch("INSERT INTO t (n) VALUES (10)");
            statement.addBatch("SELECT 1");
            statement.addBatch("INSERT INTO t (n) VALUES (11)");
            attempt("with a SELECT", () -> run(statement));
            statement.addBatch("INSERT INTO t (n) VALUES (20)");
            statement.addBatch("INSERT INTO nowhere VALUES (21)");
            statement.addBatch("INSERT INTO t (n) VALUES (22)");
            attempt("with a mistake", () -> run(statement));
            execute("SHOW extra_float_digits");
            if (!c.getAutoCommit()) {
                attempt("commit", c::commit);
            }
            execute("SELECT n, s FROM t ORDER BY n");
        }
    }

    @Test
    void batchesAreLarge() throws Exception {
        connect("prepareThreshold=1");
        try (PreparedStatement statement = c.prepareStatement("INSERT INTO t (n, s) VALUES (?, ?) RETURNING id, s", Statement.RETURN_GENERATED_KEYS)) {
            for (int row = 0; row < 600; row++) {
                statement.setInt(1, row);
                statement.setString(2, "x".repeat(20_000));
                statement.addBatch();
            }
            attempt("12 MB there and back", () -> Arrays.stream((int[]) run(statement)).sum());
            int keys = 0;
            try (ResultSet found = statement.getGeneratedKeys()) {
                while (found.next()) {
                    keys += found.getString("s").length() == 20_000 ? 1 : 0;
                }
            }
            tell(keys + " keys");
        }
        execute("SELECT count(*), sum(length(s)) FROM t");
    }

    @Test
    void typesChangeInABatch() throws Exception {
        connect("prepareThreshold=1");
        try (PreparedStatement statement = c.prepareStatement("INSERT INTO t (n, s) VALUES (?, ?)")) {
            for (int row = 0; row < 30; row++) {
                if (row % 3 == 0) {
                    statement.setNull(1, java.sql.Types.INTEGER);
                } else if (row % 3 == 1) {
                    statement.setLong(1, row);
                } else {
                    statement.setInt(1, row);
                }
                statement.setObject(2, row % 2 == 0 ? "text" : null);
                statement.addBatch();
            }
            attempt("batch", () -> run(statement));
        }
        execute("SELECT count(*), sum(n), count(s) FROM t");
    }

    @Test
    void updatesAndDeletes() throws Exception {
        make("INSERT INTO t (n, s) SELECT g, 'row ' || g FROM generate_series(1, 100) g");
        connect("prepareThreshold=1", "reWriteBatchedInserts=true");
        for (String text : new String[] {"UPDATE t SET s = ? WHERE n = ?", "DELETE FROM t WHERE s = ? AND n <= ?", "INSERT INTO t (s, n) VALUES (?, ?) ON CONFLICT (n) DO NOTHING",
            "WITH w AS (SELECT ?::text AS s) INSERT INTO t (s, n) SELECT s, ? FROM w", "INSERT INTO t (s, n) SELECT ?, ? WHERE false"}) {
            try (PreparedStatement statement = c.prepareStatement(text)) {
                for (int row = 0; row < 20; row++) {
                    statement.setString(1, "new " + row % 4);
                    statement.setInt(2, row * 7);
                    statement.addBatch();
                }
                attempt(text, () -> run(statement));
                attempt("again, without any", () -> run(statement));
            }
        }
        execute("SELECT count(*), sum(n), count(DISTINCT s) FROM t");
    }
}
