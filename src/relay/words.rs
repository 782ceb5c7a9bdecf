//! The words of query texts, read as they stream by, in pieces of any size.
//!
//! No parser: it sees words, in comments and strings too. That is enough for a hint ("SET was seen") and for the one
//! decision that must err on the safe side: a server on which a statement was seen whose effect `DISCARD ALL` does not undo
//! is closed instead of reused. What they mean for a server that is shared: [`super::traces`].

/// What was seen, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(u16);

impl Seen {
    /// `SET` or `set_config`.
    pub const SET: Seen = Seen(1);
    /// `TEMP` or `TEMPORARY`.
    pub const TEMPORARY: Seen = Seen(2);
    /// `PREPARE`, or a Parse message.
    pub const PREPARED: Seen = Seen(4);
    /// `LISTEN`.
    pub const LISTEN: Seen = Seen(8);
    /// `DECLARE`, for cursors that may outlive a transaction.
    pub const CURSOR: Seen = Seen(16);
    /// An advisory lock.
    pub const LOCK: Seen = Seen(32);
    /// Something that `DISCARD ALL` leaves behind: a dblink connection, a replication slot, a seed.
    pub const LEFTOVER: Seen = Seen(64);
    /// `SEED`: with `SET` or `set_config` it seeds `random()`, which `DISCARD ALL` leaves as it is.
    const SEED: Seen = Seen(128);

    /// `ROLE` or `AUTHORIZATION`: with `SET` or `set_config`, who the session is.
    pub const IDENTITY: Seen = Seen(256);
    /// `SET` that is not followed by `LOCAL` or `TRANSACTION`; UPDATE has one, too.
    pub const SET_SESSION: Seen = Seen(512);
    /// `set_config`.
    pub const SET_CONFIG: Seen = Seen(1_024);
    /// `HOLD`, of a cursor.
    pub const HOLD: Seen = Seen(2_048);
    /// `CREATE`.
    pub const CREATE: Seen = Seen(4_096);
    /// `INTO`.
    pub const INTO: Seen = Seen(8_192);
    /// `LOAD`.
    const LOAD: Seen = Seen(16_384);

    /// `DEALLOCATE` or `DISCARD`: prepared statements may end.
    pub const ENDS_STATEMENTS: Seen = Seen(32_768);

    /// Takes out what `other` has; whether all of it was there.
    pub fn take(&mut self, other: Seen) -> bool {
        let contained = self.contains(other);
        self.0 &= !other.0;
        contained
    }

    /// Adds what `other` has.
    pub fn insert(&mut self, other: Seen) {
        self.0 |= other.0;
    }

    /// Whether something of what `other` has was seen.
    pub fn has_any(self, other: Seen) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all that `other` has was seen.
    pub fn contains(self, other: Seen) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there may be something that the next client could notice after `DISCARD ALL`. Temporary tables are dropped, but
    /// their schema stays, and PREPARE TRANSACTION for one behaves differently then.
    pub fn leaves_something(self) -> bool {
        self.contains(Seen::LOAD) || self.contains(Seen::TEMPORARY) || self.cannot_be_undone()
    }

    /// Whether there may be something that must not reach the next client, and that no query undoes.
    pub fn cannot_be_undone(self) -> bool {
        let seeded = self.contains(Seen::SET) && self.contains(Seen::SEED);
        self.contains(Seen::LEFTOVER) || seeded
    }

    /// As words, for SHOW SERVERS; empty when nothing was seen.
    pub fn describe(self) -> String {
        let names = [
            (Seen::SET, "set"),
            (Seen::TEMPORARY, "temp"),
            (Seen::PREPARED, "prepared"),
            (Seen::LISTEN, "listen"),
            (Seen::CURSOR, "cursor"),
            (Seen::LOCK, "lock"),
            (Seen::LEFTOVER, "leftover"),
            (Seen::LOAD, "load"),
        ];
        names
            .iter()
            .filter(|(seen, _)| self.contains(*seen))
            .map(|(_, name)| *name)
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// Reads words; only the hash of the word in progress is kept between two pieces.
#[derive(Debug)]
pub struct Words {
    hash: u32,
    /// The word in progress is none that matters.
    skipping: bool,
    /// The last word was SET, and nothing but blanks has come since.
    behind_set: bool,
}

/// FNV-1a. Two words with one hash would be taken for each other: then a server is closed once too often.
const SEED: u32 = 0x811c_9dc5;

const fn step(hash: u32, byte: u8) -> u32 {
    (hash ^ byte as u32).wrapping_mul(0x0100_0193)
}

const fn hash(word: &str) -> u32 {
    let bytes = word.as_bytes();
    let (mut hash, mut at) = (SEED, 0);
    while at < bytes.len() {
        hash = step(hash, bytes[at]);
        at += 1;
    }
    hash
}

/// Bytes that are part of words, in lower case; 0: not part of any.
const LETTERS: [u8; 256] = {
    let (mut letters, mut at) = ([0; 256], 0);
    while at < 256 {
        let byte = at as u8;
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 {
            letters[at] = byte.to_ascii_lowercase();
        }
        at += 1;
    }
    letters
};

const WORDS: [(&str, Seen); 30] = [
    ("set", Seen::SET),
    ("set_config", Seen(Seen::SET.0 | Seen::SET_CONFIG.0)),
    ("temp", Seen::TEMPORARY),
    ("temporary", Seen::TEMPORARY),
    ("pg_temp", Seen::TEMPORARY),
    ("prepare", Seen::PREPARED),
    ("listen", Seen::LISTEN),
    ("declare", Seen::CURSOR),
    ("pg_advisory_lock", Seen::LOCK),
    ("pg_advisory_lock_shared", Seen::LOCK),
    ("pg_try_advisory_lock", Seen::LOCK),
    ("pg_try_advisory_lock_shared", Seen::LOCK),
    ("load", Seen::LOAD),
    ("dblink_connect", Seen::LEFTOVER),
    ("dblink_connect_u", Seen::LEFTOVER),
    ("create_replication_slot", Seen::LEFTOVER),
    ("pg_create_physical_replication_slot", Seen::LEFTOVER),
    ("pg_create_logical_replication_slot", Seen::LEFTOVER),
    ("pg_copy_physical_replication_slot", Seen::LEFTOVER),
    ("pg_copy_logical_replication_slot", Seen::LEFTOVER),
    ("pg_replication_origin_session_setup", Seen::LEFTOVER),
    // The seed of random() stays as well.
    ("setseed", Seen::LEFTOVER),
    ("seed", Seen::SEED),
    ("role", Seen::IDENTITY),
    ("authorization", Seen::IDENTITY),
    ("deallocate", Seen::ENDS_STATEMENTS),
    ("discard", Seen::ENDS_STATEMENTS),
    ("hold", Seen::HOLD),
    ("create", Seen::CREATE),
    ("into", Seen::INTO),
];

/// They matter behind SET only.
const BEHIND_SET: [&str; 2] = ["local", "transaction"];

/// By the first byte of a word: the bytes in this place of those that matter, as a set of their last five bits. All have three.
const fn bytes_in(place: usize) -> [u32; 256] {
    let (mut sets, mut at) = ([0; 256], 0);
    while at < WORDS.len() + BEHIND_SET.len() {
        let word = word_that_matters(at);
        let bit = 1 << (word[place] & 31);
        sets[word[0] as usize] |= bit;
        sets[word[0].to_ascii_uppercase() as usize] |= bit;
        at += 1;
    }
    sets
}

const fn word_that_matters(number: usize) -> &'static [u8] {
    if number < WORDS.len() {
        WORDS[number].0.as_bytes()
    } else {
        BEHIND_SET[number - WORDS.len()].as_bytes()
    }
}

const SECONDS: [u32; 256] = bytes_in(1);
const THIRDS: [u32; 256] = bytes_in(2);

/// What was read last, for each letter that a word which matters begins with, in [`LANE`] bits: whether it was no letter; such a
/// first letter behind that; behind this a second one that fits; a third one; whether that was so one byte before. (The last bit is
/// never set: nothing spills over.)
type Reading = u64;

const LANE: usize = 6;
const LANES: Reading = {
    let (mut lanes, mut at) = (0, 0);
    while at < INITIALS.len() {
        lanes |= 1 << (at * LANE);
        at += 1;
    }
    lanes
};
/// Nothing, or no letter.
const OUTSIDE: Reading = LANES;
/// One or two letters of a word that may matter.
const BEGUN: Reading = LANES << 1 | LANES << 2;
/// Three.
const FOUND: Reading = LANES << 3;
/// Three, with this byte or the one before.
const FOUND_OF_TWO: Reading = FOUND | LANES << 4;

/// The letters that words begin with which matter.
const INITIALS: &[u8] = b"stpldcrahi";

/// What is still possible when this byte is read.
const FITS: [Reading; 256] = {
    let (mut fits, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let letter = LETTERS[byte];
        fits[byte] = LANES << 4;
        if letter == 0 {
            fits[byte] |= OUTSIDE;
        }
        let mut lane = 0;
        while lane < INITIALS.len() {
            let initial = INITIALS[lane];
            let bit = 1 << (byte & 31);
            if letter == initial {
                fits[byte] |= 1 << (lane * LANE + 1);
            }
            if letter != 0 && SECONDS[initial as usize] & bit != 0 {
                fits[byte] |= 1 << (lane * LANE + 2);
            }
            if letter != 0 && THIRDS[initial as usize] & bit != 0 {
                fits[byte] |= 1 << (lane * LANE + 3);
            }
            lane += 1;
        }
        byte += 1;
    }
    fits
};

/// Every word that matters begins with one of [`INITIALS`].
const _: () = {
    let mut number = 0;
    while number < WORDS.len() + BEHIND_SET.len() {
        let initial = word_that_matters(number)[0];
        assert!(FITS[initial as usize] & LANES << 1 != 0);
        number += 1;
    }
};

/// One more byte: a shift, an addition and a mask, and no branch.
#[inline(always)]
const fn read_on(reading: Reading, byte: u8) -> Reading {
    reading.wrapping_mul(2).wrapping_add(LANES) & FITS[byte as usize]
}

/// Where the first word of a text begins that may matter: one whose first three letters fit, or all that are here. Nothing of a
/// word stands before the text.
fn next_that_may_matter(text: &[u8]) -> Option<usize> {
    let (pairs, _) = text.as_chunks::<2>();
    let (blocks, _) = pairs.as_chunks::<BLOCK>();
    let (mut reading, mut behind) = (OUTSIDE, 0);
    for block in blocks {
        let (mut next, mut all) = (reading, 0);
        for &[one, other] in block {
            next = read_on(read_on(next, one), other);
            all |= next;
        }
        if all & FOUND_OF_TWO != 0 {
            break;
        }
        (reading, behind) = (next, behind + 2 * BLOCK);
    }
    let rest = text.get(behind..).unwrap_or_default();
    let third = rest.iter().position(|&byte| {
        reading = read_on(reading, byte);
        reading & FOUND != 0
    });
    if let Some(third) = third {
        return Some(behind + third - 2);
    }
    let begun = if reading & LANES << 2 != 0 { 2 } else { 1 };
    (reading & BEGUN != 0).then(|| text.len() - begun)
}

/// So many pairs of bytes are read before anybody looks whether a word was found in them.
const BLOCK: usize = 8;

/// The hashes of [`WORDS`].
const HASHES: [u32; WORDS.len()] = {
    let (mut hashes, mut at) = ([0; WORDS.len()], 0);
    while at < WORDS.len() {
        hashes[at] = hash(WORDS[at].0);
        at += 1;
    }
    hashes
};

impl Default for Words {
    fn default() -> Self {
        Words {
            hash: SEED,
            skipping: false,
            behind_set: false,
        }
    }
}

impl Words {
    /// Reads a piece of a text.
    pub fn read(&mut self, text: &[u8], seen: &mut Seen) {
        let mut rest = text;
        if self.skipping || self.hash != SEED {
            rest = self.read_word(rest, seen);
        }
        loop {
            while self.behind_set && !rest.is_empty() {
                rest = self.read_behind_set(rest, seen);
            }
            let Some(place) = next_that_may_matter(rest) else {
                break;
            };
            rest = self.read_word(rest.get(place..).unwrap_or_default(), seen);
        }
        // What is in progress there does not matter, or it would have been found.
        self.skipping |= rest.last().is_some_and(|last| LETTERS[*last as usize] != 0);
    }

    /// Reads what stands behind SET, up to the end of a word or of the text. What follows it.
    fn read_behind_set<'a>(&mut self, text: &'a [u8], seen: &mut Seen) -> &'a [u8] {
        let blanks = text.iter().take_while(|byte| byte.is_ascii_whitespace());
        let rest = text.get(blanks.count()..).unwrap_or_default();
        match rest.split_first() {
            None => {}
            Some((&byte, _)) if LETTERS[byte as usize] == 0 => self.not_local(seen),
            Some(_) => {
                let start = rest.get(..3).unwrap_or(rest);
                if next_that_may_matter(start) != Some(0) {
                    self.skipping = true;
                    self.not_local(seen);
                }
                return self.read_word(rest, seen);
            }
        }
        rest
    }

    /// Reads on in a word. What follows it, if it ends here.
    fn read_word<'a>(&mut self, text: &'a [u8], seen: &mut Seen) -> &'a [u8] {
        let is_end = |byte: &u8| LETTERS[*byte as usize] == 0;
        if self.skipping {
            let end = text.iter().position(is_end);
            self.skipping = end.is_none();
            return end.and_then(|end| text.get(end..)).unwrap_or_default();
        }
        let mut hash = self.hash;
        for (at, &byte) in text.iter().enumerate() {
            let letter = LETTERS[byte as usize];
            if letter == 0 {
                self.hash = hash;
                self.end_word(seen);
                return text.get(at..).unwrap_or_default();
            }
            hash = step(hash, letter);
        }
        self.hash = hash;
        b""
    }

    /// A word has come that is neither LOCAL nor TRANSACTION.
    fn not_local(&mut self, seen: &mut Seen) {
        if std::mem::take(&mut self.behind_set) {
            seen.insert(Seen::SET_SESSION);
        }
    }

    /// The text has ended, and the last word with it.
    pub fn end(&mut self, seen: &mut Seen) {
        self.end_word(seen);
        if std::mem::take(&mut self.behind_set) {
            seen.insert(Seen::SET_SESSION);
        }
    }

    fn end_word(&mut self, seen: &mut Seen) {
        let ended = std::mem::replace(&mut self.hash, SEED);
        if std::mem::take(&mut self.skipping) || ended == SEED {
            return;
        }
        if !(ended == const { hash(BEHIND_SET[0]) } || ended == const { hash(BEHIND_SET[1]) }) {
            self.not_local(seen);
        }
        self.behind_set = ended == const { hash("set") };
        if let Some(place) = HASHES.iter().position(|hash| *hash == ended)
            && let Some((_, what)) = WORDS.get(place)
        {
            seen.insert(*what);
        }
    }
}

/// The first word of a query, comments and blanks before it left out.
pub fn first_word(text: &[u8]) -> &[u8] {
    take_word(text).0
}

/// The first word of a query, as [`first_word`] finds it, and what follows it. The word is empty where something else begins.
pub fn take_word(text: &[u8]) -> (&[u8], &[u8]) {
    let rest = skip_blanks(text);
    let is_end = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'_';
    let end = rest.iter().position(is_end).unwrap_or(rest.len());
    rest.split_at_checked(end).unwrap_or((rest, b""))
}

/// A text without the blanks and comments that it begins with.
pub fn skip_blanks(text: &[u8]) -> &[u8] {
    let mut rest = text;
    loop {
        rest = rest.trim_ascii_start();
        if let Some(comment) = rest.strip_prefix(b"--") {
            let end = comment.iter().position(|&byte| byte == b'\n');
            rest = end.and_then(|end| comment.get(end..)).unwrap_or_default();
        } else if rest.starts_with(b"/*") {
            rest = skip_comment(rest);
        } else {
            return rest;
        }
    }
}

/// What follows the comment that the text begins with. Comments may be in comments.
fn skip_comment(text: &[u8]) -> &[u8] {
    let (mut depth, mut rest) = (0, text);
    loop {
        if let Some(after) = rest.strip_prefix(b"/*") {
            (depth, rest) = (depth + 1, after);
        } else if let Some(after) = rest.strip_prefix(b"*/") {
            (depth, rest) = (depth - 1, after);
        } else {
            rest = rest.get(1..).unwrap_or_default();
        }
        if depth == 0 || rest.is_empty() {
            return rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tracks::{model::Rng, scripts};
    use super::*;

    fn seen(text: &str) -> String {
        let mut whole = Seen::default();
        let mut words = Words::default();
        words.read(text.as_bytes(), &mut whole);
        words.end(&mut whole);
        for size in 1..8 {
            let mut pieces = Seen::default();
            let mut words = Words::default();
            for piece in text.as_bytes().chunks(size) {
                words.read(piece, &mut pieces);
            }
            words.end(&mut pieces);
            assert_eq!(pieces, whole, "{text} in pieces of {size}");
        }
        whole.describe()
    }

    #[test]
    fn words_are_seen_in_any_case_and_in_pieces() {
        assert_eq!(seen("SeT x = 1"), "set");
        assert_eq!(
            seen("create TEMP table t(); prepare p as select 1; listen c"),
            "temp,prepared,listen"
        );
        assert_eq!(seen("LOAD 'auto_explain'"), "load");
        assert_eq!(seen("/*x*/load/**/'y'"), "load");
        assert_eq!(seen("select dblink_connect('c', '...')"), "leftover");
        assert_eq!(
            seen("select pg_create_logical_replication_slot('s', 'p', true)"),
            "leftover"
        );
    }

    #[test]
    fn a_seed_counts_only_where_something_is_set() {
        let leaves = |text: &str| {
            let (mut words, mut seen) = (Words::default(), Seen::default());
            words.read(text.as_bytes(), &mut seen);
            words.end(&mut seen);
            seen.leaves_something()
        };
        assert!(leaves("set seed = 0.5"));
        assert!(leaves("select set_config('seed', '0.5', false)"));
        assert!(!leaves("select seed from plants"));
        assert!(!leaves("update plants set colour = 'green'"));
    }

    #[test]
    fn every_word_that_matters_is_seen_wherever_it_stands() {
        for (word, what) in WORDS {
            for word in [word.to_owned(), word.to_uppercase()] {
                for text in [
                    word.clone(),
                    format!("a {word}"),
                    format!("se\n{word};"),
                    format!("('{word}')"),
                    format!("pg_x.{word}/**/"),
                ] {
                    let (mut words, mut found) = (Words::default(), Seen::default());
                    words.read(text.as_bytes(), &mut found);
                    words.end(&mut found);
                    assert!(found.contains(what), "{text}");
                }
                for text in [format!("{word}x"), format!("x{word}"), format!("_{word}_")] {
                    assert_eq!(seen(&text), "", "{text}");
                }
            }
        }
        for (text, leaves) in [
            ("set local", false),
            ("set transaction", false),
            ("set locale", true),
            ("set a local", true),
            ("set session", true),
            ("set", true),
            ("set (local", true),
        ] {
            let (mut words, mut found) = (Words::default(), Seen::default());
            words.read(text.as_bytes(), &mut found);
            words.end(&mut found);
            assert_eq!(found.contains(Seen::SET_SESSION), leaves, "{text}");
        }
    }

    #[test]
    fn words_are_seen_wherever_they_stand() {
        for (word, words) in [
            ("set_config", "set"),
            ("listen", "listen"),
            ("set", "set"),
            ("x_listen_", ""),
            ("listens", ""),
        ] {
            for blanks in 0..140 {
                let text = format!("{}{word} {}", " ".repeat(blanks), "y".repeat(90));
                assert_eq!(seen(&text), words, "{word} behind {blanks}");
                let text = format!("{} {word}", "y".repeat(blanks));
                assert_eq!(seen(&text), words, "{word} behind a word of {blanks}");
            }
        }
    }

    /// What stands before a word decides whether it is one.
    #[test]
    fn a_word_begins_behind_what_is_part_of_none() {
        for before in 0..=255u8 {
            for blanks in 0..20 {
                let text = [&vec![b' '; blanks][..], &[before], b"listen x"].concat();
                let (mut words, mut seen) = (Words::default(), Seen::default());
                words.read(&text, &mut seen);
                words.end(&mut seen);
                let is_word = LETTERS[before as usize] == 0;
                assert_eq!(
                    seen.contains(Seen::LISTEN),
                    is_word,
                    "{before} behind {blanks}"
                );
            }
        }
    }

    #[test]
    fn parts_of_words_are_not_words() {
        assert_eq!(
            seen("select offset, upload, loads, settings, _load from t where temps = 1"),
            ""
        );
    }

    #[test]
    fn the_first_word_is_found_behind_comments() {
        for (text, word) in [
            (&b"select 1"[..], &b"select"[..]),
            (b"  /* x */ -- y\n\tDeAllocate all", b"DeAllocate"),
            (b"/* open", b""),
            (b"/* a /* b */ */select", b"select"),
            (b"-- open", b""),
            (b"", b""),
            (b"(select)", b""),
        ] {
            assert_eq!(first_word(text), word);
        }
    }

    /// Words are found wherever a text is cut, as one finds who looks at word after word.
    #[test]
    fn words_are_found_wherever_they_are_cut() {
        let mut rng = Rng(88172645463325252);
        let pieces: [&[u8]; 44] = [
            b"set",
            b"SET",
            b"Set_Config",
            b"local",
            b"LOCAL",
            b"transaction",
            b"temp",
            b"temporary",
            b"pg_temp",
            b"prepare",
            b"listen",
            b"declare",
            b"pg_advisory_lock",
            b"pg_try_advisory_lock_shared",
            b"load",
            b"setseed",
            b"seed",
            b"role",
            b"authorization",
            b"deallocate",
            b"discard",
            b"hold",
            b"create",
            b"into",
            b" ",
            b" ",
            b"\t",
            b"\n",
            b"'",
            b"$",
            b"$$",
            b"/*",
            b"*/",
            b"--",
            b"\xc3\xa9",
            b"\xff",
            b"\x80",
            b"\xd3",
            b"\xf3et",
            b"_",
            b"1",
            b"=",
            b"\0",
            b"@[`{~\x7f^\\]",
        ];
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
        let naive = |text: &[u8]| {
            // Word by word.
            let mut seen = Seen::default();
            let mut behind_set = false;
            let mut at = 0;
            while at < text.len() {
                let byte = text[at];
                if !letter(byte) {
                    if behind_set && !byte.is_ascii_whitespace() {
                        behind_set = false;
                        seen.insert(Seen::SET_SESSION);
                    }
                    at += 1;
                    continue;
                }
                let end = text[at..]
                    .iter()
                    .position(|b| !letter(*b))
                    .map_or(text.len(), |n| at + n);
                let word = text[at..end].to_ascii_lowercase();
                if word != b"local" && word != b"transaction" && behind_set {
                    seen.insert(Seen::SET_SESSION);
                }
                behind_set = word == b"set";
                for (name, what) in WORDS {
                    if name.as_bytes() == word {
                        seen.insert(what);
                    }
                }
                at = end;
            }
            if behind_set {
                seen.insert(Seen::SET_SESSION);
            }
            seen
        };
        for _ in 0..100 * scripts().count() {
            let mut text = Vec::new();
            for _ in 0..rng.below(10) {
                match rng.below(6) {
                    0 => text.push(rng.next() as u8),
                    1 => {
                        let piece: &[u8] = rng.one(&pieces);
                        let cut = rng.below(piece.len() + 1);
                        text.extend_from_slice(&piece[..cut]);
                    }
                    2 => {
                        let piece: &[u8] = rng.one(&pieces);
                        let cut = rng.below(piece.len() + 1);
                        text.extend_from_slice(&piece[cut..]);
                    }
                    3 => text.push(b' '),
                    _ => {
                        let piece: &[u8] = rng.one(&pieces);
                        text.extend_from_slice(piece);
                    }
                }
            }
            let (mut words, mut seen) = (Words::default(), Seen::default());
            let mut rest = &text[..];
            let whole = rng.below(3) == 0;
            while !rest.is_empty() {
                let count = if whole {
                    rest.len()
                } else {
                    rng.below(rest.len().min(12) + 1)
                };
                words.read(&rest[..count], &mut seen);
                rest = &rest[count..];
            }
            words.end(&mut seen);
            assert_eq!(seen, naive(&text), "{:?}", String::from_utf8_lossy(&text));
            assert_eq!(
                format!("{words:?}"),
                format!("{:?}", Words::default()),
                "{text:?}"
            );
        }
    }
}
