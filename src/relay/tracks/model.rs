//! A small model of PostgreSQL: statements, portals, transactions, copies and errors, without anything that they are about.

use std::collections::BTreeMap;

use crate::wire::frame::{message, whole};

/// Randomness that repeats.
pub(in crate::relay) struct Rng(pub(in crate::relay) u64);

impl Rng {
    pub(in crate::relay) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub(in crate::relay) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(in crate::relay) fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// A server, as far as its answers matter.
#[derive(Clone, Default)]
pub(super) struct Model {
    /// What came and was not worked on.
    pub(super) input: Vec<u8>,
    /// What is to be sent.
    pub(super) out: Vec<u8>,
    named: BTreeMap<Vec<u8>, Vec<u8>>,
    portals: BTreeMap<Vec<u8>, Vec<u8>>,
    status: u8,
    /// Up to the next Sync.
    skipping: bool,
    /// One is going on; whether the extended protocol has begun it.
    copy: Option<bool>,
    seed: u64,
    /// Errors, notices and outdated plans come at random.
    faults: bool,
}

fn put(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    message(out, tag, |b| b.extend_from_slice(body));
}

impl Model {
    pub(super) fn new(seed: u64, faults: bool) -> Model {
        Model {
            status: b'I',
            seed: seed | 1,
            faults,
            ..Model::default()
        }
    }

    fn error(&mut self, code: &str, text: &[u8], routine: &str) {
        let body = [
            b"SERROR\0VERROR\0C".as_slice(),
            code.as_bytes(),
            b"\0M",
            text,
            b"\0R",
            routine.as_bytes(),
            b"\0\0",
        ]
        .concat();
        put(&mut self.out, b'E', &body);
        if self.status == b'T' {
            self.status = b'E';
        }
    }

    fn ready(&mut self) {
        let status = self.status;
        put(&mut self.out, b'Z', &[status]);
        if status == b'I' {
            self.portals.clear();
        }
    }

    fn chance(&mut self, n: usize) -> bool {
        let mut rng = Rng(self.seed);
        let hit = rng.below(n) == 0;
        self.seed = rng.0;
        self.faults && hit
    }

    /// Rows of one length and of others, as many as there are by the text.
    fn rows(&mut self, sql: &[u8]) -> usize {
        let count = sql.len() % 5;
        for row in 0..count {
            let length = if row % 2 == 0 { 5 } else { sql.len() + row };
            put(&mut self.out, b'D', &vec![b'x'; length]);
        }
        count
    }

    /// Runs one statement; false: it failed.
    fn run(&mut self, sql: &[u8], extended: bool) -> bool {
        let text = String::from_utf8_lossy(sql).trim().to_ascii_lowercase();
        if self.chance(40) {
            put(&mut self.out, b'N', b"SNOTICE\0C00000\0Mhello\0\0");
        }
        if self.chance(60) {
            put(&mut self.out, b'A', b"\0\0\0\x01chan\0x\0");
        }
        if self.status == b'E' && !matches!(text.as_str(), "rollback" | "commit") {
            self.error("25P02", b"current transaction is aborted", "x");
            return false;
        }
        if self.chance(25) || text.contains("err") {
            self.error("22012", b"it failed", "x");
            return false;
        }
        let done = |out: &mut Vec<u8>, tag: &str| put(out, b'C', &[tag.as_bytes(), b"\0"].concat());
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.first().copied().unwrap_or("") {
            "" => put(&mut self.out, b'I', b""),
            "begin" => {
                self.status = b'T';
                done(&mut self.out, "BEGIN")
            }
            "commit" | "rollback" => {
                let was = self.status;
                self.status = b'I';
                done(
                    &mut self.out,
                    if was == b'E' { "ROLLBACK" } else { "COMMIT" },
                )
            }
            "set" => {
                let value = words.last().unwrap_or(&"x").to_string();
                done(&mut self.out, "SET");
                put(
                    &mut self.out,
                    b'S',
                    &[b"TimeZone\0".as_slice(), value.as_bytes(), b"\0"].concat(),
                );
            }
            "insert" => done(&mut self.out, "INSERT 0 1"),
            "update" => done(&mut self.out, "UPDATE 1"),
            "listen" => done(&mut self.out, "LISTEN"),
            "prepare" => {
                let name = words.get(1).unwrap_or(&"").as_bytes().to_vec();
                if self.named.contains_key(&name) {
                    self.error("42P05", b"prepared statement already exists", "x");
                    return false;
                }
                self.named.insert(name, b"select 1".to_vec());
                done(&mut self.out, "PREPARE")
            }
            "discard" => {
                self.named.retain(|name, _| name.is_empty());
                done(&mut self.out, "DISCARD ALL")
            }
            "deallocate" => {
                let name = words
                    .last()
                    .unwrap_or(&"")
                    .trim_end_matches(';')
                    .as_bytes()
                    .to_vec();
                if name == b"all" {
                    self.named.retain(|name, _| name.is_empty());
                    done(&mut self.out, "DEALLOCATE ALL");
                } else if self.named.remove(&name).is_none() {
                    let text = [
                        b"prepared statement \"".as_slice(),
                        &name,
                        b"\" does not exist",
                    ]
                    .concat();
                    self.error("26000", &text, "x");
                    return false;
                } else {
                    done(&mut self.out, "DEALLOCATE");
                }
            }
            "copyin" => {
                put(&mut self.out, b'G', b"\0\0\0");
                self.copy = Some(extended);
            }
            "copyout" => {
                put(&mut self.out, b'H', b"\0\0\0");
                put(&mut self.out, b'd', b"data");
                put(&mut self.out, b'd', b"data");
                put(&mut self.out, b'c', b"");
                done(&mut self.out, "COPY 2");
            }
            _ => {
                if !extended {
                    put(&mut self.out, b'T', b"\0\0");
                }
                let count = self.rows(sql);
                done(&mut self.out, &format!("SELECT {count}"));
            }
        }
        true
    }

    /// Works on what is here whole.
    pub(super) fn work(&mut self, most: usize) {
        for _ in 0..most {
            let input = std::mem::take(&mut self.input);
            let Ok(Some((tag, body, rest))) = whole(&input, 1 << 20) else {
                self.input = input;
                return;
            };
            self.input = rest.to_vec();
            self.take(tag, body);
        }
    }

    fn take(&mut self, tag: u8, body: &[u8]) {
        if let Some(extended) = self.copy {
            match tag {
                b'd' | b'H' | b'S' => {}
                b'c' => {
                    self.copy = None;
                    put(&mut self.out, b'C', b"COPY 1\0");
                    if !extended {
                        self.ready();
                    }
                }
                _ => {
                    self.copy = None;
                    self.error("57014", b"COPY failed", "x");
                    if extended {
                        self.skipping = true;
                    } else {
                        self.ready();
                    }
                }
            }
            return;
        }
        if self.skipping && tag != b'S' {
            return;
        }
        let parts =
            |body: &[u8]| -> Vec<Vec<u8>> { body.split(|b| *b == 0).map(<[u8]>::to_vec).collect() };
        let mut fails = false;
        match tag {
            b'Q' => {
                let sql = body.strip_suffix(b"\0").unwrap_or(body).to_vec();
                self.named.remove(&b""[..]);
                for sql in sql.split(|b| *b == b';') {
                    if !self.run(sql, false) {
                        break;
                    }
                    if self.copy.is_some() {
                        return;
                    }
                }
                self.ready();
            }
            b'P' => {
                let parts = parts(body);
                if parts[0].is_empty() {
                    self.named.remove(&b""[..]);
                }
                if self.named.contains_key(&parts[0]) {
                    let text = [
                        b"prepared statement \"".as_slice(),
                        &parts[0],
                        b"\" already exists",
                    ]
                    .concat();
                    self.error("42P05", &text, "x");
                    fails = true;
                } else if parts[1].windows(7).any(|w| w == b"badsyn!") {
                    self.error("42601", b"syntax error", "x");
                    fails = true;
                } else if self.status == b'E'
                    && !matches!(&parts[1][..], b"" | b"rollback" | b"commit")
                {
                    self.error("25P02", b"current transaction is aborted", "x");
                    fails = true;
                } else {
                    self.named.insert(parts[0].clone(), parts[1].clone());
                    put(&mut self.out, b'1', b"");
                }
            }
            b'B' => {
                let parts = parts(body);
                match self.named.get(&parts[1]).cloned() {
                    None => {
                        let text = [
                            b"prepared statement \"".as_slice(),
                            &parts[1],
                            b"\" does not exist",
                        ]
                        .concat();
                        self.error("26000", &text, "x");
                        fails = true;
                    }
                    Some(_) if !parts[1].is_empty() && self.chance(8) => {
                        self.error(
                            "0A000",
                            b"cached plan must not change result type",
                            "RevalidateCachedQuery",
                        );
                        fails = true;
                    }
                    Some(sql) => {
                        self.portals.insert(parts[0].clone(), sql);
                        put(&mut self.out, b'2', b"");
                    }
                }
            }
            b'D' => {
                let name = body[1..].strip_suffix(b"\0").unwrap_or_default().to_vec();
                let found = if body[0] == b'S' {
                    self.named.get(&name)
                } else {
                    self.portals.get(&name)
                }
                .cloned();
                match found {
                    None => {
                        let text = [
                            b"prepared statement \"".as_slice(),
                            &name,
                            b"\" does not exist",
                        ]
                        .concat();
                        self.error(if body[0] == b'S' { "26000" } else { "34000" }, &text, "x");
                        fails = true;
                    }
                    Some(sql) => {
                        if body[0] == b'S' {
                            put(&mut self.out, b't', b"\0\0");
                        }
                        if body[0] == b'S' && !name.is_empty() && self.chance(8) {
                            self.error(
                                "0A000",
                                b"cached plan must not change result type",
                                "RevalidateCachedQuery",
                            );
                            fails = true;
                        } else if sql.starts_with(b"select") {
                            put(&mut self.out, b'T', b"\0\0");
                        } else {
                            put(&mut self.out, b'n', b"");
                        }
                    }
                }
            }
            b'E' => {
                let parts = parts(body);
                match self.portals.get(&parts[0]).cloned() {
                    None => {
                        self.error("34000", b"no portal", "x");
                        fails = true;
                    }
                    Some(sql) if self.chance(10) => {
                        self.rows(&sql);
                        put(&mut self.out, b's', b"");
                    }
                    Some(sql) => fails = !self.run(&sql, true),
                }
            }
            b'C' => {
                let name = body[1..].strip_suffix(b"\0").unwrap_or_default();
                if body[0] == b'S' {
                    self.named.remove(name);
                } else {
                    self.portals.remove(name);
                }
                put(&mut self.out, b'3', b"");
            }
            b'S' => {
                self.skipping = false;
                if self.chance(30) {
                    self.error("23000", b"deferred", "x");
                }
                self.ready();
            }
            b'F' => {
                put(&mut self.out, b'V', b"\xff\xff\xff\xff");
                self.ready();
            }
            _ => {}
        }
        if fails {
            self.skipping = true;
        }
    }
}
