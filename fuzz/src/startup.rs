//! The first packets: decided by their own bytes alone, at once when they are whole, and written back to the same bytes.

use aether::limits;
use aether::wire::startup::{self, First, NEWEST_MINOR, NotStartup, PROTOCOL_3_0, Startup};
use aether::wire::{frame, frontend};

/// The property.
pub fn holds(data: &[u8]) {
    let whole = startup::read(data);
    // At most so many bytes are needed to decide; in between a packet is waited for.
    let decided = match data.first_chunk::<4>() {
        None => usize::MAX,
        Some(word) => {
            let length = u32::from_be_bytes(*word) as usize;
            if (8..=limits::STARTUP_PACKET_MAX).contains(&length) {
                length
            } else {
                4
            }
        }
    };
    for end in 0..=data.len().min(limits::STARTUP_PACKET_MAX) {
        if end < decided {
            assert_eq!(startup::read(&data[..end]), Ok(None));
        } else if end < decided + 2 || end == data.len() {
            assert_eq!(
                startup::read(&data[..end]),
                whole,
                "what follows does not matter"
            );
        }
    }
    match whole {
        Ok(None) => assert!(data.len() < decided),
        Ok(Some((first, used))) => {
            assert_eq!(used, decided);
            read(&first, &data[..used]);
        }
        Err(NotStartup::Silent) => {}
        Err(NotStartup::Refused(refusal)) => {
            assert!(
                ["08P01", "28000", "0A000"].contains(&refusal.code()),
                "{refusal:?}"
            );
        }
    }
}

fn read(first: &First<'_>, packet: &[u8]) {
    match first {
        First::Ssl | First::GssEnc => {}
        First::Cancel { pid, key } => {
            let mut out = Vec::new();
            frontend::cancel_request(&mut out, *pid, key);
            assert_eq!(out, packet);
        }
        First::Startup(startup) => {
            assert!(
                startup
                    .parameter(b"user")
                    .is_some_and(|user| !user.is_empty())
            );
            written_again(startup, packet);
            negotiated(startup);
        }
    }
}

fn written_again(startup: &Startup<'_>, packet: &[u8]) {
    let mut out = Vec::new();
    frame::packet(&mut out, |b| {
        b.extend_from_slice(&(PROTOCOL_3_0 + startup.minor).to_be_bytes());
        for (name, value) in &startup.parameters {
            frame::cstr(b, name);
            frame::cstr(b, value);
        }
        b.push(0);
    });
    if startup.extensions.is_empty() {
        assert_eq!(out, packet);
    }
    let again = startup::read(&out);
    let Ok(Some((First::Startup(again), used))) = again else {
        panic!("{again:?}")
    };
    assert_eq!(used, out.len());
    assert_eq!(
        (again.minor, again.parameters),
        (startup.minor, startup.parameters.clone())
    );
}

fn negotiated(startup: &Startup<'_>) {
    assert!(
        [0, NEWEST_MINOR].contains(&startup.agreed_minor())
            && startup.agreed_minor() <= startup.minor.max(1)
    );
    let mut out = Vec::new();
    startup.negotiate(&mut out);
    let all_given = startup.minor == startup.agreed_minor() && startup.extensions.is_empty();
    assert_eq!(out.is_empty(), all_given);
    if all_given {
        return;
    }
    let (tag, body, rest) = frame::whole(&out, usize::MAX)
        .ok()
        .flatten()
        .expect("a whole message");
    assert_eq!((tag, rest), (b'v', &[][..]));
    let (version, body) = frame::take_u32(body).expect("a version");
    let (count, mut body) = frame::take_u32(body).expect("a count");
    assert_eq!(version, PROTOCOL_3_0 + startup.agreed_minor());
    assert_eq!(count as usize, startup.extensions.len());
    for extension in &startup.extensions {
        let (name, rest) = frame::take_cstr(body).expect("a name");
        assert_eq!(name, *extension);
        body = rest;
    }
    assert!(body.is_empty());
}
