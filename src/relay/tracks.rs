//! The plain track does what the long way does, and what was cut elsewhere does the same: two relays are driven in step, by random
//! clients against a small model of a server, and compared after each step. Only tests.
//!
//! `AETHER_TRACKS=n` scripts of each sort are tried (300 when unset), beginning with `AETHER_TRACKS_FIRST` (0).

pub(super) mod model;

use std::rc::Rc;

use super::plain::OFF;
use super::prepared::{ClientStatements, Library, ServerStatements, Slot, Unnamed, With};
use super::{Passage, Relay, Then, Vars};
use crate::wire::frame::{cstr, message};
use crate::wire::frontend;
use model::{Model, Rng};

/// Scripts to be tried.
pub(super) fn scripts() -> std::ops::Range<u64> {
    let number = |name, usual| {
        let given = std::env::var(name).ok();
        given.map_or(usual, |text| text.parse().expect("a number"))
    };
    let first = number("AETHER_TRACKS_FIRST", 0);
    first..first + number("AETHER_TRACKS", 300)
}

/// A relay, who uses it, and the server behind it.
struct Track {
    /// Everything goes the long way.
    full: bool,
    mode: Mode,
    relay: Relay,
    /// Two who take turns, and whose turn it is.
    clients: [ClientStatements; 2],
    which: usize,
    server: ServerStatements,
    library: Library,
    vars: Rc<Vars>,
    model: Model,
    /// What the relay has left of the client's, and whether it can be looked at again without more.
    up_carry: Vec<u8>,
    decidable: bool,
    /// The same of the server's.
    down_carry: Vec<u8>,
    /// What has passed to the clients.
    to_client: Vec<u8>,
    /// Why one of them has to go, in words.
    over: Option<String>,
    /// `max_prepared_statements`
    max: usize,
}

/// How the engine uses a relay.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Clients share servers and keep their statements.
    Rewriting,
    /// A client has its server for itself.
    Session,
    /// Clients share servers, `max_prepared_statements: 0`.
    AsTheyAre,
}

impl Track {
    fn new(full: bool, mode: Mode, model: Model, max: usize) -> Track {
        let mut relay = Relay::default();
        relay.begin(false);
        Track {
            full,
            mode,
            relay,
            clients: Default::default(),
            which: 0,
            server: ServerStatements::default(),
            library: Library::default(),
            vars: Rc::default(),
            model,
            up_carry: Vec::new(),
            decidable: false,
            down_carry: Vec::new(),
            to_client: Vec::new(),
            over: None,
            max,
        }
    }

    fn ended(&mut self, then: Then) {
        match then {
            Then::More | Then::Full => {}
            other => self.over = Some(format!("{other:?}")),
        }
    }

    /// Takes bytes of a client; `false`: not now.
    fn up(&mut self, bytes: &[u8]) -> bool {
        OFF.set(self.full);
        if !self.relay.has_room() || self.over.is_some() {
            return false;
        }
        let looks_again = self.decidable && !self.up_carry.is_empty();
        if bytes.is_empty() && !looks_again {
            return false;
        }
        let input = [&std::mem::take(&mut self.up_carry)[..], bytes].concat();
        let mut out = Vec::new();
        let vars = self.vars.clone();
        let mut with = With {
            client: &mut self.clients[self.which],
            server: &mut self.server,
            vars: Some(&vars),
            library: &mut self.library,
            max: self.max,
        };
        let Passage {
            pass,
            in_place,
            then,
        } = if self.mode != Mode::Rewriting {
            self.relay.up(&input)
        } else {
            self.relay.up_rewriting(&input, &mut with, &mut out)
        };
        self.model
            .input
            .extend_from_slice(if in_place { &input[..pass] } else { &out });
        if self.relay.has_due() {
            let mut made = Vec::new();
            self.relay.take_made(&mut made);
            self.to_client.extend(made);
        }
        self.decidable = matches!(then, Then::Full | Then::Block);
        self.up_carry = input[pass..].to_vec();
        self.ended(then);
        self.after();
        true
    }

    /// Takes so many bytes of what the server has said.
    fn down(&mut self, most: usize) {
        OFF.set(self.full);
        if self.over.is_some() {
            return;
        }
        let count = most.min(self.model.out.len());
        if count == 0 {
            return;
        }
        let fresh: Vec<u8> = self.model.out.drain(..count).collect();
        let input = [&std::mem::take(&mut self.down_carry)[..], &fresh].concat();
        let mut out = Vec::new();
        let mut with = With {
            client: &mut self.clients[self.which],
            server: &mut self.server,
            vars: None,
            library: &mut self.library,
            max: self.max,
        };
        let Passage {
            pass,
            in_place,
            then,
        } = if self.mode == Mode::Session {
            self.relay.down(&input, &mut self.vars)
        } else {
            self.relay
                .down_rewriting(&input, &mut self.vars, &mut with, &mut out)
        };
        self.to_client
            .extend_from_slice(if in_place { &input[..pass] } else { &out });
        self.down_carry = input[pass..].to_vec();
        self.ended(then);
        self.after();
    }

    /// What the engine does after each: trying again, asking whether all was said.
    fn after(&mut self) {
        self.relay.expect.check();
        if self.relay.is_to_try_again() && self.over.is_none() {
            let mut out = Vec::new();
            let vars = self.vars.clone();
            let mut with = With {
                client: &mut self.clients[self.which],
                server: &mut self.server,
                vars: Some(&vars),
                library: &mut self.library,
                max: self.max,
            };
            self.relay.try_again(&mut with, &mut out);
            self.model.input.extend(out);
            self.relay.expect.check();
        }
        if self.mode != Mode::Session
            && self.over.is_none()
            && let Some(sql) = self.relay.probe()
        {
            message(&mut self.model.input, b'Q', |b| cstr(b, sql));
            self.server.slot = Slot::Empty;
        }
    }

    /// Whether the engine would give the server back.
    fn is_over(&self) -> bool {
        self.relay.is_over()
            && (self.relay.has_surplus() || self.down_carry.is_empty())
            && self.over.is_none()
    }

    /// The same, and nothing is under way anywhere.
    fn is_settled(&self) -> bool {
        let rests = self.model.input.is_empty() && self.model.out.is_empty();
        self.is_over() && rests && self.up_carry.is_empty()
    }

    /// The next transaction, perhaps of the other client, perhaps behind a query of ours that restores its settings.
    fn give_back(&mut self, other: bool, one: bool, ours: bool) {
        self.relay.renew();
        if matches!(self.clients[self.which].unnamed, Unnamed::OnServer) {
            self.clients[self.which].unnamed = Unnamed::None;
        }
        if other {
            self.which = 1 - self.which;
        }
        self.relay.begin(one);
        if ours {
            message(&mut self.model.input, b'Q', |b| {
                cstr(b, b"select set_config")
            });
            self.server.slot = Slot::Empty;
            self.relay.sent_by_us();
        }
    }

    /// All there is to compare.
    fn state(&self) -> String {
        format!(
            "{:?} {:?} {:?} {:?} {:?} {}",
            self.relay,
            self.server,
            self.clients,
            self.vars,
            self.over,
            self.is_over()
        )
    }
}

/// Simple queries. `err`, `copyin` and `copyout` are the model's own.
const SQL: [&str; 24] = [
    "select 1",
    "select 2",
    "insert into t",
    "update t set x = 1",
    "begin",
    "commit",
    "rollback",
    "set timezone = a",
    "set timezone = b",
    "err",
    "",
    "copyin",
    "copyout",
    "deallocate a",
    "deallocate all",
    "discard all",
    "select discard",
    "begin; select 1",
    "select 1; err; select 2",
    "commit; begin",
    "prepare a as select 1",
    "listen chan",
    "select into temp t",
    "d",
];
/// Texts of Parse.
const TEXTS: [&str; 14] = [
    "select 1",
    "select 2",
    "insert",
    "update",
    "badsyn!",
    "err",
    "",
    "begin",
    "commit",
    "rollback",
    "deallocate a",
    "discard all",
    "copyin",
    "set timezone = c",
];
const NAMES: [&str; 5] = ["", "", "a", "b", "aether_x"];
const PORTALS: [&str; 3] = ["", "", "p"];

fn named(out: &mut Vec<u8>, tag: u8, kind: u8, name: &str) {
    message(out, tag, |b| {
        b.push(kind);
        cstr(b, name.as_bytes());
    });
}

fn parse(out: &mut Vec<u8>, name: &str, text: &str) {
    message(out, b'P', |b| {
        cstr(b, name.as_bytes());
        cstr(b, text.as_bytes());
        b.extend_from_slice(&[0; 2]); // no types
    });
}

fn bind(out: &mut Vec<u8>, portal: &str, name: &str) {
    message(out, b'B', |b| {
        cstr(b, portal.as_bytes());
        cstr(b, name.as_bytes());
        b.extend_from_slice(&[0; 6]); // no formats, no values, no formats of results
    });
}

fn execute(out: &mut Vec<u8>, portal: &str) {
    message(out, b'E', |b| {
        cstr(b, portal.as_bytes());
        b.extend_from_slice(&[0; 4]); // all rows
    });
}

/// Something that a client may say, in its place or not.
fn client_message(rng: &mut Rng, out: &mut Vec<u8>) {
    match rng.below(40) {
        0..9 => frontend::query(out, rng.one(&SQL).as_bytes()),
        9..12 => parse(out, rng.one(&NAMES), rng.one(&TEXTS)),
        12..16 => bind(out, rng.one(&PORTALS), rng.one(&NAMES)),
        16..19 => named(out, b'D', b'P', rng.one(&PORTALS)),
        19 => named(out, b'D', b'S', rng.one(&NAMES)),
        20..24 => execute(out, rng.one(&PORTALS)),
        24 => named(out, b'C', b'S', rng.one(&NAMES)),
        25 => named(out, b'C', b'P', "p"),
        26..31 => frontend::sync(out),
        31..33 => message(out, b'H', |_| {}),
        33 => message(out, b'd', |b| b.extend_from_slice(b"x")),
        34 => message(out, b'c', |_| {}),
        35 => message(out, b'f', |b| cstr(b, b"no")),
        _ => {
            let (name, text) = (rng.one(&NAMES), rng.one(&TEXTS));
            if rng.below(2) == 0 {
                parse(out, name, text);
            }
            bind(out, "", name);
            if rng.below(2) == 0 {
                named(out, b'D', b'P', "");
            }
            execute(out, "");
            frontend::sync(out);
        }
    }
}

/// What scripts have brought about, so that it shows if they come to nothing.
#[derive(Debug, Default)]
struct Brought {
    given_back: usize,
    bytes: usize,
}

/// One script on both tracks; what differs first.
fn on_both_tracks(seed: u64, mode: Mode, brought: &mut Brought) {
    let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..10 {
        rng.next();
    }
    let (faults, max) = (rng.below(3) > 0, [1, 2, 100][rng.below(3)]);
    let one = rng.below(6) == 0;
    let whole_messages = rng.below(2) == 0;
    let model_seed = rng.next();
    let mut tracks = [
        Track::new(false, mode, Model::new(model_seed, faults), max),
        Track::new(true, mode, Model::new(model_seed, faults), max),
    ];
    for track in &mut tracks {
        track.relay.begin(one);
    }
    let mut pending: Vec<u8> = Vec::new();
    for step in 0..240 {
        if step % 30 == 29 {
            if rng.below(3) == 0 {
                message(&mut pending, b'c', |_| {});
            }
            message(&mut pending, b'S', |_| {});
            for _ in 0..8 {
                let bytes = std::mem::take(&mut pending);
                let took = tracks.each_mut().map(|track| track.up(&bytes));
                assert_eq!(
                    took[0], took[1],
                    "seed {seed} step {step}: taken at the end"
                );
                if !took[0] {
                    pending = bytes;
                }
                tracks.iter_mut().for_each(|track| track.model.work(10_000));
                tracks.iter_mut().for_each(|track| track.down(1_000_000));
            }
            let over = tracks.each_ref().map(Track::is_settled);
            assert_eq!(over[0], over[1]);
            if over[0] {
                let (other, ours) = (rng.below(2) == 0 && pending.is_empty(), rng.below(3) == 0);
                tracks
                    .iter_mut()
                    .for_each(|track| track.give_back(other, one, ours));
                brought.given_back += 1;
            }
        }
        if rng.below(3) == 0 && pending.len() < 2_000 {
            for _ in 0..1 + rng.below(4) {
                client_message(&mut rng, &mut pending);
            }
        }
        match rng.below(5) {
            0 | 1 => {
                let count = if whole_messages {
                    pending.len()
                } else {
                    pending.len().min(1 + rng.below(40))
                };
                let bytes = pending[..count].to_vec();
                let took = tracks.each_mut().map(|track| track.up(&bytes));
                assert_eq!(took[0], took[1], "seed {seed} step {step}: taken");
                if took[0] {
                    pending.drain(..count);
                }
            }
            2 => {
                let most = 1 + rng.below(6);
                tracks.iter_mut().for_each(|track| track.model.work(most));
            }
            3 => {
                let most = if whole_messages {
                    100_000
                } else {
                    1 + rng.below(60)
                };
                tracks.iter_mut().for_each(|track| track.down(most));
            }
            _ => {
                if tracks.iter().all(Track::is_settled) {
                    let other = rng.below(2) == 0 && pending.is_empty();
                    let ours = rng.below(3) == 0;
                    tracks
                        .iter_mut()
                        .for_each(|track| track.give_back(other, one, ours));
                    brought.given_back += 1;
                }
            }
        }
        let [plain, full] = &tracks;
        assert_eq!(
            String::from_utf8_lossy(&plain.to_client),
            String::from_utf8_lossy(&full.to_client),
            "seed {seed} step {step}: to the client"
        );
        assert_eq!(
            String::from_utf8_lossy(&plain.model.input),
            String::from_utf8_lossy(&full.model.input),
            "seed {seed} step {step}: to the server"
        );
        assert_eq!(
            plain.up_carry, full.up_carry,
            "seed {seed} step {step}: carry up"
        );
        assert_eq!(
            plain.down_carry, full.down_carry,
            "seed {seed} step {step}: carry down"
        );
        let (a, b) = (plain.state(), full.state());
        if a != b {
            let at = a
                .bytes()
                .zip(b.bytes())
                .position(|(a, b)| a != b)
                .unwrap_or(0);
            let cut = |t: &str| {
                t.chars()
                    .skip(at.saturating_sub(120))
                    .take(240)
                    .collect::<String>()
            };
            panic!("seed {seed} step {step}:\n{}\n{}", cut(&a), cut(&b));
        }
        if plain.over.is_some() {
            break;
        }
    }
    brought.bytes += tracks[0].to_client.len();
}

/// Runs them all; they come to something.
fn run(script: impl Fn(u64, &mut Brought)) {
    let mut brought = Brought::default();
    scripts().for_each(|seed| script(seed, &mut brought));
    let count = scripts().count();
    assert!(
        brought.given_back > count && brought.bytes > 100 * count,
        "{brought:?}"
    );
}

#[test]
fn the_plain_track_does_what_the_long_way_does() {
    run(|seed, brought| on_both_tracks(seed, Mode::Rewriting, brought));
}

#[test]
fn the_plain_track_of_a_session_does_what_the_long_way_does() {
    run(|seed, brought| on_both_tracks(seed, Mode::Session, brought));
}

#[test]
fn the_plain_track_without_prepared_statements_does_what_the_long_way_does() {
    run(|seed, brought| on_both_tracks(seed, Mode::AsTheyAre, brought));
}

/// A server's message that is larger than what may pass.
#[test]
fn a_large_answer_is_refused_wherever_it_is_cut() {
    let mut query = Vec::new();
    message(&mut query, b'Q', |b| cstr(b, b"select 1"));
    let mut answer = Vec::new();
    message(&mut answer, b'T', |b| b.extend_from_slice(&[0; 5000]));
    let mut results = Vec::new();
    OFF.set(false);
    for size in [100, answer.len()] {
        let mut relay = Relay::default();
        relay.restrict(false, 1000);
        relay.up(&query);
        let mut kept: Vec<u8> = Vec::new();
        let mut last = Then::More;
        for piece in answer.chunks(size) {
            kept.extend_from_slice(piece);
            let passage = relay.down(&kept, &mut Rc::default());
            kept.drain(..passage.pass);
            last = passage.then;
            if last != Then::More {
                break;
            }
        }
        results.push(matches!(last, Then::Refuse(_)));
    }
    assert_eq!(results, [true, true]);
}

/// The same bytes cut at other places; what is said at the end of each phase must be the same.
fn cut_elsewhere(seed: u64, brought: &mut Brought) {
    let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..10 {
        rng.next();
    }
    let cut_up = rng.below(2) == 0;
    let (faults, max) = (!cut_up && rng.below(3) > 0, [1, 2, 100][rng.below(3)]);
    let full = rng.below(3) == 0;
    let model_seed = rng.next();
    let mut tracks = [
        Track::new(false, Mode::Rewriting, Model::new(model_seed, faults), max),
        Track::new(full, Mode::Rewriting, Model::new(model_seed, faults), max),
    ];
    let mut pendings = [Vec::new(), Vec::new()];
    for phase in 0..25 {
        let mut fresh = Vec::new();
        for _ in 0..1 + rng.below(5) {
            client_message(&mut rng, &mut fresh);
        }
        if rng.below(3) == 0 {
            message(&mut fresh, b'S', |_| {});
        }
        for (n, track) in tracks.iter_mut().enumerate() {
            let pending = &mut pendings[n];
            pending.extend_from_slice(&fresh);
            for _ in 0..30 {
                let mut idle = true;
                loop {
                    let count = if n == 1 && cut_up {
                        pending.len().min(1 + rng.below(20))
                    } else {
                        pending.len()
                    };
                    let bytes: Vec<u8> = pending[..count].to_vec();
                    if !track.up(&bytes) {
                        break;
                    }
                    idle = false;
                    pending.drain(..count);
                    if pending.is_empty() {
                        break;
                    }
                }
                track.model.work(100_000);
                while !track.model.out.is_empty() && track.over.is_none() {
                    idle = false;
                    let most = if n == 1 { 1 + rng.below(9) } else { 1_000_000 };
                    track.down(most);
                }
                if idle && track.model.input.is_empty() {
                    break;
                }
            }
        }
        let [a, b] = &tracks;
        if a.relay.is_in_doubt() || b.relay.is_in_doubt() {
            return;
        }
        assert_eq!(a.over, b.over, "seed {seed} phase {phase}: over");
        assert_eq!(
            String::from_utf8_lossy(&a.to_client),
            String::from_utf8_lossy(&b.to_client),
            "seed {seed} phase {phase}: to the client; cut up {cut_up}"
        );
        assert_eq!(
            a.is_over(),
            b.is_over(),
            "seed {seed} phase {phase}: is over"
        );
        assert_eq!(
            (
                a.relay.is_quiet(),
                a.relay.status(),
                a.relay.owed(),
                a.relay.ran()
            ),
            (
                b.relay.is_quiet(),
                b.relay.status(),
                b.relay.owed(),
                b.relay.ran()
            ),
            "seed {seed} phase {phase}"
        );
        if a.over.is_some() {
            return;
        }
        if a.is_settled() && b.is_settled() && pendings.iter().all(Vec::is_empty) {
            let other = rng.below(2) == 0;
            tracks
                .iter_mut()
                .for_each(|track| track.give_back(other, false, false));
            brought.given_back += 1;
        }
    }
    brought.bytes += tracks[0].to_client.len();
}

#[test]
fn it_makes_no_difference_where_bytes_are_cut() {
    run(cut_elsewhere);
}

/// What a query of our own has run is nothing that the client has.
#[test]
fn what_we_have_run_is_not_the_clients() {
    OFF.set(false);
    let text = b"insert into sensors (temp) values (1)";
    let answer = [
        b"T\0\0\0\x06\0\0D\0\0\0\x06\0\0C\0\0\0\x0dSELECT 1\0S\0\0\0\x11TimeZone\0CET\0Z\0\0\0\x05I".as_slice(),
        b"C\0\0\0\x0fINSERT 0 1\0Z\0\0\0\x05I",
    ].concat();
    let mut left = Vec::new();
    for full in [false, true] {
        OFF.set(full);
        let mut track = Track::new(full, Mode::Rewriting, Model::new(1, false), 100);
        track.relay.sent_by_us(); // the settings are restored
        let mut query = Vec::new();
        message(&mut query, b'Q', |b| cstr(b, text));
        assert!(track.up(&query));
        track.model.out = answer.clone();
        track.down(10_000);
        assert!(track.is_over() && !track.relay.is_in_doubt());
        left.push(super::traces::undoing(
            track.relay.seen(),
            track.relay.ran(),
            true,
        ));
    }
    assert_eq!(left[0], left[1]);
}
