import java.sql.Connection;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSetMetaData;
import java.sql.Statement;
import java.sql.Types;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.postgresql.PGStatement;

/** Statements that the driver prepares on the server, keeps, closes and prepares anew. */
class PreparedTest extends Told {
    @ParameterizedTest
    @ValueSource(ints = {-1, 0, 1, 2, 5})
    void becomesServerPrepared(int threshold) throws Exception {
        connect("prepareThreshold=" + threshold);
        try (PreparedStatement statement = c.prepareStatement("SELECT ?::int + 1")) {
            for (int round = 0; round < 8; round++) {
                attempt("round " + round, () -> once(statement, 41));
                attempt("on the server", () -> statement.unwrap(PGStatement.class).isUseServerPrepare());
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"preparedStatementCacheQueries=0", "preparedStatementCacheQueries=2", "preparedStatementCacheSizeMiB=0", "prepareThreshold=1"})
    void cacheIsSmall(String parameter) throws Exception {
        connect(parameter, "prepareThreshold=1");
        for (int round = 0; round < 40; round++) {
            prepared("SELECT " + round % 7 + " + ?::int AS sum" + round % 7, round);
        }
        execute("SELECT count(*) BETWEEN 0 AND 8 AS few FROM pg_prepared_statements");
    }

    @Test
    void whatTheServerHasPrepared() throws Exception {
        connect("prepareThreshold=1");
        prepared("SELECT ?::int AS whole", 1);
        prepared("SELECT ?::text AS words", "a");
        execute("SELECT name, statement, parameter_types::text, from_sql FROM pg_prepared_statements ORDER BY name");
        execute("DEALLOCATE ALL");
        execute("SELECT count(*) FROM pg_prepared_statements");
        prepared("SELECT ?::int AS whole", 1);
        execute("SELECT name, statement FROM pg_prepared_statements ORDER BY name");
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 1})
    void parametersChangeTheirTypes(int threshold) throws Exception {
        make("CREATE TABLE t (i int, b bigint, n numeric, s text, d date, ts timestamptz)");
        connect("prepareThreshold=" + threshold);
        try (PreparedStatement statement = c.prepareStatement("SELECT ?, pg_typeof(?)::text")) {
            Object[] values = {1, 2L, "s", 1.5, 2.5f, true, null, new java.math.BigDecimal("3.50"), java.sql.Date.valueOf("2024-02-29"), (short) 7, "again", 1};
            for (Object value : values) {
                attempt("with " + value, () -> once(statement, value, value));
            }
            attempt("null int", () -> {
                statement.setNull(1, Types.INTEGER);
                statement.setNull(2, Types.INTEGER);
                return everything(statement, statement.execute());
            });
        }
        try (PreparedStatement statement = c.prepareStatement("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?) RETURNING *")) {
            attempt("all", () -> once(statement, 1, 2L, new java.math.BigDecimal("3.3"), "x", java.sql.Date.valueOf("2020-01-01"), null));
            attempt("other", () -> once(statement, 1L, 2, 3, 4, null, null));
            attempt("bad", () -> once(statement, "one", 2, 3, "4", null, null));
            attempt("good", () -> once(statement, 5, 6L, new java.math.BigDecimal("7"), "y", null, null));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"extended", "extendedForPrepared", "extendedCacheEverything"})
    void describedAnew(String mode) throws Exception {
        make("CREATE TABLE t (a int, b text)", "INSERT INTO t VALUES (1, 'x')");
        connect("prepareThreshold=1", "preferQueryMode=" + mode);
        try (PreparedStatement statement = c.prepareStatement("SELECT * FROM t WHERE a = ?"); Statement other = c.createStatement()) {
            for (String change : new String[] {"SELECT 1", "ALTER TABLE t ADD c int DEFAULT 3", "ALTER TABLE t ALTER a TYPE bigint", "ALTER TABLE t DROP b",
                "ALTER TABLE t RENAME a TO aa", "ALTER TABLE t RENAME aa TO a", "DROP TABLE t", "CREATE TABLE t (a text, z date)", "DEALLOCATE ALL", "DISCARD PLANS"}) {
                attempt(change, () -> other.execute(change));
                attempt("columns", () -> columns(statement.getMetaData()));
                attempt("parameters", () -> parameters(statement.getParameterMetaData()));
                attempt("rows", () -> once(statement, 1));
                attempt("rows again", () -> once(statement, 1));
            }
        }
    }

    @Test
    void changedByAnotherConnection() throws Exception {
        make("CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)");
        connect("prepareThreshold=1");
        try (PreparedStatement statement = c.prepareStatement("/* pgha: strong */ SELECT * FROM t"); PreparedStatement write = c.prepareStatement("UPDATE t SET a = a RETURNING *")) {
            for (String change : new String[] {"SELECT 1", "ALTER TABLE t ADD b int DEFAULT 5", "ALTER TABLE t ALTER a TYPE text", "ALTER TABLE t DROP b"}) {
                make(change);
                attempt(change + ": read", () -> once(statement));
                attempt(change + ": write", () -> once(write));
                attempt(change + ": read again", () -> once(statement));
            }
            c.setAutoCommit(false);
            attempt("in a transaction", () -> once(write));
            attempt("commit", c::commit);
            make("ALTER TABLE t ADD b int DEFAULT 6");
            attempt("in a transaction, changed", () -> once(write));
            attempt("and again", () -> once(write));
            attempt("roll back", () -> c.rollback());
            attempt("after it", () -> once(write));
        }
    }

    @Test
    void sameTextInManySessions() throws Exception {
        make("CREATE TABLE t (a int)", "CREATE SCHEMA IF NOT EXISTS s1", "CREATE SCHEMA IF NOT EXISTS s2", "DROP TABLE IF EXISTS s1.t, s2.t",
            "CREATE TABLE s1.t AS SELECT 'one' AS x", "CREATE TABLE s2.t AS SELECT 2 AS y, 3 AS z");
        Connection first = connect("prepareThreshold=1", "currentSchema=s1");
        Connection second = connect("prepareThreshold=1", "currentSchema=s2");
        Connection third = connect("prepareThreshold=1");
        for (int round = 0; round < 5; round++) {
            for (Connection one : new Connection[] {first, second, third}) {
                c = one;
                prepared("SELECT * FROM t");
            }
        }
        c = first;
        for (String schema : new String[] {"s2", "public", "s1", "nowhere"}) {
            attempt("setSchema", () -> c.setSchema(schema));
            attempt("getSchema", c::getSchema);
            prepared("SELECT * FROM t");
            prepared("SELECT * FROM t");
        }
    }

    @Test
    void manyParameters() throws Exception {
        connect("prepareThreshold=1");
        for (int count : new int[] {1000, 32767, 65535, 65536}) {
            attempt(count + " parameters", () -> {
                try (PreparedStatement statement = c.prepareStatement("SELECT array_length(ARRAY[" + "?,".repeat(count - 1) + "?]::int[], 1)")) {
                    return once(statement, java.util.stream.IntStream.range(0, count).boxed().toArray());
                }
            });
        }
        prepared("SELECT 1");
    }

    @Test
    void escapesAndOperators() throws Exception {
        connect();
        prepared("SELECT '{\"a\":1}'::jsonb ?? ? AS has", "a");
        prepared("SELECT {fn concat('a', ?)} AS fn, {d '2024-02-29'} AS d, {t '10:11:12'} AS t, {ts '2024-02-29 10:11:12'} AS ts", "b");
        prepared("SELECT 'it''s ?' AS quoted, $$a ? b$$ AS dollars, $x$?$x$ AS tagged, E'\\'?' AS escaped, \"?column?\" FROM (SELECT ?::int) q", 1);
        prepared("SELECT ?::int /* ? /* nested ? */ */ -- ?\n + 1", 1);
        execute("SELECT {fn char_length('abc')} AS l, {fn ucase('x')} AS u, {fn timestampdiff(SQL_TSI_HOUR, {ts '2024-01-01 00:00:00'}, {ts '2024-01-02 00:00:00'})} AS h");
        execute("SELECT 'a\\b' AS plain; SET standard_conforming_strings = off; SELECT 1");
        execute("SHOW standard_conforming_strings");
        execute("RESET standard_conforming_strings");
        execute("SELECT * FROM {oj (SELECT 1 AS a) x LEFT OUTER JOIN (SELECT 2 AS a) y ON (x.a = y.a)}");
    }

    @Test
    void manyStatementsInOne() throws Exception {
        make("CREATE TABLE t (a int)");
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
            connect("preferQueryMode=" + mode, "prepareThreshold=1");
            c = connect("preferQueryMode=" + mode);
            execute("SELECT 1; INSERT INTO t VALUES (1), (2); SELECT a FROM t ORDER BY a; DELETE FROM t");
            execute("INSERT INTO t VALUES (3); SELECT 1/0; INSERT INTO t VALUES (4)");
            execute("SELECT count(*) FROM t");
            execute("BEGIN; INSERT INTO t VALUES (5); COMMIT; SELECT a FROM t ORDER BY a");
            execute("BEGIN; INSERT INTO t VALUES (6); ROLLBACK; INSERT INTO t VALUES (7)");
            execute("SET search_path = pg_catalog; SELECT current_schema(); RESET search_path; SELECT current_schema()");
            execute(";; ; SELECT 2;;");
            execute("");
            execute("-- nothing");
            prepared("SELECT ?::int; UPDATE t SET a = ? WHERE a = 7; SELECT ?::text", 1, 8, "x");
            prepared("DELETE FROM t; SELECT ?::int", 1);
        }
    }

    static String columns(ResultSetMetaData data) throws Exception {
        StringBuilder found = new StringBuilder();
        for (int column = 1; data != null && column <= data.getColumnCount(); column++) {
            found.append(data.getColumnName(column)).append(' ').append(data.getColumnTypeName(column)).append(' ').append(data.getColumnClassName(column))
                .append(' ').append(data.getPrecision(column)).append(' ').append(data.getScale(column)).append(' ').append(data.isNullable(column))
                .append(' ').append(data.isAutoIncrement(column)).append(' ').append(data.getTableName(column)).append("; ");
        }
        return found.toString();
    }

    static String parameters(ParameterMetaData data) throws Exception {
        StringBuilder found = new StringBuilder();
        for (int place = 1; place <= data.getParameterCount(); place++) {
            found.append(data.getParameterTypeName(place)).append(' ').append(data.getParameterClassName(place)).append("; ");
        }
        return found.toString();
    }
}
