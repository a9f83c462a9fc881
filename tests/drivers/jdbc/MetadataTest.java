import java.sql.DatabaseMetaData;
import java.sql.PreparedStatement;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.postgresql.PGResultSetMetaData;

/** What the driver reads from the catalogs. */
class MetadataTest extends Told {
    @BeforeEach
    void schema() throws Exception {
        make("CREATE TYPE mood AS ENUM ('sad', 'glad')", "CREATE TYPE pair AS (x int, y text)", "CREATE DOMAIN whole AS int NOT NULL CHECK (VALUE >= 0)",
            "CREATE TABLE parent (id serial PRIMARY KEY, name varchar(20) NOT NULL DEFAULT 'x', m mood, UNIQUE (name, m))",
            "CREATE TABLE child (a int, b numeric(8,3), p int REFERENCES parent ON DELETE CASCADE, k pair, w whole, arr int[], g int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, b))",
            "CREATE INDEX by_b ON child (b DESC, (a + 1)) WHERE a > 0", "CREATE VIEW seen AS SELECT a, b FROM child", "CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one",
            "COMMENT ON TABLE parent IS 'remark'", "COMMENT ON COLUMN parent.name IS 'its name'", "GRANT SELECT ON parent TO PUBLIC", "GRANT UPDATE (name) ON parent TO PUBLIC",
            "CREATE FUNCTION adds(a int, b int DEFAULT 2, OUT total int) LANGUAGE sql AS 'SELECT a + b'", "CREATE FUNCTION lists(n int) RETURNS TABLE (i int, t text) LANGUAGE sql AS 'SELECT n, n::text'",
            "CREATE PROCEDURE does(INOUT x int) LANGUAGE plpgsql AS 'BEGIN x := x + 1; END'", "CREATE TABLE parted (a int) PARTITION BY RANGE (a)",
            "CREATE TABLE part1 PARTITION OF parted FOR VALUES FROM (0) TO (10)", "CREATE SEQUENCE seq");
    }

    @ParameterizedTest
    @ValueSource(strings = {"prepareThreshold=5", "prepareThreshold=1", "preferQueryMode=simple", "readOnly=true", "databaseMetadataCacheFields=0"})
    void catalogs(String parameter) throws Exception {
        connect(parameter);
        DatabaseMetaData data = c.getMetaData();
        attempt("catalogs", () -> data.getCatalogs());
        attempt("schemas", () -> data.getSchemas(null, "p%"));
        attempt("table types", data::getTableTypes);
        attempt("tables", () -> data.getTables(null, "public", "%", null));
        attempt("some tables", () -> data.getTables(null, "public", "%", new String[] {"TABLE", "PARTITIONED TABLE"}));
        attempt("columns", () -> data.getColumns(null, "public", "%", "%"));
        attempt("column privileges", () -> data.getColumnPrivileges(null, "public", "parent", "%"));
        attempt("table privileges", () -> data.getTablePrivileges(null, "public", "%"));
        attempt("best row", () -> data.getBestRowIdentifier(null, "public", "child", DatabaseMetaData.bestRowSession, true));
        attempt("version columns", () -> data.getVersionColumns(null, "public", "child"));
        attempt("primary keys", () -> data.getPrimaryKeys(null, "public", "child"));
        attempt("imported keys", () -> data.getImportedKeys(null, "public", "child"));
        attempt("exported keys", () -> data.getExportedKeys(null, "public", "parent"));
        attempt("cross reference", () -> data.getCrossReference(null, "public", "parent", null, "public", "child"));
        attempt("indexes", () -> data.getIndexInfo(null, "public", "child", false, false));
        attempt("types", data::getTypeInfo);
        attempt("own types", () -> data.getUDTs(null, "public", "%", null));
        attempt("functions", () -> count(data.getFunctions(null, "public", "%"), "FUNCTION_NAME"));
        attempt("function columns", () -> count(data.getFunctionColumns(null, "public", "%", "%"), "COLUMN_NAME"));
        attempt("procedures", () -> count(data.getProcedures(null, "public", "%"), "PROCEDURE_NAME"));
        attempt("procedure columns", () -> count(data.getProcedureColumns(null, "public", "%", "%"), "COLUMN_NAME"));
        attempt("client info", data::getClientInfoProperties);
        attempt("numbers", () -> data.getDatabaseProductVersion() + " " + data.getMaxColumnNameLength() + " " + data.getMaxIndexLength() + " " + data.getDefaultTransactionIsolation());
        attempt("words", () -> data.getSQLKeywords() + data.getNumericFunctions() + data.getStringFunctions());
        attempt("user", () -> data.getUserName() + " " + data.isReadOnly());
    }

    private static String count(java.sql.ResultSet rows, String column) throws Exception {
        StringBuilder found = new StringBuilder();
        while (rows.next()) {
            found.append(rows.getString(column)).append(' ');
        }
        return found.toString();
    }

    @ParameterizedTest
    @ValueSource(strings = {"prepareThreshold=5", "prepareThreshold=1", "preferQueryMode=extendedCacheEverything"})
    void columnsOfResults(String parameter) throws Exception {
        connect(parameter);
        for (String text : new String[] {"SELECT * FROM child", "SELECT p.name AS n, c.b, c.a + 1 AS sum, 'x' AS word FROM parent p JOIN child c ON c.p = p.id WHERE p.id = ?",
            "INSERT INTO parent (name) VALUES (?) RETURNING *", "UPDATE parent SET name = ?", "SELECT ?::int[], ?::pair, ?::mood"}) {
            try (PreparedStatement statement = c.prepareStatement(text)) {
                attempt(text, () -> PreparedTest.columns(statement.getMetaData()));
                attempt("its tables", () -> {
                    PGResultSetMetaData data = (PGResultSetMetaData) statement.getMetaData();
                    return data == null ? null : data.getBaseTableName(1) + "." + data.getBaseColumnName(1) + " of " + data.getBaseSchemaName(1) + " " + data.getFormat(1);
                });
                attempt("its parameters", () -> PreparedTest.parameters(statement.getParameterMetaData()));
            }
        }
        attempt("no such table", () -> c.prepareStatement("SELECT * FROM nowhere WHERE a = ?").getMetaData());
        attempt("not to be told", () -> PreparedTest.parameters(c.prepareStatement("SELECT ?").getParameterMetaData()));
    }

    @Test
    void objectsOfItsTypes() throws Exception {
        make("INSERT INTO parent (name, m) VALUES ('a', 'glad')", "INSERT INTO child (a, b, p, k, w, arr) VALUES (1, 2.5, 1, (3, 'four'), 5, '{6,NULL,7}')");
        connect("prepareThreshold=1");
        for (int round = 0; round < 7; round++) {
            prepared("SELECT * FROM child WHERE a = ?", 1);
            prepared("SELECT k, (k).x, arr[1], ROW(1, 'a'), ARRAY[k] FROM child");
            prepared("SELECT m, m::text, enum_range(m) FROM parent");
        }
    }
}
