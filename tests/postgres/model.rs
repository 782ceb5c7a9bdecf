//! The simulation's model PostgreSQL (`tests/simulation/session.rs`) against the real one: the same exchanges to both, drawn as the
//! simulation draws those of its clients, and what the two answer, message by message.
//!
//! The model speaks a little language of its own, which is put into SQL here. Not compared: the columns of a RowDescription,
//! what notices say, and of errors all but the SQLSTATE.

#[allow(dead_code)]
#[path = "../simulation/plan.rs"]
mod plan;
#[allow(dead_code)]
#[path = "../simulation/session.rs"]
mod session;

use std::fmt;

use crate::modes::number;
use crate::random::Random;
use crate::support::{Cluster, Message, Wire, wire};
use plan::{Planner, Scope, Step};
use session::{Effect, Session};

/// Exchanges that are compared; `AETHER_MODEL=N` takes another number.
const EXCHANGES: u64 = 1_500;
/// Answered last.
const LAST: &str = "SELECT 'the last' x 1";

/// What the model's language is in SQL.
fn real(sql: &str) -> String {
    let pieces: Vec<String> = sql.split(';').map(real_statement).collect();
    pieces.join(";")
}

fn real_statement(sql: &str) -> String {
    let quoted = sql.split('\'').nth(1).unwrap_or_default();
    let words: Vec<&str> = sql.split_whitespace().collect();
    match words[..] {
        ["SELECT", "error", ..] => format!("SELECT public.model_error('{quoted}') AS value"),
        ["SELECT", "pg_sleep", _] => "SELECT pg_sleep(0) AS value".to_owned(),
        ["SELECT", "pg_advisory_lock", key] => format!("SELECT pg_advisory_lock({key}) AS value"),
        ["SELECT", ..] if sql.trim().starts_with("SELECT '") => {
            let mut numbers = sql
                .rsplit('\'')
                .next()
                .unwrap_or_default()
                .split('x')
                .skip(1)
                .map(|word| word.trim().parse::<usize>().expect("a number"));
            let (rows, size) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(0));
            let times = size / (quoted.len() + 1) + 1;
            format!("SELECT repeat('{quoted} ', {times}) AS value FROM generate_series(1, {rows})")
        }
        ["SET", "TimeZone", ..] => format!("SET TimeZone = '{}'", zone(quoted)),
        ["SET", "role", ..] => "SET role = 'none'".to_owned(),
        ["INSERT", ..] => format!("INSERT INTO public.t VALUES ('{quoted}')"),
        ["COPY", "t", "FROM", "STDIN"] => "COPY public.t FROM STDIN".to_owned(),
        ["COPY", rows, "TO", ..] => {
            format!("COPY (SELECT '{quoted}' FROM generate_series(1, {rows})) TO STDOUT")
        }
        _ => sql.to_owned(),
    }
}

/// A time zone of any name, as POSIX writes one.
fn zone(tag: &str) -> String {
    format!("<{}>0", tag.replace('.', "-").to_uppercase())
}

/// What a test compares of a message.
#[derive(PartialEq, Eq)]
struct Said(u8, Vec<u8>);

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.1);
        write!(f, "{} {:.60}", char::from(self.0), text.escape_debug())
    }
}

/// Reports of settings in a row have no order.
fn said(messages: &[Message]) -> Vec<Said> {
    let mut said: Vec<Said> = messages.iter().map(essence).collect();
    said.chunk_by_mut(|a, b| a.0 == b'S' && b.0 == b'S')
        .for_each(|run| run.sort_by(|a, b| a.1.cmp(&b.1)));
    said
}

fn essence(message: &Message) -> Said {
    let error = message.error();
    let body = match message.kind {
        b'T' | b'N' => Vec::new(),
        _ if error.is_some() => error.expect("fields").sqlstate().as_bytes().to_vec(),
        // A time zone, put into the form that the real one has.
        b'D' | b'S' => {
            let text = String::from_utf8_lossy(&message.body).into_owned();
            unzoned(&text).into_bytes()
        }
        _ => message.body.clone(),
    };
    Said(message.kind, body)
}

/// The text with its length words left out, and a real time zone as the model writes it.
fn unzoned(text: &str) -> String {
    let text = text.trim_start_matches(|c: char| c.is_control() || c == '\u{fffd}');
    text.replace('<', "")
        .replace(">0", "")
        .to_uppercase()
        .replace('-', ".")
}

/// What the model answers; a sleeping statement wakes at once.
fn of_model(steps: &[(u8, Vec<u8>)]) -> Vec<Message> {
    let mut model = Session::start(1, &[]).expect("no parameters");
    let mut out = Vec::new();
    for (tag, body) in steps {
        let mut effect = model.take(*tag, body, &mut out);
        while matches!(effect, Effect::Sleep(_)) {
            effect = model.wake(false, &mut out);
        }
    }
    let mut rest = &out[..];
    let mut messages = Vec::new();
    while let Some((head, _)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        messages.push(Message {
            kind: head[0],
            body: rest[5..length + 1].to_vec(),
        });
        rest = &rest[length + 1..];
    }
    messages
}

/// What the real one answers, up to the last answer of all.
fn of_real(wire: &mut Wire, steps: &[(u8, Vec<u8>)]) -> Vec<Message> {
    let mut bytes = Vec::new();
    for (tag, body) in steps {
        bytes.extend(wire::message(*tag, body));
    }
    let mut sending = wire.stream.try_clone().expect("a second handle");
    let sent = std::thread::spawn(move || std::io::Write::write_all(&mut sending, &bytes));
    let mut messages = Vec::new();
    let mut over = false;
    while !over
        || messages
            .last()
            .is_some_and(|last: &Message| last.kind != b'Z')
    {
        let message = wire.read_message();
        over |= message
            .row()
            .is_some_and(|row| row == [Some("the last ".to_owned())]);
        messages.push(message);
    }
    sent.join().expect("no panic").expect("all is sent");
    messages
}

/// The messages of an exchange, as the model has them and as the real one does.
#[expect(clippy::type_complexity, reason = "two lists of the same")]
fn exchange(seed: u64, call: u32) -> (Vec<(u8, Vec<u8>)>, Vec<(u8, Vec<u8>)>) {
    let scope = Scope {
        pids: false,
        session: true,
        shares: false,
        blocks: true,
        tidy: true,
        half_closes: false,
        large: true,
        leftovers: false,
    };
    let plan = Planner::plan(&mut Random::new(seed), scope, 1, seed as usize);
    let mut steps: Vec<(u8, Vec<u8>)> = plan
        .into_iter()
        .filter_map(|step| match step {
            Step::Send(tag, body) => Some((tag, body)),
            _ => None,
        })
        .collect();
    steps.push((b'S', Vec::new()));
    steps.push((b'Q', wire::terminated(LAST)));
    for (_, body) in &mut steps {
        let text = String::from_utf8_lossy(body).into_owned();
        if text.contains("SHOW state") {
            *body = text
                .replace("SHOW state", "SHOW application_name")
                .into_bytes();
        }
    }
    let real = steps
        .iter()
        .map(|(tag, body)| (*tag, real_body(*tag, body, call)))
        .collect();
    (steps, real)
}

fn real_body(tag: u8, body: &[u8], call: u32) -> Vec<u8> {
    let text = String::from_utf8_lossy(body).into_owned();
    let parts: Vec<&str> = text.splitn(3, '\0').collect();
    match (tag, &parts[..]) {
        (b'Q', [sql, ..]) => wire::terminated(&real(sql)),
        (b'P', [name, sql, types]) => [name, "\0", &real(sql), "\0", types].concat().into_bytes(),
        (b'd', ["broken\n"]) => b"broken\tmore\n".to_vec(),
        (b'F', _) if body.starts_with(&[0, 0, 0, 1]) => [&call.to_be_bytes(), &body[4..]].concat(),
        _ => body.to_vec(),
    }
}

/// Issue 3, proof 4.
#[test]
fn the_model_answers_as_postgresql_does() {
    let cluster = Cluster::shared();
    let database = cluster.database("model");
    let call = cluster.sql(
        &database,
        "CREATE TABLE t (tag text); GRANT ALL ON t TO PUBLIC; \
         CREATE FUNCTION model_error(tag text) RETURNS text LANGUAGE plpgsql VOLATILE \
         AS $$ BEGIN RAISE invalid_text_representation USING MESSAGE = tag; END $$; \
         CREATE FUNCTION call_me() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$; \
         SELECT 'call_me'::regproc::oid",
    );
    let call = call
        .lines()
        .last()
        .expect("a line")
        .parse()
        .expect("an oid");
    for seed in 0..number("AETHER_MODEL").unwrap_or(EXCHANGES) {
        let (model, real) = exchange(seed, call);
        let mut wire = Wire::login(cluster.port(), "username", "password", &database);
        let (ours, theirs) = (said(&of_model(&model)), said(&of_real(&mut wire, &real)));
        if let Some(at) =
            (0..ours.len().max(theirs.len())).find(|&at| ours.get(at) != theirs.get(at))
        {
            for (tag, body) in &real {
                eprintln!(
                    "> {} {:.120}",
                    char::from(*tag),
                    String::from_utf8_lossy(body).escape_debug()
                );
            }
            panic!(
                "seed {seed}, answer {at}: the model says {:?}, PostgreSQL {:?}; before it {:?}",
                ours.get(at),
                theirs.get(at),
                &theirs[at.saturating_sub(4)..at.min(theirs.len())]
            );
        }
    }
}
