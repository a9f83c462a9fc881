import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.StringReader;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.sql.SQLException;
import java.util.Arrays;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.copy.CopyOut;
import org.postgresql.copy.PGCopyInputStream;
import org.postgresql.copy.PGCopyOutputStream;

/** CopyManager and the streams over it. */
class CopyTest extends Told {
    private CopyManager copy;

    @BeforeEach
    void table() throws Exception {
        make("CREATE TABLE t (a int PRIMARY KEY, b text)", "CREATE TABLE wide AS SELECT g AS a, repeat('y', 500) AS b FROM generate_series(1, 20000) g");
        copy = connect().unwrap(PGConnection.class).getCopyAPI();
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void rowsGoInAndOut(boolean committing) throws Exception {
        c.setAutoCommit(committing);
        attempt("in", () -> copy.copyIn("COPY t FROM STDIN", new ByteArrayInputStream(bytes("1\tone\n2\t\\N\n3\tü\n"))));
        attempt("in by lines", () -> copy.copyIn("COPY t FROM STDIN (FORMAT csv, HEADER)", new StringReader("a,b\n4,\"four,4\"\n5,\n")));
        attempt("out", () -> {
            StringWriter to = new StringWriter();
            return copy.copyOut("COPY (SELECT * FROM t ORDER BY a) TO STDOUT (FORMAT csv)", to) + "\n" + to;
        });
        attempt("out binary", () -> {
            ByteArrayOutputStream to = new ByteArrayOutputStream();
            return copy.copyOut("COPY (SELECT * FROM t ORDER BY a) TO STDOUT (FORMAT binary)", to) + " " + Arrays.toString(to.toByteArray());
        });
        if (!committing) {
            attempt("roll back", () -> c.rollback());
        }
        execute("SELECT count(*) FROM t");
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void whatGoesWrong(boolean committing) throws Exception {
        c.setAutoCommit(committing);
        attempt("bad row", () -> copy.copyIn("COPY t FROM STDIN", new StringReader("1\tone\nx\ttwo\n")));
        execute("SELECT 1");
        attempt("roll back", () -> c.rollback());
        attempt("too many columns", () -> copy.copyIn("COPY t FROM STDIN", new StringReader("1\tone\tmore\n")));
        attempt("roll back", () -> c.rollback());
        attempt("duplicate", () -> copy.copyIn("COPY t FROM STDIN", new StringReader("1\tone\n1\ttwo\n")));
        attempt("roll back", () -> c.rollback());
        attempt("no table", () -> copy.copyIn("COPY nowhere FROM STDIN", new StringReader("")));
        attempt("roll back", () -> c.rollback());
        attempt("no copy", () -> copy.copyIn("SELECT 1"));
        attempt("not that way", () -> copy.copyIn("COPY t TO STDOUT"));
        execute("SELECT 2");
        attempt("nor that", () -> copy.copyOut("COPY t FROM STDIN"));
        execute("SELECT 3");
        attempt("roll back", () -> c.rollback());
        execute("COPY t FROM STDIN");
        execute("SELECT 4");
        attempt("roll back", () -> c.rollback());
        execute("COPY t TO STDOUT");
        execute("SELECT 5");
        attempt("roll back", () -> c.rollback());
        attempt("fails half-way", () -> copy.copyOut("COPY (SELECT 1/(50000 - g) FROM generate_series(1, 60000) g) TO STDOUT", new ByteArrayOutputStream()));
        attempt("roll back", () -> c.rollback());
        attempt("reader fails", () -> copy.copyIn("COPY t FROM STDIN", new InputStream() {
            private int given;

            @Override
            public int read() throws IOException {
                if (given++ > 100_000) {
                    throw new IOException("no more");
                }
                return "1\n".charAt(given % 2);
            }
        }));
        attempt("roll back", () -> c.rollback());
        execute("SELECT count(*) FROM t");
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void isGivenUp(boolean committing) throws Exception {
        c.setAutoCommit(committing);
        CopyIn in = copy.copyIn("COPY t FROM STDIN");
        in.writeToCopy(bytes("1\tone\n"), 0, 6);
        attempt("cancel", in::cancelCopy);
        attempt("active", in::isActive);
        attempt("write", () -> in.writeToCopy(bytes("2\ttwo\n"), 0, 6));
        attempt("end", in::endCopy);
        attempt("roll back", () -> c.rollback());
        execute("SELECT count(*) FROM t");
        CopyOut out = copy.copyOut("COPY wide TO STDOUT");
        attempt("a row", () -> out.readFromCopy().length);
        attempt("cancel", out::cancelCopy);
        attempt("a row after it", () -> out.readFromCopy());
        attempt("roll back", () -> c.rollback());
        execute("SELECT count(*) FROM wide");
        CopyIn empty = copy.copyIn("COPY t (a) FROM STDIN (FORMAT csv)");
        attempt("format", () -> empty.getFormat() + " " + empty.getFieldCount() + " " + empty.getFieldFormat(0));
        attempt("end", empty::endCopy);
        attempt("rows", empty::getHandledRowCount);
        attempt("roll back", () -> c.rollback());
    }

    @Test
    void failsWhileItIsWritten() throws Exception {
        for (int round = 0; round < 10; round++) {
            CopyIn in = copy.copyIn("COPY t FROM STDIN");
            attempt("writes", () -> {
                byte[] row = bytes("1\tsame\n");
                for (int count = 0; count < 200_000; count++) {
                    in.writeToCopy(row, 0, row.length);
                }
                return in.endCopy();
            });
            attempt("cancel", () -> {
                if (in.isActive()) {
                    in.cancelCopy();
                }
            });
            execute("SELECT " + round);
        }
    }

    @Test
    void streams() throws Exception {
        try (PGCopyOutputStream to = new PGCopyOutputStream(c.unwrap(PGConnection.class), "COPY t FROM STDIN", 100)) {
            for (int row = 0; row < 500; row++) {
                to.write(bytes(row + "\trow " + row + "\n"));
            }
            to.flush();
        }
        execute("SELECT count(*), sum(a) FROM t");
        try (PGCopyInputStream from = new PGCopyInputStream(c.unwrap(PGConnection.class), "COPY (SELECT * FROM t ORDER BY a) TO STDOUT")) {
            tell("read " + new String(from.readAllBytes(), StandardCharsets.UTF_8).length());
        }
        PGCopyInputStream half = new PGCopyInputStream(c.unwrap(PGConnection.class), "COPY (SELECT repeat('y', 500) FROM generate_series(1, 1000000000)) TO STDOUT");
        tell("read " + half.read());
        attempt("close", half::close);
        execute("SELECT 1");
    }

    @Test
    void muchGoesThrough() throws Exception {
        byte[] row = bytes("x".repeat(1000) + "\n");
        make("CREATE TABLE much (s text)");
        CopyIn in = copy.copyIn("COPY much FROM STDIN");
        for (int count = 0; count < 20_000; count++) {
            in.writeToCopy(row, 0, row.length);
        }
        attempt("end", in::endCopy);
        CopyOut out = copy.copyOut("COPY much TO STDOUT");
        long length = 0;
        for (byte[] next = out.readFromCopy(); next != null; next = out.readFromCopy()) {
            length += next.length;
        }
        tell("out " + length + " " + out.getHandledRowCount());
        execute("SELECT count(*), sum(length(s)) FROM much");
    }

    @Test
    void connectionIsClosedMeanwhile() throws Exception {
        CopyIn in = copy.copyIn("COPY t FROM STDIN");
        in.writeToCopy(bytes("1\tone\n"), 0, 6);
        in.flushCopy();
        c.close();
        attempt("end", () -> {
            try {
                return in.endCopy();
            } catch (SQLException error) {
                return error.getSQLState();
            }
        });
        c = connect();
        execute("SELECT count(*) FROM t");
    }
}
