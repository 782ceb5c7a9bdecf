//! Metrics as Prometheus sees them: a load whose every number is known, and what `/metrics` makes of it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::cluster::PASSWORD;
use crate::support::process;
use crate::support::scene::{tcp, yaml};
use crate::support::wire::{bind, execute, parse, sync};
use crate::support::{Cluster, PATIENCE, Pooler, Wire, wait_until};

/// An Aether that tells metrics at a port of its own.
struct Told {
    pooler: Pooler,
    port: u16,
    database: String,
}

/// `keys`: of the pool, as in [`yaml`]; `metrics`: more keys of that section, each with a comma in front.
fn start(cluster: &Cluster, name: &str, keys: &str, metrics: &str) -> Told {
    let database = cluster.database(name);
    let port = process::free_port();
    let text = yaml(&tcp(cluster, &database), "", keys)
        + &format!("metrics: {{listen_addr: \"127.0.0.1:{port}\"{metrics}}}\n");
    Told {
        pooler: Pooler::start(&text),
        port,
        database,
    }
}

/// An answer: its status line with the headers, and its body with the chunks put together.
fn ask(stream: &mut (impl Read + Write), request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    if !head.contains("Transfer-Encoding: chunked") {
        return (head.to_owned(), body.to_owned());
    }
    let (mut whole, mut rest) = (String::new(), body);
    loop {
        let (length, after) = rest.split_once("\r\n").expect("a chunk");
        let length = usize::from_str_radix(length, 16).expect("its length");
        if length == 0 {
            assert_eq!(after, "\r\n");
            return (head.to_owned(), whole);
        }
        whole += &after[..length];
        rest = after[length..].strip_prefix("\r\n").expect("its end");
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Asks for a page; `headers`: each with its line end.
fn get(port: u16, path: &str, headers: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    ask(&mut connect(port), &request)
}

/// What `/metrics` says: values by series.
#[derive(Debug)]
struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn of(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            (series.to_owned(), value.parse().expect("a number"))
        });
        Metrics(pairs.collect())
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        let value = self.0.get(series);
        *value.unwrap_or_else(|| panic!("there is no {series} in {self:#?}"))
    }

    fn sum(&self, name: &str) -> f64 {
        let of = |series: &&String| series.split('{').next() == Some(name);
        self.0.keys().filter(of).map(|series| self.0[series]).sum()
    }
}

impl Told {
    fn metrics(&self) -> Metrics {
        let (head, body) = get(self.port, "/metrics", "");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("Content-Type: text/plain; version=0.0.4"),
            "{head}"
        );
        Metrics::of(&body)
    }

    /// A series of this pool, its database filled in.
    #[track_caller]
    fn of_pool(&self, metrics: &Metrics, name: &str, labels: &str) -> f64 {
        metrics.value(&format!("{name}{{database=\"{}\"{labels}}}", self.database))
    }

    fn login(&self) -> Wire {
        Wire::login(self.pooler.port(), "username", PASSWORD, &self.database)
    }
}

/// Every number of this load is known, so every number of the answer is.
#[test]
fn a_load_is_told_to_the_last_query() {
    let told = start(
        Cluster::shared(),
        "metrics_load",
        "  mode: transaction\n  max_connections: 3\n",
        "",
    );
    let mut clients: Vec<Wire> = (0..4).map(|_| told.login()).collect();
    for client in &mut clients {
        for n in 0..5 {
            assert_eq!(client.value(&format!("SELECT {n}")), Some(n.to_string()));
        }
        client.run("BEGIN");
        client.run("SELECT 1");
        client.run("COMMIT");
        client.send(
            &[
                parse("", "SELECT 1"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ]
            .concat(),
        );
        client.read_until(b'Z');
    }
    let wrong = [("user", "username"), ("database", told.database.as_str())];
    Wire::try_login(told.pooler.port(), &wrong, "wrong")
        .err()
        .expect("a wrong password");
    let nowhere = [("user", "username"), ("database", "nowhere")];
    Wire::try_login(told.pooler.port(), &nowhere, PASSWORD)
        .err()
        .expect("no such database");
    clients.drain(..2).for_each(Wire::terminate);
    drop(clients.pop()); // and one stays
    wait_until("three have gone", || {
        let metrics = told.metrics();
        metrics.value("aether_clients") == 1.0
    });
    let metrics = told.metrics();
    let of = |name: &str, labels: &str| told.of_pool(&metrics, name, labels);
    assert_eq!(of("aether_pool_queries_total", ""), 4.0 * 9.0);
    assert_eq!(of("aether_pool_transactions_total", ""), 4.0 * 7.0);
    assert_eq!(of("aether_pool_logins_total", ""), 4.0);
    assert_eq!(of("aether_pool_assignments_total", ""), 4.0 * 7.0);
    // One after the other, they need one server.
    assert_eq!(of("aether_pool_server_connects_total", ""), 1.0);
    assert_eq!(of("aether_pool_connect_duration_seconds_count", ""), 1.0);
    assert_eq!(
        of("aether_pool_query_duration_seconds_count", ""),
        4.0 * 9.0
    );
    assert_eq!(
        of("aether_pool_transaction_duration_seconds_count", ""),
        4.0 * 7.0
    );
    assert_eq!(
        of("aether_pool_query_duration_seconds_bucket", ",le=\"+Inf\""),
        4.0 * 9.0
    );
    assert!(of("aether_pool_query_duration_seconds_sum", "") > 0.0);
    assert_eq!(of("aether_pool_clients", ",state=\"idle\""), 1.0);
    assert_eq!(of("aether_pool_clients", ",state=\"active\""), 0.0);
    assert_eq!(
        of("aether_pool_servers", ",user=\"username\",state=\"idle\""),
        1.0
    );
    assert_eq!(of("aether_pool_servers_max", ""), 3.0);
    assert_eq!(of("aether_pool_oldest_wait_seconds", ""), 0.0);
    assert_eq!(of("aether_pool_up", ""), 1.0);
    assert_eq!(metrics.sum("aether_pool_server_closes_total"), 0.0);
    assert_eq!(
        metrics.sum("aether_pool_server_connect_failures_total"),
        0.0
    );
    assert_eq!(metrics.value("aether_clients_accepted_total"), 6.0);
    let login = |outcome: &str| {
        metrics.value(&format!(
            "aether_logins_total{{method=\"scram-sha-256\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((login("ok"), login("failed")), (5.0, 1.0));
    assert_eq!(metrics.sum("aether_logins_total"), 6.0);
    assert_eq!(metrics.value("aether_login_duration_seconds_count"), 5.0);
    let closed = |reason: &str, code: &str| {
        metrics.value(&format!(
            "aether_client_closes_total{{reason=\"{reason}\",sqlstate=\"{code}\"}}"
        ))
    };
    assert_eq!(closed("terminate", ""), 2.0);
    assert_eq!(closed("disconnect", ""), 1.0);
    assert_eq!(closed("refused", "28P01"), 1.0);
    assert_eq!(closed("refused", "3D000"), 1.0);
    assert_eq!(metrics.sum("aether_client_closes_total"), 5.0);
    // As the console counts.
    let mut console = Wire::login(told.pooler.port(), "username", PASSWORD, "aether");
    let stats = crate::support::scene::show(&mut console, "STATS");
    let row = stats
        .iter()
        .find(|row| row["database"] == told.database)
        .expect("its row");
    for (column, name) in [
        ("total_xact_count", "aether_pool_transactions_total"),
        ("total_query_count", "aether_pool_queries_total"),
        ("total_received", "aether_pool_received_bytes_total"),
        ("total_sent", "aether_pool_sent_bytes_total"),
    ] {
        assert_eq!(row[column], of(name, "").to_string(), "{name}");
    }
}

/// Why servers end, and that they cannot be reached.
#[test]
fn the_ends_of_servers_are_told_by_reason_and_readiness_knows_of_them() {
    let cluster = Cluster::start();
    cluster.database("metrics_ends");
    let told = start(&cluster, "metrics_ends", "  mode: transaction\n", "");
    assert_eq!(get(told.port, "/readyz", "").1, "ready\n");
    let mut client = told.login();
    client.run("SELECT 1");
    cluster.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'metrics_ends'",
    );
    let closed = |reason: &str| {
        let labels = format!(",reason=\"{reason}\"");
        told.of_pool(&told.metrics(), "aether_pool_server_closes_total", &labels)
    };
    wait_until("the end of the server is told", || {
        closed("server_error") == 1.0
    });
    cluster.stop(crate::support::Stop::Fast);
    client.send(&crate::support::wire::message(b'Q', b"SELECT 1\0"));
    wait_until("the failed connection is told", || {
        let labels = ",reason=\"unreachable\"";
        let name = "aether_pool_server_connect_failures_total";
        told.of_pool(&told.metrics(), name, labels) >= 1.0
    });
    assert_eq!(told.of_pool(&told.metrics(), "aether_pool_up", ""), 0.0);
    let (head, body) = get(told.port, "/readyz", "");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(body, "databases that cannot be reached: metrics_ends\n");
    assert_eq!(get(told.port, "/healthz", "").1, "ok\n");
}

#[test]
fn a_token_is_asked_for_and_bad_requests_are_refused() {
    let socket = std::env::temp_dir().join(format!("aether-metrics-{}", std::process::id()));
    let keys = format!(
        ", bearer_token: s3cret, unix_socket: \"{}\"",
        socket.display()
    );
    let told = start(Cluster::shared(), "metrics_token", "", &keys);
    let status = |headers: &str| get(told.port, "/metrics", headers).0;
    assert!(status("").starts_with("HTTP/1.1 401 "));
    assert!(status("").contains("WWW-Authenticate: Bearer"));
    assert!(status("Authorization: Bearer s3creT\r\n").starts_with("HTTP/1.1 401 "));
    assert!(status("Authorization: Bearer s3cret\r\n").starts_with("HTTP/1.1 200 "));
    assert!(
        get(told.port, "/healthz", "")
            .0
            .starts_with("HTTP/1.1 200 "),
        "it says nothing secret"
    );
    assert!(
        get(told.port, "/nothing", "")
            .0
            .starts_with("HTTP/1.1 404 ")
    );
    let refused = |request: &str| ask(&mut connect(told.port), request).0;
    assert!(refused("POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(refused("GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(refused("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(9_000));
    assert!(refused(&long).starts_with("HTTP/1.1 431 "));
    let mut unix = UnixStream::connect(&socket).expect("the socket");
    let request = "GET /metrics HTTP/1.0\r\nAuthorization: Bearer s3cret\r\n\r\n";
    let (head, body) = ask(&mut unix, request);
    assert!(
        head.starts_with("HTTP/1.1 200 ") && !head.contains("chunked"),
        "{head}"
    );
    assert!(Metrics::of(&body).value("aether_clients_max") > 0.0);
    // Two requests over one connection, the second sent ahead.
    let one = "GET /healthz HTTP/1.1\r\nHost: x\r\n";
    let two = format!("{one}\r\n{one}Connection: close\r\n\r\n");
    let (_, body) = ask(&mut connect(told.port), &two);
    assert!(
        body.starts_with("ok\nHTTP/1.1 200 OK") && body.ends_with("\r\n\r\nok\n"),
        "{body}"
    );
    drop(told);
    assert!(!socket.exists(), "it is removed at the end");
}

/// Whoever asks and does not read, or says nothing, neither holds up others nor keeps them out.
#[test]
fn slow_askers_are_bounded() {
    let told = start(Cluster::shared(), "metrics_slow", "", "");
    let before = told.pooler.rss_kb();
    let mut slow: Vec<TcpStream> = (0..100).map(|_| connect(told.port)).collect();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(60);
    for (n, stream) in slow.iter_mut().enumerate() {
        if n % 2 == 0 {
            let _ = stream.write_all(request.as_bytes());
        }
    }
    for _ in 0..5 {
        assert!(told.metrics().value("aether_clients_max") > 0.0);
    }
    let mut client = told.login();
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    let grown = told.pooler.rss_kb().saturating_sub(before);
    assert!(grown < 20_000, "{grown} kB");
    drop(slow);
}

/// A request must be whole after half a minute: who says nothing, or half of one, does not stay for ever.
#[test]
fn who_does_not_ask_is_let_go() {
    let told = start(Cluster::shared(), "metrics_silent", "", "");
    let silent = connect(told.port);
    let mut halfway = connect(told.port);
    halfway.write_all(b"GET /metrics HT").expect("it is sent");
    for mut stream in [silent, halfway] {
        let patience = Duration::from_secs(90);
        stream.set_read_timeout(Some(patience)).expect("a timeout");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("it is closed");
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}

/// Those who come while the loop is busy are told of once, however many they are. Found by this file's tests on a crowded machine: of more
/// than 32 the others were left standing until somebody else came.
#[test]
fn all_who_come_at_once_are_served() {
    use nix::sys::signal::Signal;
    let told = start(Cluster::shared(), "metrics_at_once", "", "");
    assert!(told.metrics().value("aether_clients_max") > 0.0);
    told.pooler.signal(Signal::SIGSTOP);
    let crowd: Vec<TcpStream> = (0..100).map(|_| connect(told.port)).collect();
    let mut last = connect(told.port);
    let request = "GET /metrics HTTP/1.0\r\n\r\n";
    last.write_all(request.as_bytes()).expect("it is sent");
    told.pooler.signal(Signal::SIGCONT);
    let mut text = String::new();
    last.read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("aether_clients_max"));
    drop(crowd);
}

/// What Debian's `promtool` finds fault with.
fn promtool(text: &str) -> String {
    assert!(
        Path::new("/usr/bin/promtool").exists(),
        "prometheus is not installed: `make test` installs it"
    );
    let mut child = Command::new("/usr/bin/promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("its end");
    let said = [output.stdout, output.stderr].concat();
    format!("{}{}", output.status, String::from_utf8_lossy(&said))
}

#[test]
fn promtool_finds_no_fault_and_open_metrics_is_given_to_who_asks() {
    let told = start(
        Cluster::shared(),
        "metrics_format",
        "  mode: transaction\n",
        "",
    );
    let mut client = told.login();
    client.run("SELECT 1");
    let (_, text) = get(told.port, "/metrics", "");
    assert_eq!(promtool(&text), "exit status: 0");
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3\r\n";
    let (head, open) = get(told.port, "/metrics", accept);
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE aether_pool_queries counter\n"));
    assert!(open.contains("# UNIT aether_pool_wait_duration_seconds seconds\n"));
    let (plain, open) = (Metrics::of(&text), Metrics::of(&open));
    let names = |metrics: &Metrics| metrics.0.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&plain), names(&open));
}

/// A real Prometheus scrapes it, in the format that it negotiates.
#[test]
fn prometheus_scrapes_it() {
    let told = start(
        Cluster::shared(),
        "metrics_prometheus",
        "",
        ", bearer_token: s3cret",
    );
    let mut client = told.login();
    (0..7).for_each(|_| drop(client.run("SELECT 1")));
    let place = process::Place::new("prometheus");
    let config = place.write(
        "prometheus.yml",
        &format!(
            "scrape_configs: [{{job_name: aether, scrape_interval: 1s, authorization: {{credentials: s3cret}}, \
             static_configs: [{{targets: ['127.0.0.1:{}']}}]}}]\n",
            told.port
        ),
    );
    let port = process::free_port();
    let mut command = process::command(Path::new("/usr/bin/prometheus"));
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            place.path().join("data").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .current_dir(place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = process::spawn(command).expect("prometheus");
    let query = format!(
        "/api/v1/query?query=aether_pool_queries_total%7Bdatabase%3D%22{}%22%7D",
        told.database
    );
    let mut said = String::new();
    let found = crate::support::wait_for(3 * PATIENCE, || {
        std::thread::sleep(Duration::from_millis(200));
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!("GET {query} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it is sent");
        said.clear();
        let _ = stream.read_to_string(&mut said);
        said.contains("\"7\"]")
    });
    let _ = child.kill();
    let _ = child.wait();
    assert!(found, "{said}");
}

/// A command of Prometheus' own finds no fault, and the alerts fire when they should.
#[test]
fn promtool_takes_the_alerts_and_yaml_the_dashboard() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
    ] {
        let output = Command::new("/usr/bin/promtool")
            .args(arguments)
            .current_dir(folder.join("prometheus"))
            .output()
            .expect("promtool: `make test` installs it");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
    let text = std::fs::read_to_string(folder.join("grafana/aether.json")).expect("it is there");
    let dashboard: serde_yaml::Value = serde_yaml::from_str(&text).expect("JSON");
    assert!(dashboard["panels"].as_sequence().expect("panels").len() > 20);
}

/// The status page in a real browser: it reads the metrics and shows them. `AETHER_SCREENSHOT=FILE` keeps a picture of it.
#[test]
fn the_status_page_works_in_a_browser() {
    let told = start(
        Cluster::shared(),
        "metrics_page",
        "  mode: transaction\n  max_connections: 8\n",
        "",
    );
    let (head, page) = get(told.port, "/", "");
    assert!(
        head.contains("Content-Security-Policy: default-src 'none'"),
        "{head}"
    );
    assert!(page.ends_with("</html>\n"));
    let (port, database) = (told.pooler.port(), told.database.clone());
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let working: Vec<_> = (0..6)
        .map(|n| {
            let (over, database) = (over.clone(), database.clone());
            std::thread::spawn(move || {
                let mut client = Wire::login(port, "username", PASSWORD, &database);
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    client.run(&format!("SELECT pg_sleep(0.0{n})"));
                }
            })
        })
        .collect();
    let place = process::Place::new("browser");
    let browse = |arguments: &[String]| {
        assert!(
            Path::new("/usr/bin/chromium").exists(),
            "chromium is not installed: `make test` installs it"
        );
        let mut command = process::command(Path::new("/usr/bin/timeout"));
        command
            .args([
                "120",
                "/usr/bin/chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--window-size=1280,860",
            ])
            .arg(format!("--user-data-dir={}", place.path().display()))
            .env("HOME", place.path())
            .args(arguments)
            .arg(format!("http://127.0.0.1:{}/", told.port))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let output = command.output().expect("chromium");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let dom = browse(&[
        "--virtual-time-budget=9000".to_owned(),
        "--dump-dom".to_owned(),
    ]);
    if let Some(file) = std::env::var_os("AETHER_SCREENSHOT") {
        let shot = place.path().join("status.png");
        browse(&[
            "--virtual-time-budget=60000".to_owned(),
            format!("--screenshot={}", shot.display()),
        ]);
        std::fs::copy(shot, file).expect("a picture");
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    working
        .into_iter()
        .for_each(|of| of.join().expect("a client"));
    assert!(
        dom.contains(&format!("<td>{database}</td><td>yes</td>")),
        "{dom}"
    );
    assert!(dom.contains(">live</span>"), "{dom}");
    assert!(dom.contains("<meter min=\"0\" max=\"8\""), "{dom}");
    let points = dom.split("points=\"").nth(1).expect("a line is drawn");
    assert!(
        points.split('"').next().expect("points").split(' ').count() >= 3,
        "{dom}"
    );
}

#[test]
fn metrics_are_told_over_tls() {
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let file = |name: &str| {
        let place = process::Place::new("metrics-tls");
        let text = std::fs::read_to_string(certificates.join(name)).expect("it is there");
        (place.write(name, &text), place)
    };
    let ((cert, _keep), (key, _keep_too)) = (file("server.crt"), file("server.key"));
    let keys = format!(
        ", tls: {{cert_file: \"{}\", key_file: \"{}\"}}",
        cert.display(),
        key.display()
    );
    let told = start(Cluster::shared(), "metrics_tls", "", &keys);
    let curl = |scheme: &str, more: &[&str]| {
        let output = Command::new("/usr/bin/curl")
            .args(["-sS", "--max-time", "20", "--cacert"])
            .arg(certificates.join("root.crt"))
            .args(more)
            .arg(format!("{scheme}://127.0.0.1:{}/metrics", told.port))
            .output()
            .expect("curl");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    for more in [&["-k"][..], &["-k", "--http1.1"], &["-k", "--no-alpn"]] {
        let (fine, said) = curl("https", more);
        assert!(fine && said.contains("aether_pool_up"), "{more:?}: {said}");
    }
    let (fine, said) = curl("http", &[]);
    assert!(!fine && !said.contains("aether_"), "{said}");
    let series = "side=\"client\",database=\"\",subject=";
    assert!(
        !curl("https", &["-k"]).1.contains(series),
        "that is the clients' TLS"
    );
}

/// A collector for one push after the other: the bodies that it got, and what it answers.
struct Collector {
    listener: std::net::TcpListener,
}

impl Collector {
    fn new() -> Collector {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        Collector { listener }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("its address").port()
    }

    /// Takes a push: its head, and its body with the chunks put together.
    fn take(&self, answer: &str) -> (String, String) {
        let (mut stream, _) = self.listener.accept().expect("somebody pushes");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (mut bytes, mut piece) = (Vec::new(), [0; 65_536]);
        while !bytes.ends_with(b"\r\n0\r\n\r\n") {
            let count = stream.read(&mut piece).expect("the push");
            assert!(
                count > 0,
                "it ends early: {}",
                String::from_utf8_lossy(&bytes)
            );
            bytes.extend_from_slice(&piece[..count]);
        }
        stream.write_all(answer.as_bytes()).expect("it is read");
        let text = String::from_utf8(bytes).expect("text");
        let (head, mut rest) = text.split_once("\r\n\r\n").expect("a head");
        let mut body = String::new();
        loop {
            let (length, after) = rest.split_once("\r\n").expect("a chunk");
            let length = usize::from_str_radix(length, 16).expect("its length");
            if length == 0 {
                return (head.to_owned(), body);
            }
            body += &after[..length];
            rest = &after[length + 2..];
        }
    }
}

const TAKEN: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// The metrics of a push by name.
fn pushed(body: &str) -> BTreeMap<String, serde_yaml::Value> {
    let whole: serde_yaml::Value = serde_yaml::from_str(body).expect("JSON");
    let scope = &whole["resourceMetrics"][0]["scopeMetrics"][0];
    assert_eq!(scope["scope"]["name"].as_str(), Some("aether"));
    let metrics = scope["metrics"].as_sequence().expect("metrics").iter();
    metrics
        .map(|of| (of["name"].as_str().expect("a name").to_owned(), of.clone()))
        .collect()
}

/// The points of a metric, by their attributes in one line.
fn points(metric: &serde_yaml::Value, kind: &str) -> BTreeMap<String, serde_yaml::Value> {
    let points = metric[kind]["dataPoints"]
        .as_sequence()
        .expect("points")
        .iter();
    let attributes = |point: &serde_yaml::Value| {
        let pairs = point["attributes"]
            .as_sequence()
            .expect("attributes")
            .iter();
        let pair = |of: &serde_yaml::Value| {
            let (key, value) = (of["key"].as_str(), of["value"]["stringValue"].as_str());
            format!("{}={}", key.expect("a key"), value.expect("a text"))
        };
        pairs.map(pair).collect::<Vec<_>>().join(",")
    };
    points
        .map(|point| (attributes(point), point.clone()))
        .collect()
}

/// A collector gets what Prometheus would, and is left alone for a while after it has refused a push.
#[test]
fn a_collector_is_pushed_the_same_metrics() {
    let collector = Collector::new();
    let keys = format!(
        ", otlp_endpoint: \"http://localhost:{}\", otlp_interval: 1s, otlp_headers: {{x-key: s3cret}}, \
         otlp_resource: {{deployment.environment.name: test}}",
        collector.port()
    );
    let told = start(
        Cluster::shared(),
        "metrics_otlp",
        "  mode: transaction\n",
        &keys,
    );
    let mut client = told.login();
    (0..5).for_each(|_| drop(client.run("SELECT 1")));
    collector.take("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    told.pooler
        .wait_for_log("it answered 503; the next attempt is in 1s");
    let (head, body) = collector.take(TAKEN);
    assert!(head.starts_with("POST /v1/metrics HTTP/1.1\r\n"), "{head}");
    assert!(head.ends_with("\r\nx-key: s3cret") && head.contains("Content-Type: application/json"));
    assert!(body.contains(
        "{\"key\":\"deployment.environment.name\",\"value\":{\"stringValue\":\"test\"}}"
    ));
    assert!(body.contains("{\"key\":\"service.name\",\"value\":{\"stringValue\":\"aether\"}}"));
    told.pooler.wait_for_log("takes them again");
    let metrics = pushed(&body);
    let database = format!("database={}", told.database);
    let queries = points(&metrics["aether_pool_queries"], "sum");
    assert_eq!(queries[&database]["asInt"].as_str(), Some("5"));
    assert_eq!(
        metrics["aether_pool_queries"]["sum"]["aggregationTemporality"].as_u64(),
        Some(2)
    );
    assert_eq!(
        metrics["aether_pool_queries"]["sum"]["isMonotonic"].as_bool(),
        Some(true)
    );
    let times = points(&metrics["aether_pool_query_duration_seconds"], "histogram");
    let times = &times[&database];
    assert_eq!(times["count"].as_str(), Some("5"));
    let counts = times["bucketCounts"].as_sequence().expect("counts");
    let bounds = times["explicitBounds"].as_sequence().expect("bounds");
    assert_eq!(counts.len(), bounds.len() + 1);
    let number = |of: &serde_yaml::Value| {
        of.as_str()
            .expect("a text")
            .parse::<u64>()
            .expect("a number")
    };
    assert_eq!(counts.iter().map(number).sum::<u64>(), 5);
    let servers = points(&metrics["aether_pool_servers"], "gauge");
    let idle = format!("{database},user=username,state=idle");
    assert_eq!(servers[&idle]["asInt"].as_str(), Some("1"));
    // Every name that a scrape has and that has a value.
    let (_, text) = get(
        told.port,
        "/metrics",
        "Accept: application/openmetrics-text\r\n",
    );
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().expect("a name");
        let has_values = text.lines().any(|line| line.starts_with(name));
        assert!(
            !has_values || metrics.contains_key(name) || name == "aether_otlp_pushes",
            "{name}"
        );
    }
    collector.take(TAKEN);
    wait_until("pushes are counted", || {
        let metrics = told.metrics();
        metrics.value("aether_otlp_pushes_total{outcome=\"failed\"}") == 1.0
            && metrics.value("aether_otlp_pushes_total{outcome=\"ok\"}") >= 2.0
    });
}

/// SHOW QUERIES: what only differs in its values is counted together, in all three protocols, and no value is shown.
#[test]
fn the_statements_that_take_the_time_are_shown_without_their_values() {
    let told = start(
        Cluster::shared(),
        "metrics_queries",
        "  mode: transaction\n",
        ", query_fingerprints: 100",
    );
    let mut client = told.login();
    for n in 0..10 {
        client.run(&format!("SELECT 's3cret', {n}::int"));
        client.send(
            &[
                parse("", &format!("select  'x', {n}::int")),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ]
            .concat(),
        );
        client.read_until(b'Z');
    }
    client.send(&[parse("named", "SELECT $1::int + 1"), sync()].concat());
    client.read_until(b'Z');
    for n in 0..7 {
        client.send(&[bind("", "named", &[&n.to_string()]), execute("", 0), sync()].concat());
        client.read_until(b'Z');
    }
    client.run("SELECT pg_sleep(0.3)");
    let mut console = Wire::login(told.pooler.port(), "username", PASSWORD, "aether");
    let rows = crate::support::scene::show(&mut console, "QUERIES");
    let calls = |text: &str| {
        let row = rows.iter().find(|row| row["query"] == text);
        row.unwrap_or_else(|| panic!("{text} is not in {rows:?}"))["calls"].clone()
    };
    assert_eq!(rows[0]["query"], "select pg_sleep(?)", "{rows:?}");
    assert!(rows[0]["total_time"].parse::<u64>().expect("a number") >= 300_000);
    assert_eq!(calls("select ?, ...::int"), "20");
    assert_eq!(
        calls("select ?::int + ?"),
        "8",
        "once prepared, seven times bound"
    );
    assert!(rows.iter().all(|row| row["database"] == told.database));
    assert!(!format!("{rows:?}").contains("s3cret"));
    // With none kept, nothing is.
    let yaml = std::fs::read_to_string(told.pooler.config_path()).expect("its configuration");
    told.pooler
        .rewrite_config(&yaml.replace("query_fingerprints: 100", "query_fingerprints: 0"));
    told.pooler.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until("they are forgotten", || {
        crate::support::scene::show(&mut console, "QUERIES").is_empty()
    });
}

/// Named statements are counted where Aether follows them.
#[test]
fn prepared_statements_are_counted() {
    let told = start(
        Cluster::shared(),
        "metrics_statements",
        "  mode: transaction\n  max_connections: 1\n  max_prepared_statements: 2\n",
        "",
    );
    let mut client = told.login();
    for n in 0..3 {
        client.send(&[parse(&format!("s{n}"), &format!("SELECT {n}")), sync()].concat());
        client.read_until(b'Z');
    }
    for _ in 0..5 {
        client.send(&[bind("", "s2", &[]), execute("", 0), sync()].concat());
        client.read_until(b'Z');
    }
    let metrics = told.metrics();
    let of = |name: &str, labels: &str| told.of_pool(&metrics, name, labels);
    assert_eq!(
        of("aether_pool_statement_parses_total", ",side=\"client\""),
        3.0
    );
    assert_eq!(
        of("aether_pool_statement_parses_total", ",side=\"server\""),
        3.0
    );
    assert_eq!(of("aether_pool_statement_binds_total", ""), 5.0);
    assert_eq!(of("aether_pool_statement_evictions_total", ""), 1.0);
}

/// What a scrape of a thousand pools takes, in CPU time of Aether's, and what a client sees of it that works meanwhile. With
/// `--nocapture` it prints the figures that docs/metrics.md has; `AETHER_BIN` names a release build.
#[test]
fn a_scrape_of_a_thousand_pools_costs_little() {
    let cluster = Cluster::shared();
    let database = cluster.database("metrics_cost");
    let port = process::free_port();
    let dsn = tcp(cluster, &database);
    let pools: String = (0..999)
        .map(|n| format!("  pool_{n:03}: {{dsn: \"{dsn}\"}}\n"))
        .collect();
    let text = format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nadmin: {{users: [username]}}\n\
         pool:\n  dsn: \"{dsn}\"\n  mode: transaction\ndatabases:\n{pools}\
         metrics: {{listen_addr: \"127.0.0.1:{port}\"}}\n"
    );
    let told = Told {
        pooler: Pooler::start(&text),
        port,
        database,
    };
    let cpu = || told.metrics().value("process_cpu_seconds_total");
    let lines = get(port, "/metrics", "").1.lines().count();
    assert!(lines > 100_000, "{lines}");
    let (scrapes, before) = (20, cpu());
    for _ in 0..scrapes {
        get(port, "/metrics", "");
    }
    let each = (cpu() - before) / f64::from(scrapes + 1);
    println!(
        "a scrape of 1,000 pools, {lines} lines: {:.1} ms of CPU time",
        each * 1e3
    );
    let most = if std::env::var_os("AETHER_BIN").is_some() {
        0.010
    } else {
        0.150
    };
    assert!(each <= most, "{each} s");
    let seconds = crate::support::scale("AETHER_COST_SECONDS", 3) as u64;
    let work = || {
        let mut client = told.login();
        let begin = std::time::Instant::now();
        let mut times = Vec::new();
        while begin.elapsed() < Duration::from_secs(seconds) {
            let asked = std::time::Instant::now();
            client.run("SELECT 1");
            times.push(asked.elapsed());
        }
        client.terminate();
        times.sort_unstable();
        (times.len(), times[times.len() * 99 / 100])
    };
    let (count, p99) = work();
    println!("a client without scrapes: {count} queries in {seconds} s, p99 {p99:?}");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                get(port, "/metrics", "");
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        let (count, p99) = work();
        println!("with a scrape each second: {count} queries in {seconds} s, p99 {p99:?}");
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Over TLS, to a collector whose certificate is held against a root of its own: a stub of Python's.
#[test]
fn a_collector_is_pushed_to_over_tls() {
    const STUB: &str = "import socket, ssl, sys\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
        context.load_cert_chain(sys.argv[1], sys.argv[2])\n\
        listener = socket.create_server(('127.0.0.1', int(sys.argv[3])))\n\
        while True:\n\
        \x20   plain, _ = listener.accept()\n\
        \x20   try:\n\
        \x20       peer = context.wrap_socket(plain, server_side=True)\n\
        \x20       got = b''\n\
        \x20       while not got.endswith(b'\\r\\n0\\r\\n\\r\\n'):\n\
        \x20           piece = peer.recv(65536)\n\
        \x20           if not piece: break\n\
        \x20           got += piece\n\
        \x20       peer.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n')\n\
        \x20       print('got', len(got), b'aether_pool_queries' in got, flush=True)\n\
        \x20       peer.close()\n\
        \x20   except OSError as error:\n\
        \x20       print('failed', error, flush=True)\n";
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let place = process::Place::new("collector");
    let copy = |name: &str| {
        let text = std::fs::read_to_string(certificates.join(name)).expect("it is there");
        place.write(name, &text)
    };
    let (port, stub) = (process::free_port(), place.write("stub.py", STUB));
    let said = place.path().join("said");
    let mut command = process::command(Path::new("/usr/bin/python3"));
    let output = std::fs::File::create(&said).expect("its output");
    command
        .arg(stub)
        .arg(copy("server.crt"))
        .arg(copy("server.key"));
    command.arg(port.to_string()).stdout(output);
    let mut child = process::spawn(command).expect("python3");
    wait_until("the stub listens", || process::listening(port));
    let root = copy("root.crt");
    let keys = |ca: &str| {
        format!(
            ", otlp_endpoint: \"https://localhost:{port}\", otlp_interval: 1s, otlp_ca_file: \"{ca}\""
        )
    };
    let told = start(
        Cluster::shared(),
        "metrics_otlps",
        "",
        &keys(&root.display().to_string()),
    );
    let got = || std::fs::read_to_string(&said).unwrap_or_default();
    wait_until("two pushes have come", || {
        got()
            .lines()
            .filter(|line| line.starts_with("got ") && line.ends_with(" True"))
            .count()
            >= 2
    });
    assert!(
        told.metrics()
            .value("aether_otlp_pushes_total{outcome=\"ok\"}")
            >= 1.0
    );
    assert!(
        !told.pooler.log_contains("cannot be pushed"),
        "{}",
        told.pooler.log()
    );
    // A root that its certificate does not come from.
    let stranger = copy("stranger.crt").display().to_string();
    let other = start(
        Cluster::shared(),
        "metrics_otlps_other",
        "",
        &keys(&stranger),
    );
    other
        .pooler
        .wait_for_log("nothing leads from it to one of our roots");
    let _ = child.kill();
    let _ = child.wait();
}
