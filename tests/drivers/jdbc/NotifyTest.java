import java.sql.Connection;
import java.sql.Statement;
import org.junit.jupiter.api.Test;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

/** LISTEN and NOTIFY. The process id of a notification is not told: through a proxy it is the backend's that sent it. */
class NotifyTest extends Told {
    private String heard(int wait) throws Exception {
        PGNotification[] found = c.unwrap(PGConnection.class).getNotifications(wait);
        StringBuilder told = new StringBuilder(found == null ? "null" : "");
        for (int place = 0; found != null && place < found.length; place++) {
            told.append(found[place].getName()).append('=').append(found[place].getParameter()).append("; ");
        }
        return told.toString();
    }

    /** Until as many have been heard. */
    private void hear(String what, int count) {
        attempt(what, () -> {
            StringBuilder all = new StringBuilder();
            long deadline = System.nanoTime() + 20_000_000_000L;
            while (all.chars().filter(letter -> letter == ';').count() < count && System.nanoTime() < deadline) {
                String some = heard(200);
                all.append(some.equals("null") ? "" : some);
            }
            return all;
        });
    }

    private static void by(Connection connection, String text) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute(text);
        }
    }

    @Test
    void itsOwn() throws Exception {
        connect();
        execute("LISTEN a");
        execute("NOTIFY a, 'one'");
        attempt("heard", () -> heard(0));
        execute("SELECT pg_notify('a', 'two'), pg_notify('b', 'unheard')");
        attempt("heard", () -> heard(0));
        attempt("nothing more", () -> heard(50));
        execute("UNLISTEN a");
        execute("NOTIFY a, 'three'");
        attempt("heard", () -> heard(50));
    }

    @Test
    void ofAnother() throws Exception {
        connect();
        Connection other = connect();
        execute("LISTEN a");
        execute("LISTEN \"With Space\"");
        by(other, "NOTIFY a, 'x'");
        by(other, "NOTIFY \"With Space\", 'y'");
        by(other, "NOTIFY a");
        hear("heard", 3);
        execute("UNLISTEN *");
        by(other, "NOTIFY a, 'unheard'");
        attempt("heard", () -> heard(50));
    }

    @Test
    void whileItWaits() throws Exception {
        connect();
        Connection other = connect();
        execute("LISTEN a");
        Thread thread = beside(() -> {
            Thread.sleep(100);
            by(other, "NOTIFY a, 'late'");
        });
        attempt("heard", () -> heard(10_000));
        thread.join();
        Thread endless = beside(() -> {
            Thread.sleep(100);
            by(other, "NOTIFY a, 'later'");
        });
        attempt("without a limit", () -> c.unwrap(PGConnection.class).getNotifications(0).length);
        endless.join();
    }

    @Test
    void inTransactions() throws Exception {
        connect();
        Connection other = connect();
        c.setAutoCommit(false);
        execute("LISTEN a");
        by(other, "NOTIFY a, 'before the commit'");
        attempt("commit", c::commit);
        other.setAutoCommit(false);
        by(other, "NOTIFY a, 'rolled back'");
        other.rollback();
        by(other, "NOTIFY a, 'same'");
        by(other, "NOTIFY a, 'same'");
        by(other, "NOTIFY a, 'other'");
        other.commit();
        hear("heard", 2);
        execute("NOTIFY a, 'own, not yet'");
        attempt("heard", () -> heard(50));
        attempt("commit", c::commit);
        hear("heard", 1);
        execute("LISTEN b");
        attempt("roll back", () -> c.rollback());
        by(other, "NOTIFY b, 'unheard'");
        other.commit();
        attempt("heard", () -> heard(50));
    }

    @Test
    void manyAmongOtherThings() throws Exception {
        connect("prepareThreshold=1");
        Connection other = connect();
        execute("LISTEN a");
        for (int count = 0; count < 300; count++) {
            by(other, "NOTIFY a, '" + count + "'");
            if (count % 10 == 0) {
                prepared("SELECT ?::int", count);
            }
        }
        hear("heard", 300);
        attempt("long", () -> by(other, "NOTIFY a, '" + "x".repeat(7999) + "'"));
        hear("heard", 1);
        attempt("too long", () -> by(other, "NOTIFY a, '" + "x".repeat(8000) + "'"));
    }

    @Test
    void whenTheListenerIsClosed() throws Exception {
        connect();
        execute("LISTEN a");
        c.close();
        c = connect();
        by(connect(), "NOTIFY a, 'for the dead'");
        attempt("heard", () -> heard(50));
        attempt("closed", () -> {
            c.close();
            return heard(10);
        });
    }
}
