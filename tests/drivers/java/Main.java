// pgjdbc: with its defaults, with prepareThreshold=1, and with autosave=conservative; batches, fetch sizes, COPY, cancel.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.util.PGobject;
import org.postgresql.util.PSQLException;

public class Main {
    static final String HOST = env("HOST"), PORT = env("PORT"), USER = env("USER"), PASSWORD = env("PASSWORD"), DATABASE = env("DATABASE");
    static final int SERVERS = Integer.parseInt(env("SERVERS"));
    // What a client may rely on: its session's state, transactions of several statements.
    static final boolean SESSION = env("MODE").equals("session"), BLOCKS = !env("MODE").equals("statement");
    // Clients of the checks with many of them, and how long one of those goes on until it has met enough servers.
    static final int CLIENTS = 17, ROUNDS = 40, MOST_ROUNDS = 600, MEGABYTE = 1024 * 1024;
    static final String REFUSED = "transaction blocks not allowed in statement pooling mode";
    static final String INSERT = "INSERT INTO jdbc_things (owner, n, note) VALUES (?, ?, ?)";

    static final Set<Integer> backends = new HashSet<>();
    static int statementOn = 0;

    // ---- a line per check, for scripts/drivers to count ----------------------------------------------------------------

    static String env(String name) {
        return Objects.requireNonNull(System.getenv("DRIVERS_" + name), name);
    }

    interface Body {
        void run() throws Exception;
    }

    static final ExecutorService threads = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        return thread;
    });

    /** Runs one check to its end, a minute at most. */
    static void check(String name, Body body) {
        System.err.println("running " + name);
        long begin = System.nanoTime();
        try {
            together(List.of(() -> {
                body.run();
                return null;
            }));
            System.out.printf("ok %s (%.2f s)%n", name, (System.nanoTime() - begin) / 1e9);
        } catch (Throwable error) {
            error.printStackTrace();
            System.out.println("not ok " + name + ": " + String.valueOf(error).replaceAll("\\s+", " "));
        }
    }

    /** Runs all tasks in threads of their own; the first failure is thrown. */
    static <T> List<T> together(List<Callable<T>> tasks) throws Exception {
        List<Future<T>> futures = new ArrayList<>();
        for (Callable<T> task : tasks) futures.add(threads.submit(task));
        List<T> results = new ArrayList<>();
        for (Future<T> future : futures) {
            try {
                results.add(future.get(60, TimeUnit.SECONDS));
            } catch (ExecutionException failed) {
                if (failed.getCause() instanceof Exception) throw (Exception) failed.getCause();
                throw new RuntimeException(failed.getCause());
            }
        }
        return results;
    }

    static void same(Object expected, Object found) {
        if (!Objects.deepEquals(expected, found)) {
            throw new AssertionError("expected " + shown(expected) + ", found " + shown(found));
        }
    }

    static String shown(Object value) {
        String text = value instanceof Object[] ? Arrays.deepToString((Object[]) value) : String.valueOf(value);
        return text.substring(0, Math.min(200, text.length()));
    }

    static SQLException fails(Body body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            return error;
        }
        throw new AssertionError("no error was raised");
    }

    /** Takes down the servers that ran one prepared statement of one client, and holds the mode to its promise. */
    static synchronized void saw(Set<Integer> pids) {
        statementOn = Math.max(statementOn, pids.size());
        backends.addAll(pids);
        same(true, SESSION ? pids.size() == 1 : pids.size() >= 3);
    }

    static boolean goesOn(int rounds, Set<Integer> pids) {
        return rounds < ROUNDS || (!SESSION && pids.size() < 3 && rounds < MOST_ROUNDS);
    }

    // ---- connections ---------------------------------------------------------------------------------------------------

    static Connection connect(String... more) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", USER);
        properties.setProperty("password", PASSWORD);
        String database = DATABASE;
        for (int i = 0; i < more.length; i += 2) {
            if (more[i].equals("database")) database = more[i + 1];
            else properties.setProperty(more[i], more[i + 1]);
        }
        return DriverManager.getConnection("jdbc:postgresql://" + HOST + ":" + PORT + "/" + database, properties);
    }

    interface Work {
        void on(List<Connection> connections) throws Exception;
    }

    static void several(int count, String[] more, Work work) throws Exception {
        List<Connection> all = new ArrayList<>();
        try {
            for (int i = 0; i < count; i++) all.add(connect(more));
            work.on(all);
        } finally {
            for (Connection connection : all) connection.close();
        }
    }

    static void execute(Connection conn, String sql) throws SQLException {
        try (Statement statement = conn.createStatement()) {
            statement.execute(sql);
        }
    }

    /** The first row of a query, as objects. */
    static List<Object> one(Connection conn, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = conn.prepareStatement(sql)) {
            return one(statement, values);
        }
    }

    static List<Object> one(PreparedStatement statement, Object... values) throws SQLException {
        for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
        try (ResultSet rows = statement.executeQuery()) {
            same(true, rows.next());
            List<Object> row = new ArrayList<>();
            for (int i = 1; i <= rows.getMetaData().getColumnCount(); i++) row.add(rows.getObject(i));
            return row;
        }
    }

    static long count(Connection conn, String owner) throws SQLException {
        return (Long) one(conn, "SELECT count(*) FROM jdbc_things WHERE owner = ?", owner).get(0);
    }

    static int insert(Connection conn, String owner, int n) throws SQLException {
        try (PreparedStatement statement = conn.prepareStatement(INSERT)) {
            statement.setString(1, owner);
            statement.setInt(2, n);
            statement.setString(3, owner.repeat(20));
            return statement.executeUpdate();
        }
    }

    // ---- checks --------------------------------------------------------------------------------------------------------

    public static void main(String[] args) {
        check("connects by SCRAM, and makes its tables", () -> {
            try (Connection conn = connect()) {
                same(List.of(USER, DATABASE), one(conn, "SELECT current_user::text, current_database()::text"));
                if (SESSION) same(((PGConnection) conn).getBackendPID(), one(conn, "SELECT pg_backend_pid()").get(0));
                same(true, conn.isValid(5));
                execute(conn, "DROP TABLE IF EXISTS jdbc_things; DROP TABLE IF EXISTS jdbc_copies");
                execute(conn, "CREATE TABLE jdbc_things (id serial PRIMARY KEY, owner text NOT NULL, n int, note text, UNIQUE (owner, n))");
                execute(conn, "CREATE TABLE jdbc_copies (n int, note text)");
            }
        });
        check("a wrong password is 28P01, an unknown database 3D000", () -> {
            same("28P01", fails(() -> connect("password", "wrong")).getSQLState());
            same("3D000", fails(() -> connect("database", "nowhere")).getSQLState());
        });
        check("the catalogues, as tools ask for them", () -> {
            try (Connection conn = connect()) {
                DatabaseMetaData data = conn.getMetaData();
                same("PostgreSQL", data.getDatabaseProductName());
                Set<String> columns = new HashSet<>();
                try (ResultSet rows = data.getColumns(null, "public", "jdbc_things", null)) {
                    while (rows.next()) columns.add(rows.getString("COLUMN_NAME"));
                }
                same(Set.of("id", "owner", "n", "note"), columns);
            }
        });
        for (String[] how : new String[][] {{}, {"prepareThreshold", "1"}, {"preferQueryMode", "simple"}}) values(how);
        if (BLOCKS) {
            transactions();
        } else {
            check("a transaction block is refused", () -> {
                try (Connection conn = connect()) {
                    conn.setAutoCommit(false);
                    same(true, fails(() -> one(conn, "SELECT 1")).getMessage().contains(REFUSED));
                }
            });
        }
        String console = System.getenv("DRIVERS_CONSOLE");
        if (console != null) {
            for (String[] how : new String[][] {{}, {"prepareThreshold", "1"}, {"preferQueryMode", "simple"}}) console(console, how);
        }
        statements();
        batches();
        copies();
        errors();
        many();
        if (SESSION) sessions();
        check("a clean close", () -> {
            Connection conn = connect();
            one(conn, "SELECT 1");
            conn.close();
            same("08003", fails(() -> one(conn, "SELECT 1")).getSQLState());
        });
        System.out.printf("servers %d %d%n", backends.size(), statementOn);
        System.out.println("done");
    }

    /** A value must come back as it went, from the first execution and once it is prepared on the server. */
    static void comesBack(String[] how, String type, Class<?> as, Object... values) throws Exception {
        try (Connection conn = connect(how); PreparedStatement statement = conn.prepareStatement("SELECT CAST(? AS " + type + "), CAST(? AS text)")) {
            for (int turn = 0; turn < 7; turn++) {
                for (Object value : values) {
                    statement.setObject(1, value);
                    statement.setNull(2, Types.VARCHAR);
                    try (ResultSet rows = statement.executeQuery()) {
                        same(true, rows.next());
                        same(value, as == byte[].class ? rows.getBytes(1) : rows.getObject(1, as));
                        same(null, rows.getString(2));
                    }
                }
            }
        }
    }

    static void values(String[] how) {
        String label = how.length == 0 ? "defaults" : how[0] + "=" + how[1];
        byte[] bytes = new byte[5120];
        for (int i = 0; i < bytes.length; i++) bytes[i] = (byte) i;
        check(label + ": integer", () -> comesBack(how, "int4", Integer.class, 0, 1, -1, Integer.MAX_VALUE));
        check(label + ": bigint", () -> comesBack(how, "int8", Long.class, Long.MAX_VALUE, -5L));
        check(label + ": boolean", () -> comesBack(how, "bool", Boolean.class, true, false));
        check(label + ": text", () -> comesBack(how, "text", String.class, "", "it's \\ \"quoted\" $1 %s ${x}; --", "Grüße, 世界 🐘\n\t"));
        check(label + ": float", () -> comesBack(how, "float8", Double.class, 0.1, -1e308, 5e-324, Double.POSITIVE_INFINITY));
        check(label + ": numeric", () -> comesBack(how, "numeric", BigDecimal.class,
            new BigDecimal("12345678901234567890.123456789012345678"), new BigDecimal("-0.000001")));
        check(label + ": timestamptz", () -> comesBack(how, "timestamptz", OffsetDateTime.class,
            OffsetDateTime.of(2024, 2, 29, 23, 59, 59, 999999000, ZoneOffset.UTC), OffsetDateTime.of(1969, 7, 20, 20, 17, 40, 0, ZoneOffset.UTC)));
        check(label + ": date", () -> comesBack(how, "date", LocalDate.class, LocalDate.of(1999, 12, 31)));
        // This driver can't write a bytea into a simple query.
        boolean binary = !label.contains("simple");
        if (binary) check(label + ": bytea", () -> comesBack(how, "bytea", byte[].class, bytes, new byte[0]));
        check(label + ": uuid", () -> comesBack(how, "uuid", UUID.class, UUID.fromString("12345678-1234-5678-1234-567812345678")));
        check(label + ": arrays and jsonb", () -> {
            try (Connection conn = connect(how); PreparedStatement statement = conn.prepareStatement("SELECT ?::int4[], ?::text[], ?::jsonb")) {
                Integer[] ints = {1, null, -3};
                String[] texts = {"q\"u,o{t}e\\", null, "NULL"};
                PGobject document = new PGobject();
                document.setType("jsonb");
                document.setValue("{\"a\": [1, 2.5, null, true], \"ü\": {\"nested\": \"it's\"}}");
                for (int turn = 0; turn < 7; turn++) {
                    statement.setArray(1, conn.createArrayOf("int4", ints));
                    statement.setArray(2, conn.createArrayOf("text", texts));
                    statement.setObject(3, document);
                    try (ResultSet rows = statement.executeQuery()) {
                        same(true, rows.next());
                        Array[] arrays = {rows.getArray(1), rows.getArray(2)};
                        same(ints, arrays[0].getArray());
                        same(texts, arrays[1].getArray());
                        same(document.getValue(), rows.getString(3));
                    }
                }
            }
        });
        check(label + ": a row of 1 MB each way", () -> {
            byte[] raw = new byte[MEGABYTE];
            Arrays.fill(raw, (byte) 7);
            comesBack(how, "text", String.class, "ü".repeat(MEGABYTE / 2));
            if (binary) comesBack(how, "bytea", byte[].class, raw);
        });
    }

    static void transactions() {
        check("commit, rollback, and what another connection sees", () -> {
            try (Connection conn = connect(); Connection other = connect()) {
                conn.setAutoCommit(false);
                insert(conn, "commit", 1);
                same(0L, count(other, "commit"));
                conn.commit();
                same(1L, count(other, "commit"));
                insert(conn, "rollback", 1);
                conn.rollback();
                same(0L, count(conn, "rollback"));
                conn.commit();
            }
        });
        check("an error inside a transaction, and after it", () -> {
            try (Connection conn = connect()) {
                // The driver sets this for the session.
                if (SESSION) conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
                conn.setAutoCommit(false);
                same("22012", fails(() -> one(conn, "SELECT 1 / ?::int", 0)).getSQLState());
                same("25P02", fails(() -> one(conn, "SELECT 1")).getSQLState());
                conn.rollback();
                same(List.of(1), one(conn, "SELECT 1"));
                conn.rollback();
            }
        });
        check("savepoints", () -> {
            try (Connection conn = connect()) {
                conn.setAutoCommit(false);
                insert(conn, "save", 1);
                Savepoint savepoint = conn.setSavepoint();
                same("23505", fails(() -> insert(conn, "save", 1)).getSQLState());
                conn.rollback(savepoint);
                insert(conn, "save", 2);
                conn.commit();
                same(2L, count(conn, "save"));
                conn.rollback();
            }
        });
        check("read only, by the driver's own BEGIN", () -> {
            try (Connection conn = connect()) {
                conn.setReadOnly(true);
                conn.setAutoCommit(false);
                same("25006", fails(() -> insert(conn, "read only", 1)).getSQLState());
                conn.rollback();
            }
        });
        check("a fetch size: portals with row limits, two at a time", () -> {
            try (Connection conn = connect("defaultRowFetchSize", "70")) {
                conn.setAutoCommit(false);
                String sql = "SELECT i * ? FROM generate_series(1, 1000) i";
                try (PreparedStatement first = conn.prepareStatement(sql); PreparedStatement second = conn.prepareStatement(sql)) {
                    first.setInt(1, 1);
                    second.setInt(1, -1);
                    int sum = 0, other = 0;
                    try (ResultSet one = first.executeQuery(); ResultSet two = second.executeQuery()) {
                        while (one.next() && two.next()) {
                            sum += one.getInt(1);
                            other += two.getInt(1);
                        }
                    }
                    same(List.of(500500, -500500), List.of(sum, other));
                    // Left half read and closed.
                    try (ResultSet rows = first.executeQuery()) {
                        same(true, rows.next());
                    }
                }
                conn.commit();
                same(List.of(1), one(conn, "SELECT 1"));
                conn.commit();
            }
        });
        check("autosave=conservative: a statement whose result type changes, within a transaction", () -> {
            try (Connection conn = connect("autosave", "conservative", "prepareThreshold", "1"); Connection other = connect()) {
                execute(other, "DROP TABLE IF EXISTS jdbc_changing; CREATE TABLE jdbc_changing AS SELECT 1 AS n");
                conn.setAutoCommit(false);
                try (PreparedStatement statement = conn.prepareStatement("SELECT * FROM jdbc_changing")) {
                    for (int i = 0; i < 3; i++) same(List.of(1), one(statement));
                    conn.commit();
                    execute(other, "ALTER TABLE jdbc_changing ADD COLUMN note text DEFAULT 'new'");
                    insert(conn, "autosave", 1);
                    same(List.of(1, "new"), one(statement));
                    conn.commit();
                }
                same(1L, count(conn, "autosave"));
                conn.commit();
            }
        });
        check("autosave=always: the transaction goes on after an error", () -> {
            try (Connection conn = connect("autosave", "always")) {
                conn.setAutoCommit(false);
                insert(conn, "always", 1);
                same("23505", fails(() -> insert(conn, "always", 1)).getSQLState());
                insert(conn, "always", 2);
                conn.commit();
                same(2L, count(conn, "always"));
                conn.commit();
            }
        });
        check("one prepared statement goes from server to server", () -> {
            Set<Integer> pids = new HashSet<>();
            try (Connection mine = connect("prepareThreshold", "1");
                PreparedStatement statement = mine.prepareStatement("SELECT pg_backend_pid() + 0 * ?::int")) {
                several(4, new String[] {}, holders -> {
                    for (Connection conn : holders) {
                        conn.setAutoCommit(false);
                        one(conn, "SELECT 1");
                    }
                    for (Connection conn : holders) {
                        // In transaction mode all servers are held but the one that this rollback lets go.
                        conn.rollback();
                        pids.add((Integer) one(statement, 1).get(0));
                        one(conn, "SELECT 1");
                    }
                });
            }
            saw(pids);
        });
    }

    static void statements() {
        for (String threshold : List.of("5", "1")) {
            check("prepareThreshold=" + threshold + ": statements over interleaved connections", () -> {
                several(4, new String[] {"prepareThreshold", threshold}, conns -> {
                    for (int i = 0; i < 300; i++) {
                        // Closed each time: the driver finds it in its cache again.
                        same(List.of(i + 1, "t" + i), one(conns.get(i % 4), "SELECT ?::int + 1, ?::text", i, "t" + i));
                    }
                });
            });
        }
        check("more statements than the driver and the pooler keep", () -> {
            try (Connection conn = connect("prepareThreshold", "1")) {
                for (int turn = 0; turn < 2; turn++) {
                    for (int i = 0; i < 300; i++) same(List.of(i, turn), one(conn, "SELECT " + i + ", ?::int", turn));
                }
            }
        });
        check("a statement whose Parse failed", () -> {
            try (Connection conn = connect("prepareThreshold", "1")) {
                for (int i = 0; i < 3; i++) {
                    same("42P01", fails(() -> one(conn, "SELECT ?::int FROM jdbc_nowhere", 1)).getSQLState());
                    same(List.of(7), one(conn, "SELECT ?::int", 7));
                }
            }
        });
        check("DISCARD ALL and DEALLOCATE ALL by the driver's own hand", () -> {
            try (Connection conn = connect("prepareThreshold", "1")) {
                for (int i = 0; i < 4; i++) {
                    same(List.of(i), one(conn, "SELECT ?::int", i));
                    execute(conn, i % 2 == 0 ? "DISCARD ALL" : "DEALLOCATE ALL");
                }
            }
        });
        check("parameters whose types change from one execution to the next", () -> {
            try (Connection conn = connect("prepareThreshold", "1"); PreparedStatement statement = conn.prepareStatement("SELECT ?")) {
                for (int i = 0; i < 20; i++) {
                    same(List.of(i), one(statement, i));
                    same(List.of((long) i), one(statement, (long) i));
                    same(List.of("t" + i), one(statement, "t" + i));
                }
            }
        });
        check("many rows", () -> {
            try (Connection conn = connect();
                PreparedStatement statement = conn.prepareStatement("SELECT i, repeat('x', i % 50) FROM generate_series(1, ?) i")) {
                statement.setInt(1, 50_000);
                int n = 0;
                try (ResultSet rows = statement.executeQuery()) {
                    while (rows.next()) {
                        n++;
                        same(n, rows.getInt(1));
                        same(n % 50, rows.getString(2).length());
                    }
                }
                same(50_000, n);
            }
        });
        check("several statements in one string, several results", () -> {
            try (Connection conn = connect(); Statement statement = conn.createStatement()) {
                same(true, statement.execute("SELECT 1; INSERT INTO jdbc_things (owner) VALUES ('several'), ('several'); SELECT 2"));
                same(false, statement.getMoreResults());
                same(2, statement.getUpdateCount());
                same(true, statement.getMoreResults());
                same(false, statement.getMoreResults());
            }
        });
        check("generated keys", () -> {
            try (Connection conn = connect(); PreparedStatement statement = conn.prepareStatement(INSERT, Statement.RETURN_GENERATED_KEYS)) {
                statement.setString(1, "keys");
                statement.setInt(2, 1);
                statement.setNull(3, Types.VARCHAR);
                statement.executeUpdate();
                try (ResultSet keys = statement.getGeneratedKeys()) {
                    same(true, keys.next() && keys.getInt("id") > 0);
                }
            }
        });
    }

    static int[] batch(Connection conn, String owner, int count) throws SQLException {
        try (PreparedStatement statement = conn.prepareStatement(INSERT)) {
            for (int i = 0; i < count; i++) {
                statement.setString(1, owner);
                statement.setInt(2, i);
                statement.setString(3, "x".repeat(i % 300));
                statement.addBatch();
            }
            return statement.executeBatch();
        }
    }

    static void batches() {
        for (String[] how : new String[][] {{}, {"prepareThreshold", "1"}, {"reWriteBatchedInserts", "true"}}) {
            String label = how.length == 0 ? "defaults" : how[0] + "=" + how[1];
            check(label + ": a batch of 2000 rows", () -> {
                try (Connection conn = connect(how)) {
                    same(2000, batch(conn, "batch " + label, 2000).length);
                    same(2000L, count(conn, "batch " + label));
                }
            });
            check(label + ": a batch that fails, and after it", () -> {
                try (Connection conn = connect(how)) {
                    insert(conn, "bad " + label, 7);
                    SQLException error = fails(() -> batch(conn, "bad " + label, 10));
                    same(true, error instanceof BatchUpdateException);
                    same("23505", error.getSQLState());
                    // Of one batch all or nothing is done, as the driver sends one Sync behind it.
                    same(1L, count(conn, "bad " + label));
                }
            });
        }
        check("a batch of different statements", () -> {
            try (Connection conn = connect(); Statement statement = conn.createStatement()) {
                for (int i = 0; i < 50; i++) statement.addBatch("INSERT INTO jdbc_things (owner, n) VALUES ('mixed', " + i + ")");
                statement.addBatch("DELETE FROM jdbc_things WHERE owner = 'mixed' AND n < 20");
                int[] counts = statement.executeBatch();
                same(20, counts[50]);
                same(30L, count(conn, "mixed"));
            }
        });
    }

    static void copies() {
        check("COPY both ways", () -> {
            try (Connection conn = connect()) {
                StringBuilder text = new StringBuilder();
                for (int i = 0; i < 50_000; i++) text.append(i).append("\tnote ").append(i).append("\\n\n");
                byte[] bytes = text.toString().getBytes(StandardCharsets.UTF_8);
                PGConnection pg = (PGConnection) conn;
                same(50_000L, pg.getCopyAPI().copyIn("COPY jdbc_copies FROM STDIN", new ByteArrayInputStream(bytes)));
                ByteArrayOutputStream out = new ByteArrayOutputStream();
                pg.getCopyAPI().copyOut("COPY (SELECT * FROM jdbc_copies ORDER BY n) TO STDOUT", out);
                same(bytes, out.toByteArray());
            }
        });
        check("a COPY that the server refuses, and one whose source fails", () -> {
            try (Connection conn = connect()) {
                execute(conn, "TRUNCATE jdbc_copies");
                PGConnection pg = (PGConnection) conn;
                byte[] bad = ("1\nthree\n" + "4\n".repeat(100_000)).getBytes(StandardCharsets.UTF_8);
                same("22P02", fails(() -> pg.getCopyAPI().copyIn("COPY jdbc_copies (n) FROM STDIN", new ByteArrayInputStream(bad))).getSQLState());
                InputStream broken = new InputStream() {
                    @Override
                    public int read() throws java.io.IOException {
                        throw new java.io.IOException("enough");
                    }
                };
                try {
                    pg.getCopyAPI().copyIn("COPY jdbc_copies (n) FROM STDIN", broken);
                    throw new AssertionError("no error was raised");
                } catch (java.io.IOException expected) {
                    same("enough", expected.getMessage());
                }
                same(List.of(0L), one(conn, "SELECT count(*) FROM jdbc_copies"));
            }
        });
    }

    static void errors() {
        check("errors carry SQLSTATE and fields", () -> {
            try (Connection conn = connect()) {
                insert(conn, "unique", 1);
                PSQLException error = (PSQLException) fails(() -> insert(conn, "unique", 1));
                same("23505", error.getSQLState());
                same("jdbc_things_owner_n_key", error.getServerErrorMessage().getConstraint());
                same("42601", fails(() -> execute(conn, "SELEKT 1")).getSQLState());
                error = (PSQLException) fails(() -> execute(conn, "DO $$ BEGIN RAISE 'Ünique' USING ERRCODE = 'AE123', HINT = 'a hint'; END $$"));
                same(List.of("AE123", "a hint", "Ünique"),
                    List.of(error.getSQLState(), error.getServerErrorMessage().getHint(), error.getServerErrorMessage().getMessage()));
                same(1L, count(conn, "unique"));
            }
        });
        check("notices are warnings", () -> {
            try (Connection conn = connect(); Statement statement = conn.createStatement()) {
                statement.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$");
                same("one", statement.getWarnings().getMessage());
                same("two", statement.getWarnings().getNextWarning().getMessage());
            }
        });
        check("cancel from another thread", () -> {
            try (Connection conn = connect(); Connection other = connect(); Statement statement = conn.createStatement()) {
                String active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT ''jdbc cancel%' AND wait_event = 'PgSleep'";
                together(List.of(
                    () -> {
                        same("57014", fails(() -> statement.execute("SELECT 'jdbc cancel', pg_sleep(30)")).getSQLState());
                        return null;
                    },
                    () -> {
                        while (one(other, active).equals(List.of(0L))) Thread.sleep(20);
                        statement.cancel();
                        return null;
                    }));
                same(List.of(1), one(conn, "SELECT 1"));
            }
        });
        check("a query timeout, which the driver cancels", () -> {
            try (Connection conn = connect(); Statement statement = conn.createStatement()) {
                statement.setQueryTimeout(1);
                same("57014", fails(() -> statement.execute("SELECT pg_sleep(30)")).getSQLState());
                same(List.of(1), one(conn, "SELECT 1"));
            }
        });
        check("a startup setting is the session's default", () -> {
            try (Connection conn = connect("options", "-c statement_timeout=300ms", "ApplicationName", "jdbc's")) {
                same(List.of("300ms"), one(conn, "SHOW statement_timeout"));
                same(List.of("jdbc's"), one(conn, "SHOW application_name"));
                same("57014", fails(() -> execute(conn, "SELECT pg_sleep(30)")).getSQLState());
            }
        });
    }

    /** One of the many clients: returns the servers that ran its tagged statement. */
    static Set<Integer> tagged(int i) throws Exception {
        String me = "client " + i;
        Set<Integer> pids = new HashSet<>();
        try (Connection conn = connect("prepareThreshold", i % 2 == 0 ? "1" : "5");
            PreparedStatement statement = conn.prepareStatement("SELECT ?::text, ?::int, pg_backend_pid() FROM pg_sleep(?)")) {
            for (int n = 0; goesOn(n, pids); n++) {
                List<Object> row = one(statement, me, n, Math.random() / 500);
                same(List.of(me, n), row.subList(0, 2));
                pids.add((Integer) row.get(2));
                same(1, insert(conn, me, n));
                if (n % 10 == 0 && BLOCKS) {
                    conn.setAutoCommit(false);
                    same(List.of(n + 1L), one(conn, "SELECT count(*) FROM jdbc_things WHERE owner = ? AND note = ?", me, me.repeat(20)));
                    conn.commit();
                    conn.setAutoCommit(true);
                }
            }
        }
        return pids;
    }

    static void many() {
        check("many clients, each sees its own rows only", () -> {
            List<Callable<Set<Integer>>> tasks = new ArrayList<>();
            for (int i = 0; i < CLIENTS; i++) {
                int client = i;
                tasks.add(() -> tagged(client));
            }
            for (Set<Integer> pids : together(tasks)) saw(pids);
        });
        check("connections that come and go", () -> {
            List<Callable<Void>> tasks = new ArrayList<>();
            for (int i = 0; i < 8; i++) {
                int client = i;
                tasks.add(() -> {
                    for (int k = 0; k < 10; k++) {
                        try (Connection conn = connect()) {
                            same(List.of(client, k), one(conn, "SELECT ?::int, ?::int", client, k));
                        }
                    }
                    return null;
                });
            }
            together(tasks);
        });
    }

    /** The console, in the ways in which pgjdbc may ask: unnamed, named, in the simple protocol. */
    static void console(String database, String[] how) {
        check("the console " + Arrays.toString(how), () -> {
            List<String> more = new ArrayList<>(List.of("database", database));
            more.addAll(Arrays.asList(how));
            try (Connection conn = connect(more.toArray(new String[0]))) {
                try (Statement statement = conn.createStatement(); ResultSet rows = statement.executeQuery("SHOW POOLS")) {
                    same("database", rows.getMetaData().getColumnName(1));
                    Set<String> names = new HashSet<>();
                    while (rows.next()) names.add(rows.getString("database"));
                    same(true, names.contains("pgbouncer"));
                }
                for (int i = 0; i < 7; i++) {
                    List<Object> row = one(conn, "SHOW DATABASES WHERE name = ? AND paused = ? LIMIT ?", DATABASE, 0, 1);
                    same(DATABASE, row.get(0));
                    same(0, row.get(15));
                }
                for (String command : new String[] {"RECONNECT ", "ENABLE "}) execute(conn, command + DATABASE);
                same("3D000", fails(() -> execute(conn, "PAUSE nowhere")).getSQLState());
                same("42703", fails(() -> one(conn, "SHOW POOLS WHERE databse = ?", "x")).getSQLState());
                same("yes", one(conn, "SHOW STATE WHERE key = ?", "active").get(1));
            }
        });
    }

    static void sessions() {
        check("SET, temporary tables, LISTEN last as long as the session", () -> {
            try (Connection conn = connect(); Connection other = connect()) {
                execute(conn, "CREATE TEMP TABLE jdbc_temp AS SELECT 42 AS n");
                execute(conn, "LISTEN jdbc_news");
                conn.setSchema("pg_catalog");
                same("pg_catalog", conn.getSchema());
                same(List.of(42), one(conn, "SELECT n FROM jdbc_temp"));
                execute(other, "NOTIFY jdbc_news, 'hello'");
                PGNotification[] notes = ((PGConnection) conn).getNotifications(20_000);
                same(1, notes.length);
                same("hello", notes[0].getParameter());
                same(((PGConnection) other).getBackendPID(), notes[0].getPID());
            }
            // As many as there are servers, so that the one with the search_path is among them.
            several(SERVERS, new String[] {}, conns -> {
                for (Connection conn : conns) same(List.of("\"$user\", public"), one(conn, "SHOW search_path"));
            });
        });
    }
}
