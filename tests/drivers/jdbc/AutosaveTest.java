import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** A statement that a session has prepared, something that spoils it, and what comes after, by every way that the driver has to make good. */
class AutosaveTest extends Told {
    private static final String[] SPOILERS = {
        "SELECT 1/0", "NOT SQL", "INSERT INTO kept VALUES (1, 'twice')", "ALTER TABLE kept ALTER v TYPE char(9)", "ALTER TABLE kept ADD more int DEFAULT 7",
        "DEALLOCATE ALL", "DISCARD ALL", "SET search_path = other", "DROP TABLE kept", "SELECT set_config('search_path', 'other', false)", "ROLLBACK", "COMMIT",
    };

    static Stream<List<String>> ways() {
        List<List<String>> found = new ArrayList<>();
        for (String save : new String[] {"never", "always", "conservative"}) {
            for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
                for (String threshold : new String[] {"1", "-1", "5"}) {
                    for (String committing : new String[] {"auto", "manual"}) {
                        for (String spoiler : SPOILERS) {
                            if (!mode.equals("simple") || threshold.equals("5")) {
                                found.add(List.of(save, mode, threshold, committing, spoiler));
                            }
                        }
                    }
                }
            }
        }
        return found.stream();
    }

    @ParameterizedTest
    @MethodSource("ways")
    void goesOn(List<String> way) throws Exception {
        make("CREATE TABLE kept (id int PRIMARY KEY, v text)", "INSERT INTO kept VALUES (1, 'one'), (2, 'two')", "CREATE SCHEMA IF NOT EXISTS other",
            "CREATE TABLE IF NOT EXISTS other.kept (id bigint, v text, w text)", "TRUNCATE other.kept", "INSERT INTO other.kept VALUES (1, 'eins', 'un')");
        Connection connection = connect("autosave=" + way.get(0), "preferQueryMode=" + way.get(1), "prepareThreshold=" + way.get(2),
            "cleanupSavepoints=" + way.get(2).equals("1"));
        connection.setAutoCommit(way.get(3).equals("auto"));
        String text = "SELECT * FROM kept WHERE id >= ? ORDER BY id";
        try (PreparedStatement statement = connection.prepareStatement(text); Statement other = connection.createStatement()) {
            attempt("before", () -> once(statement, 1));
            attempt("before, again", () -> once(statement, 2));
            attempt("spoil", () -> everything(other, other.execute(way.get(4))));
            attempt("after", () -> once(statement, 1));
            attempt("after, again", () -> once(statement, 1));
            prepared("INSERT INTO kept (id, v) VALUES (?, ?)", 3, "three");
            prepared(text, 0);
            if (!connection.getAutoCommit()) {
                attempt("commit", connection::commit);
                attempt("after the commit", () -> once(statement, 1));
                attempt("roll back", () -> connection.rollback());
            }
            attempt("at the end", () -> once(statement, 0));
        }
    }
}
