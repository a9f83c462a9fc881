import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.util.ArrayList;
import java.util.List;
import java.util.TimeZone;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.postgresql.util.PGobject;

/** Values of each type, as text and in binary, there and back. */
class TypesTest extends Told {
    private static final String[][] VALUES = {
        {"int2", "0", "-32768", "32767"}, {"int4", "0", "-2147483648", "2147483647"}, {"int8", "9223372036854775807", "-9223372036854775808"},
        {"float4", "0", "1.5", "NaN", "-Infinity", "3.4e38"}, {"float8", "0.1", "1e300", "NaN", "Infinity", "5e-324"},
        {"numeric", "0", "1.10", "-123456789012345678901234567890.123456789", "NaN", "1e-20", "99990000.00010000"}, {"numeric(10,3)", "1.5", "1234567.891"},
        {"money", "12.34", "-5"}, {"bool", "t", "f"}, {"text", "", "plain", "ünïcödé \uD83D\uDE00", "'quoted\"", "back\\slash"}, {"varchar(5)", "abc", "abcde"}, {"char(5)", "ab", ""},
        {"\"char\"", "x"}, {"name", "some_name"}, {"bytea", "\\x", "\\x0001ff5c", "\\x" + "ab".repeat(3000)}, {"date", "2024-02-29", "0044-03-15 BC", "infinity", "4714-11-24 BC", "9999-12-31"},
        {"time", "00:00:00", "23:59:59.999999", "24:00:00"}, {"timetz", "12:00:00+05:30", "01:02:03.4-08"}, {"timestamp", "2024-02-29 12:34:56.789012", "infinity", "-infinity", "0001-01-01 00:00:00"},
        {"timestamptz", "2024-07-01 12:00:00+02", "1969-12-31 23:59:59.999999+00", "infinity", "2024-03-31 01:30:00+00"},
        {"interval", "1 year 2 mons 3 days 04:05:06.789", "-1 day", "00:00:00.000001"}, {"uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}, {"json", "{\"a\": [1, null]}"}, {"jsonb", "{\"b\": {\"c\": 1}}"},
        {"point", "(1.5,-2)"}, {"line", "{1,2,3}"}, {"lseg", "[(0,0),(1,1)]"}, {"box", "(2,2),(0,0)"}, {"path", "((0,0),(1,1))", "[(0,0),(1,2)]"}, {"polygon", "((0,0),(1,1),(1,0))"},
        {"circle", "<(1,1),5>"}, {"inet", "192.168.0.1/24", "::1"}, {"cidr", "10.0.0.0/8"}, {"macaddr", "08:00:2b:01:02:03"}, {"bit(4)", "1010"}, {"varbit", "101"}, {"oid", "4294967295"},
        {"xid", "7"}, {"int4range", "[1,5)", "empty"}, {"tstzrange", "[\"2024-01-01 00:00:00+00\",)"}, {"int4multirange", "{[1,3),[5,9)}"}, {"tsvector", "'a':1 'b':2"}, {"tsquery", "'a' & 'b'"},
        {"int4[]", "{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[2:3]={5,6}"}, {"text[]", "{a,\"b c\",NULL,\"\\\"q\\\"\"}"}, {"float8[]", "{1.5,NaN}"}, {"numeric[]", "{1.10,NULL}"},
        {"timestamptz[]", "{\"2024-01-01 00:00:00+00\"}"}, {"uuid[]", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"}, {"bool[]", "{t,f,NULL}"}, {"bytea[]", "{\"\\\\x01\",NULL}"}, {"regclass", "pg_class"}, {"pg_lsn", "1/2"},
    };

    static Stream<List<String>> ways() {
        List<List<String>> found = new ArrayList<>();
        for (String[] type : VALUES) {
            for (String way : new String[] {"preferQueryMode=simple", "prepareThreshold=0", "prepareThreshold=-1", "prepareThreshold=2", "binaryTransfer=false"}) {
                found.add(List.of(type[0], way));
            }
        }
        return found.stream();
    }

    @ParameterizedTest
    @MethodSource("ways")
    void thereAndBack(List<String> way) throws Exception {
        String type = way.get(0);
        make("CREATE TABLE t (i serial, v " + type + ")");
        connect(way.get(1));
        for (String[] values : VALUES) {
            for (int place = 1; values[0].equals(type) && place < values.length; place++) {
                roundTrip(type, values[place]);
            }
        }
        prepared("SELECT v FROM t ORDER BY i");
        prepared("SELECT count(v) FROM t");
    }

    private void roundTrip(String type, String value) throws Exception {
        try (PreparedStatement insert = c.prepareStatement("INSERT INTO t (v) VALUES (?) RETURNING v, i"); PreparedStatement read = c.prepareStatement("SELECT v, v IS NULL FROM t WHERE i = ?")) {
            PGobject object = new PGobject();
            object.setType(type.replaceAll("\\(.*\\)|\"", ""));
            object.setValue(value);
            attempt("in " + value, () -> {
                insert.setObject(1, object);
                try (ResultSet rows = insert.executeQuery()) {
                    rows.next();
                    read.setInt(1, rows.getInt(2));
                    return rows.getString(1);
                }
            });
            for (int round = 0; round < 3; round++) {
                attempt("out", () -> {
                    try (ResultSet rows = read.executeQuery()) {
                        return rows.next() ? shown(rows.getObject(1)) + " as text " + rows.getString(1) : "nothing";
                    }
                });
                attempt("and in again", () -> {
                    try (ResultSet rows = read.executeQuery(); PreparedStatement again = c.prepareStatement("INSERT INTO t (v) VALUES (?)")) {
                        rows.next();
                        again.setObject(1, rows.getObject(1));
                        return again.executeUpdate();
                    }
                });
            }
        }
    }

    @Test
    void timesInZones() throws Exception {
        TimeZone before = TimeZone.getDefault();
        try {
            for (String zone : new String[] {"UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Apia"}) {
                TimeZone.setDefault(TimeZone.getTimeZone(zone));
                c = connect("prepareThreshold=2");
                execute("SHOW TimeZone");
                for (int round = 0; round < 4; round++) {
                    prepared("SELECT ?::timestamptz AS t, ?::timestamp AS u, ?::date AS d, now() - now() AS i", java.sql.Timestamp.valueOf("2024-03-10 02:30:00"),
                        java.time.LocalDateTime.parse("2024-03-10T02:30:00"), java.time.LocalDate.parse("2024-03-10"));
                    prepared("SELECT ?::timestamptz::text", java.time.OffsetDateTime.parse("2024-03-10T02:30:00+01:00"));
                }
                TimeZone.setDefault(TimeZone.getTimeZone("Europe/Paris"));
                prepared("SELECT ?::timestamptz::text", java.sql.Timestamp.valueOf("2024-07-10 02:30:00"));
                execute("SHOW TimeZone");
            }
        } finally {
            TimeZone.setDefault(before);
        }
    }
}
