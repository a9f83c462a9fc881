import java.sql.Connection;
import java.sql.SQLException;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.postgresql.PGConnection;

/** What a session is set to, by its URL, by the driver's own calls and by SQL. */
class SessionTest extends Told {
    private static final String[] REPORTED = {"application_name", "client_encoding", "DateStyle", "default_transaction_read_only", "in_hot_standby", "integer_datetimes",
        "IntervalStyle", "is_superuser", "scram_iterations", "search_path", "server_encoding", "server_version", "session_authorization", "standard_conforming_strings",
        "TimeZone"};

    private void reported() {
        attempt("reported", () -> {
            Map<String, String> found = new TreeMap<>(c.unwrap(PGConnection.class).getParameterStatuses());
            for (String name : REPORTED) {
                found.putIfAbsent(name, "not told");
            }
            return found;
        });
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "ApplicationName=mine", "options=-c%20statement_timeout=12345%20-c%20search_path=pg_catalog", "options=-c%20nosuch.thing=1", "options=-c%20nosuch=1",
        "options=-c%20work_mem=lots", "currentSchema=a,b,public", "assumeMinServerVersion=9.0&ApplicationName=early", "readOnly=true", "stringtype=unspecified",
        "options=-c%20DateStyle=German", "options=-c%20geqo=off%20-c%20TimeZone=Asia/Tokyo", "gssEncMode=disable", "sslmode=allow", "sslmode=require", "protocolVersion=3.0", "protocolVersion=3.2",
        "channelBinding=require", "channelBinding=disable", "binaryTransfer=false", "loginTimeout=5&socketTimeout=5&connectTimeout=5", "targetServerType=primary",
        "targetServerType=secondary", "targetServerType=preferSecondary", "targetServerType=any", "hostRecheckSeconds=0&loadBalanceHosts=true", "options=-c%20role=nobody_at_all",
        "options=-c%20default_transaction_isolation=serializable", "options=-c%20client_encoding=LATIN1", "quoteReturningIdentifiers=false", "logUnclosedConnections=true",
        "maxSendBufferSize=8192", "sendBufferSize=1024&receiveBufferSize=1024", "replication=nonsense", "allowEncodingChanges=true", "connectThreadFactory=java.lang.Object"})
    void byItsUrl(String parameters) {
        attempt(parameters, () -> connect(parameters));
        tell("connected: " + (c != null));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "ApplicationName=mine", "options=-c%20statement_timeout=12345%20-c%20search_path=pg_catalog", "options=-c%20nosuch.thing=1", "options=-c%20TimeZone=Asia/Tokyo",
        "currentSchema=a,b,public", "readOnly=true", "assumeMinServerVersion=9.0&ApplicationName=early", "options=-c%20default_transaction_isolation=serializable"})
    void isToldItsSettings(String parameters) throws Exception {
        connect(parameters);
        reported();
        for (String name : new String[] {"application_name", "statement_timeout", "search_path", "TimeZone", "DateStyle", "client_encoding", "extra_float_digits",
            "default_transaction_read_only", "default_transaction_isolation", "nosuch.thing"}) {
            execute("SHOW " + name);
        }
        execute("SELECT name, setting, source FROM pg_settings WHERE source IN ('client', 'session') ORDER BY name");
        execute("RESET ALL");
        reported();
        execute("SELECT name, setting, source FROM pg_settings WHERE source IN ('client', 'session') ORDER BY name");
    }

    @Test
    void whoMayLogIn() throws Exception {
        for (String[] way : new String[][] {{"postgres", "wrong", DATABASE}, {"nobody_there", "x", DATABASE}, {"postgres", "", DATABASE}, {"", "x", DATABASE},
            {"postgres", System.getenv("PGPASSWORD"), "no_such_database"}, {"postgres", System.getenv("PGPASSWORD"), "template0"}}) {
            attempt(way[0] + " to " + way[2], () -> {
                java.sql.DriverManager.getConnection("jdbc:postgresql://" + HOST + ":" + PORT + "/" + way[2], way[0], way[1]).close();
            });
        }
    }

    @Test
    void isReadOnly() throws Exception {
        make("CREATE TABLE t (a int)");
        for (String mode : new String[] {"ignore", "transaction", "always"}) {
            c = connect("readOnlyMode=" + mode);
            c.setReadOnly(true);
            execute("INSERT INTO t VALUES (1)");
            execute("SHOW transaction_read_only");
            attempt("no commit by itself", () -> c.setAutoCommit(false));
            execute("SHOW transaction_read_only");
            execute("INSERT INTO t VALUES (2)");
            attempt("setReadOnly in a transaction", () -> c.setReadOnly(false));
            attempt("roll back", () -> c.rollback());
            attempt("setReadOnly", () -> c.setReadOnly(false));
            execute("INSERT INTO t VALUES (3)");
            attempt("commit", c::commit);
            execute("SELECT count(*) FROM t");
            attempt("isReadOnly", c::isReadOnly);
            attempt("roll back", () -> c.rollback());
        }
    }

    @Test
    void isolation() throws Exception {
        connect();
        for (int level : new int[] {Connection.TRANSACTION_SERIALIZABLE, Connection.TRANSACTION_REPEATABLE_READ, Connection.TRANSACTION_READ_COMMITTED,
            Connection.TRANSACTION_READ_UNCOMMITTED, Connection.TRANSACTION_NONE}) {
            attempt("set " + level, () -> c.setTransactionIsolation(level));
            attempt("is", c::getTransactionIsolation);
            c.setAutoCommit(false);
            execute("SHOW transaction_isolation");
            attempt("set in a transaction", () -> c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE));
            attempt("commit", c::commit);
            c.setAutoCommit(true);
        }
    }

    @Test
    void settingsThatTheDriverWatches() throws Exception {
        connect();
        for (String text : new String[] {"SET DateStyle = 'German'", "SET client_encoding = 'LATIN1'", "SELECT 'still here'"}) {
            execute(text);
        }
        c = connect();
        for (String text : new String[] {"SET application_name = 'other'", "SET TimeZone = 'Asia/Tokyo'", "SELECT now() IS NOT NULL", "SET IntervalStyle = 'iso_8601'",
            "SET standard_conforming_strings = off", "SET search_path = pg_catalog", "BEGIN", "SET TimeZone = 'UTC'", "SET LOCAL application_name = 'inner'", "ROLLBACK",
            "SET standard_conforming_strings = on", "DISCARD ALL", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET default_transaction_read_only = off"}) {
            execute(text);
            reported();
        }
        attempt("client info", () -> c.setClientInfo("ApplicationName", "by client info ü"));
        attempt("client info", () -> c.getClientInfo("ApplicationName"));
        attempt("another", () -> c.setClientInfo("Nothing", "x"));
        execute("SHOW application_name");
        reported();
    }

    @Test
    void roles() throws Exception {
        make("DROP ROLE IF EXISTS jdbc_other", "CREATE ROLE jdbc_other", "CREATE TABLE secret (a int)");
        connect();
        execute("SELECT a FROM secret");
        execute("SET ROLE jdbc_other");
        execute("SELECT current_user, session_user");
        execute("SELECT a FROM secret");
        execute("RESET ROLE");
        execute("SET SESSION AUTHORIZATION jdbc_other");
        reported();
        execute("SELECT current_user, session_user");
        execute("CREATE TABLE mine (a int)");
        execute("RESET SESSION AUTHORIZATION");
        execute("SELECT current_user, session_user");
        reported();
    }

    @Test
    void temporaryThings() throws Exception {
        connect("prepareThreshold=1");
        execute("CREATE TEMP TABLE tt (a int) ON COMMIT PRESERVE ROWS");
        execute("INSERT INTO tt VALUES (1)");
        prepared("SELECT a FROM tt WHERE a = ?", 1);
        execute("CREATE TEMP SEQUENCE ts");
        execute("SELECT nextval('ts'), currval('ts')");
        execute("SELECT lastval()");
        execute("SELECT pg_advisory_lock(1)");
        execute("SELECT pg_advisory_unlock(1), pg_advisory_unlock(1)");
        execute("PREPARE p AS SELECT $1::int");
        execute("EXECUTE p(5)");
        execute("DEALLOCATE p");
        execute("DISCARD TEMP");
        prepared("SELECT a FROM tt WHERE a = ?", 1);
    }

    @Test
    void isClosedAndAsked() throws Exception {
        connect();
        attempt("valid", () -> c.isValid(5));
        c.setAutoCommit(false);
        execute("SELECT 1/0");
        attempt("valid in a failed transaction", () -> c.isValid(5));
        execute("SELECT 1");
        attempt("catalog", c::getCatalog);
        attempt("catalog set", () -> c.setCatalog("postgres"));
        attempt("network timeout", () -> {
            c.setNetworkTimeout(Runnable::run, 3000);
            return c.getNetworkTimeout();
        });
        attempt("close", c::close);
        attempt("valid when closed", () -> c.isValid(5));
        attempt("closed twice", c::close);
        attempt("used after it", () -> c.createStatement());
    }

    @Test
    void errorsSayAllTheySaid() throws Exception {
        make("CREATE DOMAIN small AS int CONSTRAINT is_small CHECK (VALUE < 10)", "CREATE TABLE t (a int NOT NULL CONSTRAINT positive CHECK (a > 0), b small, c int CONSTRAINT one UNIQUE)",
            "CREATE FUNCTION raises(t text) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION USING message = t, detail = 'in detail', hint = 'a hint', errcode = 'ZZ123',"
            + " schema = 's', table = 't', column = 'c', datatype = 'd', constraint = 'k'; END$$",
            "CREATE FUNCTION warns(n int) RETURNS int LANGUAGE plpgsql AS $$BEGIN FOR i IN 1..n LOOP RAISE NOTICE 'notice %', i; RAISE WARNING 'warning %', i; END LOOP; RETURN n; END$$");
        connect();
        for (String text : new String[] {"INSERT INTO t VALUES (NULL)", "INSERT INTO t VALUES (-1)", "INSERT INTO t VALUES (1, 20)", "INSERT INTO t VALUES (1, 1, 1), (1, 1, 1)",
            "SELECT raises('as told')", "SELECT warns(3)", "SELECT nothing FROM t", "SELECT * FRO t", "SELECT 'x'::int", "SELECT nofunction(1)", "DO $$BEGIN PERFORM 1/0; END$$",
            "DROP TABLE IF EXISTS not_there", "SELECT * FROM t FOR UPDATE NOWAIT", "LOCK TABLE t", "VACUUM t", "ROLLBACK", "COMMIT", "BEGIN", "BEGIN", "SAVEPOINT a", "ROLLBACK TO b",
            "ROLLBACK", "SET nosuch = 1", "SHOW nosuch", "SET work_mem = 'x'", "EXECUTE nothing", "FETCH 1 FROM nothing", "CLOSE nothing", "DEALLOCATE nothing"}) {
            execute(text);
            prepared(text);
        }
    }
}
