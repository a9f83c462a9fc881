import static org.junit.jupiter.api.Assertions.assertEquals;

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.nio.ByteBuffer;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.postgresql.PGConnection;
import org.postgresql.PGProperty;
import org.postgresql.replication.PGReplicationStream;

/** HikariCP, as applications use the driver; many connections at once; and the driver's replication streams. */
class PoolTest extends Told {
    private static HikariConfig config(int size) {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url("prepareThreshold=2"));
        config.setUsername(System.getenv("PGUSER"));
        config.setPassword(System.getenv("PGPASSWORD"));
        config.setMaximumPoolSize(size);
        return config;
    }

    @Test
    void isGivenBackClean() throws Exception {
        make("CREATE TABLE t (a int)");
        try (HikariDataSource pool = new HikariDataSource(config(1))) {
            for (int round = 0; round < 5; round++) {
                try (Connection one = pool.getConnection()) {
                    c = one;
                    attempt("as it is", () -> one.getAutoCommit() + " " + one.isReadOnly() + " " + one.getTransactionIsolation() + " " + one.getSchema());
                    one.setAutoCommit(false);
                    one.setReadOnly(round % 2 == 0);
                    one.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
                    one.setSchema(round == 3 ? "pg_catalog" : "public");
                    execute("INSERT INTO public.t VALUES (1)");
                    c = null;
                }
            }
            c = pool.getConnection();
            execute("SELECT count(*) FROM t");
            c.close();
            c = null;
        }
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void manyAtOnce(boolean serializable) throws Exception {
        make("CREATE TABLE t (id int PRIMARY KEY, n int)", "INSERT INTO t SELECT g, 0 FROM generate_series(0, 9) g");
        ExecutorService threads = Executors.newFixedThreadPool(8);
        try (HikariDataSource pool = new HikariDataSource(config(8))) {
            List<Callable<Integer>> work = new ArrayList<>();
            for (int thread = 0; thread < 8; thread++) {
                work.add(() -> {
                    for (int round = 0; round < 100; round++) {
                        increment(pool, round % 10, serializable);
                    }
                    return 100;
                });
            }
            for (Future<Integer> done : threads.invokeAll(work)) {
                assertEquals(100, done.get());
            }
            c = pool.getConnection();
            execute("SELECT sum(n), min(n), max(n) FROM t");
            c.close();
            c = null;
        } finally {
            threads.shutdown();
        }
    }

    /** Reads, and writes one more, again while somebody else was first; then sees what it wrote. */
    private static void increment(HikariDataSource pool, int id, boolean serializable) throws Exception {
        while (true) {
            try (Connection one = pool.getConnection()) {
                one.setAutoCommit(false);
                one.setTransactionIsolation(serializable ? Connection.TRANSACTION_SERIALIZABLE : Connection.TRANSACTION_READ_COMMITTED);
                try (PreparedStatement read = one.prepareStatement("SELECT n FROM t WHERE id = ?" + (serializable ? "" : " FOR UPDATE"));
                     PreparedStatement write = one.prepareStatement("UPDATE t SET n = ? WHERE id = ?")) {
                    read.setInt(1, id);
                    ResultSet rows = read.executeQuery();
                    rows.next();
                    int next = rows.getInt(1) + 1;
                    write.setInt(1, next);
                    write.setInt(2, id);
                    write.executeUpdate();
                    one.commit();
                    one.setAutoCommit(true);
                    rows = read.executeQuery();
                    rows.next();
                    assertEquals(true, rows.getInt(1) >= next, "does not see its own write");
                    return;
                } catch (java.sql.SQLException error) {
                    if (!"40001".equals(error.getSQLState())) {
                        throw error;
                    }
                    one.rollback();
                }
            }
        }
    }

    private Connection replicating() throws Exception {
        Properties properties = properties();
        PGProperty.REPLICATION.set(properties, "database");
        PGProperty.PREFER_QUERY_MODE.set(properties, "simple");
        PGProperty.ASSUME_MIN_SERVER_VERSION.set(properties, "9.4");
        return java.sql.DriverManager.getConnection(url(), properties);
    }

    @Test
    void logicalStream() throws Exception {
        make("CREATE TABLE t (a int)", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'jdbc_slot'");
        try (Connection connection = replicating()) {
            PGConnection replication = connection.unwrap(PGConnection.class);
            replication.getReplicationAPI().createReplicationSlot().logical().withSlotName("jdbc_slot").withOutputPlugin("test_decoding").make();
            make("INSERT INTO t VALUES (1), (2)", "UPDATE t SET a = 3 WHERE a = 1");
            PGReplicationStream stream = replication.getReplicationAPI().replicationStream().logical().withSlotName("jdbc_slot")
                .withSlotOption("include-xids", false).withSlotOption("skip-empty-xacts", true).start();
            for (int count = 0; count < 7;) {
                ByteBuffer next = stream.read();
                byte[] bytes = new byte[next.remaining()];
                next.get(bytes);
                tell(new String(bytes));
                stream.setAppliedLSN(stream.getLastReceiveLSN());
                stream.setFlushedLSN(stream.getLastReceiveLSN());
                count++;
            }
            stream.forceUpdateStatus();
            stream.close();
            c = connection;
            execute("SELECT 1 AS still_here");
            c = null;
            replication.getReplicationAPI().dropReplicationSlot("jdbc_slot");
        }
    }
}
