import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.sql.Blob;
import java.sql.CallableStatement;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Savepoint;
import java.sql.Types;
import java.util.Arrays;
import javax.sql.XAConnection;
import javax.transaction.xa.XAResource;
import javax.transaction.xa.Xid;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.postgresql.PGConnection;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.xa.PGXADataSource;

/** Functions, procedures, large objects, savepoints and transactions in two phases. */
class CallTest extends Told {
    @ParameterizedTest
    @ValueSource(strings = {"preferQueryMode=simple", "prepareThreshold=1", "escapeSyntaxCallMode=callIfNoReturn", "escapeSyntaxCallMode=call"})
    void functionsAndProcedures(String parameter) throws Exception {
        make("CREATE TABLE t (a int)", "CREATE FUNCTION f(a int, OUT b int, INOUT s text) LANGUAGE plpgsql AS $$BEGIN b := a * 2; s := s || '!'; END$$",
            "CREATE FUNCTION g(a numeric) RETURNS numeric LANGUAGE sql AS 'SELECT a + 1'",
            "CREATE PROCEDURE p(INOUT n int) LANGUAGE plpgsql AS $$BEGIN INSERT INTO t VALUES (n); n := n + 1; END$$",
            "CREATE PROCEDURE commits(n int) LANGUAGE plpgsql AS $$BEGIN FOR i IN 1..n LOOP INSERT INTO t VALUES (i); IF i % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF; END LOOP; END$$");
        connect(parameter);
        for (int round = 0; round < 3; round++) {
            attempt("f", () -> {
                try (CallableStatement call = c.prepareCall("{call f(?, ?, ?)}")) {
                    call.setInt(1, 21);
                    call.registerOutParameter(2, Types.INTEGER);
                    call.setString(3, "x");
                    call.registerOutParameter(3, Types.VARCHAR);
                    call.execute();
                    return call.getInt(2) + call.getString(3);
                }
            });
            attempt("g", () -> {
                try (CallableStatement call = c.prepareCall("{? = call g(?)}")) {
                    call.registerOutParameter(1, Types.NUMERIC);
                    call.setBigDecimal(2, new java.math.BigDecimal("1.5"));
                    call.execute();
                    return call.getBigDecimal(1);
                }
            });
            attempt("p", () -> {
                try (CallableStatement call = c.prepareCall("call p(?)")) {
                    call.setInt(1, 5);
                    call.registerOutParameter(1, Types.INTEGER);
                    call.execute();
                    return call.getInt(1);
                }
            });
            attempt("commits", () -> {
                try (CallableStatement call = c.prepareCall("call commits(?)")) {
                    call.setInt(1, 4);
                    return call.execute();
                }
            });
            execute("SELECT count(*) FROM t");
        }
        c.setAutoCommit(false);
        attempt("commits in a transaction", () -> c.prepareCall("call commits(2)").execute());
        attempt("roll back", () -> c.rollback());
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void largeObjects(boolean committing) throws Exception {
        make("CREATE TABLE t (o oid)");
        connect();
        c.setAutoCommit(committing);
        LargeObjectManager objects = c.unwrap(PGConnection.class).getLargeObjectAPI();
        attempt("all of it", () -> {
            long oid = objects.createLO();
            LargeObject object = objects.open(oid, LargeObjectManager.READWRITE);
            byte[] written = new byte[300_000];
            for (int place = 0; place < written.length; place++) {
                written[place] = (byte) (place * 7);
            }
            object.write(written);
            object.seek(100);
            String found = Arrays.toString(object.read(5)) + " " + object.size() + " " + object.tell();
            object.truncate(1000);
            object.seek(0);
            byte[] all = object.getInputStream().readAllBytes();
            object.close();
            objects.delete(oid);
            return found + " " + all.length;
        });
        attempt("roll back", () -> c.rollback());
        c.setAutoCommit(false);
        attempt("not there", () -> objects.open(1));
        attempt("roll back", () -> c.rollback());
        attempt("as a blob", () -> {
            try (PreparedStatement insert = c.prepareStatement("INSERT INTO t VALUES (?)")) {
                insert.setBlob(1, new ByteArrayInputStream("in a stream".getBytes()));
                insert.executeUpdate();
            }
            try (ResultSet rows = c.createStatement().executeQuery("SELECT o FROM t")) {
                rows.next();
                Blob blob = rows.getBlob(1);
                try (InputStream from = blob.getBinaryStream()) {
                    return blob.length() + " " + new String(from.readAllBytes()) + " " + blob.position("str".getBytes(), 1);
                }
            }
        });
        attempt("commit", c::commit);
        execute("SELECT lo_get(o) FROM t");
        execute("SELECT lo_unlink(o) FROM t");
        attempt("commit", c::commit);
    }

    @ParameterizedTest
    @ValueSource(strings = {"autosave=never", "autosave=always", "autosave=conservative"})
    void savepoints(String parameter) throws Exception {
        make("CREATE TABLE t (a int PRIMARY KEY)");
        connect(parameter, "prepareThreshold=1");
        attempt("without a transaction", () -> c.setSavepoint());
        c.setAutoCommit(false);
        prepared("INSERT INTO t VALUES (?)", 1);
        Savepoint one = c.setSavepoint("one");
        prepared("INSERT INTO t VALUES (?)", 2);
        Savepoint two = c.setSavepoint("With \"quotes\"");
        execute("SET search_path = pg_catalog");
        prepared("INSERT INTO public.t VALUES (?)", 1);
        attempt("back to two", () -> c.rollback(two));
        execute("SHOW search_path");
        prepared("INSERT INTO t VALUES (?)", 3);
        attempt("release two", () -> c.releaseSavepoint(two));
        attempt("back to two", () -> c.rollback(two));
        attempt("back to one", () -> c.rollback(one));
        prepared("SELECT a FROM t ORDER BY a");
        execute("ROLLBACK TO SAVEPOINT nothing");
        attempt("back to one", () -> c.rollback(one));
        attempt("commit", c::commit);
        prepared("SELECT a FROM t ORDER BY a");
        attempt("back to one", () -> c.rollback(one));
        attempt("raised at the commit", () -> {
            c.createStatement().execute("SELECT 1");
            try {
                c.createStatement().execute("SELECT 1/0");
            } catch (java.sql.SQLException expected) {
                tell("failed");
            }
            c.commit();
        });
        attempt("roll back", () -> c.rollback());
    }

    private static Xid xid(int branch) {
        return new Xid() {
            @Override
            public int getFormatId() {
                return 4711;
            }

            @Override
            public byte[] getGlobalTransactionId() {
                return new byte[] {1, 2, 3};
            }

            @Override
            public byte[] getBranchQualifier() {
                return new byte[] {(byte) branch};
            }
        };
    }

    @Test
    void twoPhases() throws Exception {
        make("CREATE TABLE t (a int)");
        PGXADataSource source = new PGXADataSource();
        source.setUrl(url());
        XAConnection connection = source.getXAConnection(System.getenv("PGUSER"), System.getenv("PGPASSWORD"));
        try {
            XAResource resource = connection.getXAResource();
            c = connection.getConnection();
            for (int branch = 0; branch < 4; branch++) {
                Xid xid = xid(branch);
                int value = branch;
                attempt("start", () -> resource.start(xid, XAResource.TMNOFLAGS));
                attempt("insert", () -> c.createStatement().executeUpdate("INSERT INTO t VALUES (" + value + ")"));
                attempt("commit forbidden", () -> c.commit());
                attempt("end", () -> resource.end(xid, XAResource.TMSUCCESS));
                if (branch == 3) {
                    attempt("commit in one", () -> resource.commit(xid, true));
                    continue;
                }
                attempt("prepare", () -> resource.prepare(xid));
                attempt("recover", () -> resource.recover(XAResource.TMSTARTRSCAN | XAResource.TMENDRSCAN).length);
                if (branch == 1) {
                    attempt("roll back", () -> resource.rollback(xid));
                } else {
                    attempt("commit", () -> resource.commit(xid, false));
                }
                attempt("commit again", () -> resource.commit(xid, false));
            }
        } finally {
            connection.close();
        }
        c = connect();
        execute("SELECT a FROM t ORDER BY a");
    }
}
